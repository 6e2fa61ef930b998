"""Pseudo linear multistep: Adams-Bashforth on the predicted noise, carried by DDIM's step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gensys.paths import Path
from gensys.solvers.solver import Draw, Predict, check_times
from gensys.targets import Prediction

__all__ = ["plms"]

# Hairer, Norsett and Wanner, 1993, "Solving ordinary differential equations I", table III.1.1: newest first
_WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def plms(predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw, order: int = 4) -> Any:
    """x_s = alpha_s x' + sigma_s eps', eps' the Adams-Bashforth extrapolation of the noise, x' = (x_t - sigma_t eps') / alpha_t.

    order: 1 to 4, as soon as so many predictions are there; one network call a step, two in the first, which is taken
    by the mean of the noise at both its ends. A start at alpha = 0 takes DDIM's step instead. The weights are those of
    equal steps. Second-order accurate.

    Liu, Ren, Lin and Zhao, 2022, "Pseudo numerical methods for diffusion models on manifolds", arXiv:2202.09778,
    equations 9 to 13, with the start of their code.
    """
    check_times(times)
    if not 1 <= order <= len(_WEIGHTS):
        raise ValueError(f"'order' must be 1 to {len(_WEIGHTS)}, got {order}")
    past: list[Any] = []  # the predicted noise, newest first
    for t, s in pairwise(times):
        p = predict(x, t)
        past = [p.eps, *past][:order]
        if len(past) > 1:
            x = _carried(path, x, t, s, _sum(past))
            continue
        ahead = path(s).alpha * p.x + path(s).sigma * p.eps
        if order > 1 and path(t).alpha > 0 and path(s).sigma > 0:
            ahead = _carried(path, x, t, s, 0.5 * (p.eps + predict(ahead, s).eps))
        x = ahead
    return x


def _sum(past: Sequence[Any]) -> Any:
    first, *others = (w * eps for w, eps in zip(_WEIGHTS[len(past) - 1], past, strict=True))
    for other in others:
        first = first + other
    return first


def _carried(path: Path, x: Any, t: float, s: float, eps: Any) -> Any:
    now, then = path(t), path(s)
    p = Prediction((x - now.sigma * eps) / now.alpha, eps)
    return then.alpha * p.x + then.sigma * p.eps
