"""Pseudo linear multistep: Adams-Bashforth on the predicted noise, carried by DDIM's step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gensys.paths import Coefs, Path
from gensys.solvers.solver import Draw, Predict, check_times

__all__ = ["plms"]

# Hairer, Norsett and Wanner, 1993, "Solving ordinary differential equations I", table III.1.1: newest first
_WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def plms(predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw, order: int = 4) -> Any:
    """DDIM's step with eps', the Adams-Bashforth extrapolation of the noise, in both its terms.

    x_s = alpha_s x' + sigma_s eps', with x' = (x_t - sigma_t eps') / alpha_t.

    order: 1 to 4, as soon as so many predictions are there; one network call a step, two in the first, which is taken
    by the mean of the noise at both its ends. A step from alpha = 0, and a single step to sigma = 0, is DDIM's. The
    weights are those of equal steps, so it is second-order accurate, with a small constant.

    Liu, Ren, Lin and Zhao, 2022, "Pseudo numerical methods for diffusion models on manifolds", arXiv:2202.09778,
    equations 9 to 13, with the start that latent diffusion's code and diffusers (skip_prk_steps) make.
    """
    check_times(times)
    if not 1 <= order <= len(_WEIGHTS):
        raise ValueError(f"'order' must be 1 to {len(_WEIGHTS)}, got {order}")
    past: list[Any] = []  # the predicted noise, newest first
    for t, s in pairwise(times):
        p, now, then = predict(x, t), path(t), path(s)
        past = [p.eps, *past][:order]
        ahead = then.alpha * p.x + then.sigma * p.eps
        if len(past) > 1:
            ahead = _carried(x, now, then, _sum(past))
        elif order > 1 and now.alpha > 0 and then.sigma > 0:
            ahead = _carried(x, now, then, 0.5 * (p.eps + predict(ahead, s).eps))
        x = ahead
    return x


def _sum(past: Sequence[Any]) -> Any:
    first, *others = (w * eps for w, eps in zip(_WEIGHTS[len(past) - 1], past, strict=True))
    for other in others:
        first = first + other
    return first


def _carried(x: Any, now: Coefs, then: Coefs, eps: Any) -> Any:
    """DDIM's step with the data that go with this noise."""
    return (then.alpha / now.alpha) * x + (then.sigma - then.alpha / now.alpha * now.sigma) * eps
