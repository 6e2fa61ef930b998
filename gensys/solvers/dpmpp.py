"""DPM-Solver++ on any Gaussian path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gensys.paths import Coefs, Path
from gensys.solvers.solver import Draw, Predict, check_times

__all__ = ["dpmpp_2m"]


def _log_snr(c: Coefs) -> float:
    """lambda = ln(alpha / sigma), -inf at pure noise and inf at the data."""
    if c.sigma == 0:
        return math.inf
    return math.log(c.alpha / c.sigma) if c.alpha > 0 else -math.inf


def dpmpp_2m(predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw) -> Any:
    """x_s = sigma_s / sigma_t x_t + alpha_s (1 - exp(-h)) D,    h = lambda_s - lambda_t,    lambda = ln(alpha / sigma)

    D = x(t) + h / (2 h') (x(t) - x(t')) is the prediction of the data in the middle of the step, extrapolated from this
    call and the one before it, at t', whose step was h'. Order 2, one network call a step.

    The first step, and a step to sigma = 0, take D = x(t), which is DDIM: the former has nothing to extrapolate from,
    the latter would extrapolate over an infinite h. After a start at alpha = 0, h' is infinite and D = x(t) once more.

    Lu et al., 2022, "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models",
    arXiv:2211.01095, algorithm 2 (multistep, data prediction), here for any alpha and sigma.
    """
    check_times(times)
    before, h_before = None, math.inf
    for t, s in pairwise(times):
        p, now, then = predict(x, t), path(t), path(s)
        h, middle = _log_snr(then) - _log_snr(now), p.x
        if before is not None and then.sigma > 0:
            middle = middle + (h / (2.0 * h_before)) * (p.x - before)
        kept = then.sigma / now.sigma  # of x_t; alpha_s exp(-h) = alpha_t kept holds where h is infinite, too
        x = kept * x + (then.alpha - now.alpha * kept) * middle
        before, h_before = p.x, h
    return x
