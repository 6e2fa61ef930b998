"""UniPC: a predictor and a corrector of one form, any order, on any Gaussian path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from gensys.paths import Path
from gensys.solvers.dpmpp import log_ratio
from gensys.solvers.solver import Draw, Predict, check_times

__all__ = ["unipc"]


def unipc(
    predict: Predict,
    path: Path,
    x: Any,
    times: Sequence[float],
    draw: Draw,
    order: int = 2,
    corrector: bool = True,
) -> Any:
    """Multistep in lambda = ln(alpha / sigma), one network call a step; the corrector raises the order by one for free.

        x_s = sigma_s / sigma_t x_t + alpha_s (1 - exp(-h)) (x(t) + sum over m of a_m (x(t_m) - x(t)) / r_m)

    r_m = (lambda_m - lambda_t) / h tells where an earlier call lies. The a_m solve the order conditions
    sum a_m r_m^(n-1) = n! phi_(n+1)(-h) / phi_1(-h) ("B2"). The corrector, once the network has been called at s, takes
    the step to s again with that call among the t_m, at r = 1; the call itself is not repeated.

    order: of the predictor, 1 to 4; fewer at the start, and 1 (DDIM) for a step of infinite h.

    Zhao, Bai, Rao, Zhou and Lu, 2023, "UniPC: a unified predictor-corrector framework for fast sampling of diffusion
    models", arXiv:2302.04867, algorithms 5 and 6 (data prediction), theorem 3.1.
    """
    check_times(times)
    if not 1 <= order <= 4:
        raise ValueError(f"'order' must be 1 to 4, got {order}")
    past: list[tuple[float, Any]] = []  # (lambda, data predicted) at the calls before, newest first
    predicted: Any = None  # what the predictor added to DDIM's step
    for k, (t, s) in enumerate(pairwise(times)):
        p, here = predict(x, t), log_ratio(path(t))
        if k and corrector and math.isfinite(here - past[0][0]):
            # The same step again, knowing this call: DDIM's part is the same, and x is the network's input by now.
            corrected = _beyond_ddim(path, times[k - 1], t, [*past, (here, p.x)])
            x = x + corrected if predicted is None else x + corrected - predicted
        past = [(here, p.x), *past][:order]
        predicted = _beyond_ddim(path, t, s, past) if math.isfinite(log_ratio(path(s)) - here) else None
        x = path(s).alpha * p.x + path(s).sigma * _noise(path, x, t, p.x)
        if predicted is not None:
            x = x + predicted
    return x


def _noise(path: Path, x: Any, t: float, data: Any) -> Any:
    """eps of x_t for this data: after a correction it is not the prediction's."""
    c = path(t)
    return (x - c.alpha * data) / c.sigma


def _beyond_ddim(path: Path, t: float, s: float, calls: Sequence[tuple[float, Any]]) -> Any | None:
    """total (sum over m of a_m (x(t_m) - x(t)) / r_m); None where only the call at t is known. calls: that one first."""
    (here, data), *others = calls
    others = [(lam, other) for lam, other in others if math.isfinite(lam)]
    if not others:
        return None
    now, then = path(t), path(s)
    total, h = then.alpha - now.alpha * then.sigma / now.sigma, log_ratio(then) - here
    ratios = [(lam - here) / h for lam, _ in others]
    extra: Any = None
    for a, r, (_, other) in zip(_weights(h, ratios), ratios, others, strict=True):
        term = (total * a / r) * (other - data)
        extra = term if extra is None else extra + term
    return extra


def _weights(h: float, ratios: Sequence[float]) -> list[float]:
    """The solution of the order conditions, for the data prediction and B(h) = exp(-h) - 1."""
    n = len(ratios)
    if n == 1:
        return [0.5]  # the paper's choice: one earlier call needs no system
    phi, wanted, factorial = math.expm1(-h) / -h - 1.0, [], 1.0
    for i in range(1, n + 1):
        wanted.append(phi * factorial / math.expm1(-h))
        factorial *= i + 1
        phi = phi / -h - 1.0 / factorial
    matrix = np.vander(np.array(ratios), n, increasing=True).T
    return np.linalg.solve(matrix, np.array(wanted)).tolist()
