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

    order: of the predictor, 1 to 4; lower at the start, and 1 (DDIM) for a step of infinite h. diffusers also lowers it
    over the last steps (lower_order_final).

    Zhao, Bai, Rao, Zhou and Lu, 2023, "UniPC: a unified predictor-corrector framework for fast sampling of diffusion
    models", arXiv:2302.04867, algorithms 5 and 6 (data prediction), theorem 3.1.
    """
    check_times(times)
    if not 1 <= order <= 4:
        raise ValueError(f"'order' must be 1 to 4, got {order}")
    past: list[tuple[float, Any]] = []  # (lambda, data predicted) at the calls before, newest first, no lambda twice
    predicted: Any = None  # what the predictor added to DDIM's step
    for k, (t, s) in enumerate(pairwise(times)):
        p, here = predict(x, t), log_ratio(path(t))
        if k and corrector:
            # The same step again, knowing this call. DDIM's part is the same, so only what is beyond it is exchanged.
            corrected = _beyond_ddim(path, times[k - 1], t, [*past, (here, p.x)])
            x = x if corrected is None else x + corrected if predicted is None else x + corrected - predicted
        past = [(here, p.x), *(call for call in past if call[0] != here)][:order]
        predicted = _beyond_ddim(path, t, s, past)
        now, then = path(t), path(s)
        ratio = then.sigma / now.sigma
        x = ratio * x + (then.alpha - now.alpha * ratio) * p.x  # not p.eps: x has been corrected since the call
        if predicted is not None:
            x = x + predicted
    return x


def _beyond_ddim(path: Path, t: float, s: float, calls: Sequence[tuple[float, Any]]) -> Any | None:
    """alpha_s (1 - exp(-h)) sum over m of a_m (x(t_m) - x(t)) / r_m, for calls (lambda_m, x(t_m)), that at t first.

    None where there is no other call to use, or h is 0 or infinite.
    """
    now, then = path(t), path(s)
    h, (here, data) = log_ratio(then) - log_ratio(now), calls[0]
    others = [((lam - here) / h, other) for lam, other in calls[1:] if 0 < h < math.inf and math.isfinite(lam)]
    if not others:
        return None
    total = then.alpha - now.alpha * then.sigma / now.sigma
    weights = _weights(h, [r for r, _ in others])
    first, *rest = ((total * a / r) * (other - data) for a, (r, other) in zip(weights, others, strict=True))
    for term in rest:
        first = first + term
    return first


def _weights(h: float, ratios: Sequence[float]) -> list[float]:
    """The a_m that solve the order conditions. A single one is the paper's choice, 1/2, its limit for small h."""
    n = len(ratios)
    if n == 1:
        return [0.5]
    phi_1, wanted, factorial = math.expm1(-h), [], 1.0  # phi_1 is the paper's h phi_1(h), at -h
    phi = phi_1 / -h - 1.0
    for i in range(1, n + 1):
        wanted.append(phi * factorial / phi_1)
        factorial *= i + 1
        phi = phi / -h - 1.0 / factorial
    matrix = np.vander(np.array(ratios), n, increasing=True).T
    return np.linalg.solve(matrix, np.array(wanted)).tolist()
