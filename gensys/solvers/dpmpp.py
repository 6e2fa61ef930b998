"""DPM-Solver++ on any Gaussian path: multistep, of order 1 to 3, for the ODE and for the SDE.

lambda = ln(alpha / sigma), h = lambda_s - lambda_t. The data prediction D is extrapolated from the calls before, as a
polynomial in lambda; its integral over the step is in closed form:

    ODE   x_s = sigma_s / sigma_t x_t + alpha_s (phi_1 D + phi_2 D' + phi_3 D''),     phi of h
    SDE   x_s = sigma_s / sigma_t exp(-h) x_t + alpha_s phi_1 (D + D' / 2) + sigma_s sqrt(phi_1) z,     phi of 2 h

with phi_1(h) = 1 - exp(-h). A step whose h is infinite, from pure noise or to sigma = 0, takes D alone, which is DDIM's.

Lu et al., 2022, "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models", arXiv:2211.01095,
algorithm 2 and appendix; here for any alpha and sigma.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gensys.paths import Coefs, Path
from gensys.solvers.solver import Draw, Predict, check_times

__all__ = ["dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "log_ratio"]


def log_ratio(c: Coefs) -> float:
    """lambda = ln(alpha / sigma), -inf at pure noise and inf at the data."""
    if c.sigma == 0:
        return math.inf
    return math.log(c.alpha / c.sigma) if c.alpha > 0 else -math.inf


def dpmpp_2m(predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw) -> Any:
    """x_s = sigma_s / sigma_t x_t + alpha_s (1 - exp(-h)) D.

    D = x(t) + h / (2 h') (x(t) - x(t')) is the prediction of the data in the middle of the step, extrapolated from this
    call and the one before it, at t', whose step was h'. Order 2, one network call a step.

    The first step, and a step to sigma = 0, take D = x(t), which is DDIM: the former has nothing to extrapolate from,
    the latter would extrapolate over an infinite h. After a start at alpha = 0, h' is infinite and D = x(t) once more.
    """
    check_times(times)
    before, h_before = None, math.inf
    for t, s in pairwise(times):
        p, now, then = predict(x, t), path(t), path(s)
        h, middle = log_ratio(then) - log_ratio(now), p.x
        if before is not None and then.sigma > 0:
            middle = middle + (h / (2.0 * h_before)) * (p.x - before)
        kept = then.sigma / now.sigma  # of x_t; alpha_s exp(-h) = alpha_t kept holds where h is infinite, too
        x = kept * x + (then.alpha - now.alpha * kept) * middle
        before, h_before = p.x, h
    return x


def dpmpp_3m(predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw) -> Any:
    """Order 3, one network call a step: D' and D'' from the two calls before, as far as there are any.

    With u = x(t) - x(t') over h' and w = x(t') - x(t'') over h'', D'' = 2 (u - w) / (h' + h''),
    D' = u + h' / (h' + h'') (u - w), and phi_2 = h - 1 + exp(-h), phi_3 = h^2 / 2 - phi_2.
    """
    check_times(times)
    past: list[tuple[Any, float]] = []  # the data predicted before, newest first, and the step h that came of it
    for t, s in pairwise(times):
        p, now, then = predict(x, t), path(t), path(s)
        h = log_ratio(then) - log_ratio(now)
        kept = then.sigma / now.sigma
        ahead = kept * x + (then.alpha - now.alpha * kept) * p.x
        # an infinite step before this one leaves no slope to see
        if past and math.isfinite(h) and math.isfinite(past[0][1]):
            (x1, h1), phi_1 = past[0], -math.expm1(-h)
            phi_2 = h - phi_1
            slope = (p.x - x1) / h1
            if len(past) > 1 and math.isfinite(past[1][1]):
                x2, h2 = past[1]
                bend = slope - (x1 - x2) / h2
                slope = slope + (h1 / (h1 + h2)) * bend
                ahead = ahead + (then.alpha * 2.0 * (0.5 * h * h - phi_2) / (h1 + h2)) * bend
                ahead = ahead + (then.alpha * phi_2) * slope
            else:
                ahead = ahead + (then.alpha * phi_1 * 0.5 * h) * slope  # as dpmpp_2m
        past = [(p.x, h), *past][:2]
        x = ahead
    return x


def dpmpp_2m_sde(predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw) -> Any:
    """The reverse SDE: fresh noise of variance sigma_s^2 (1 - exp(-2 h)) a step; D as in `dpmpp_2m`."""
    check_times(times)
    before, h_before = None, math.inf
    for k, (t, s) in enumerate(pairwise(times)):
        p, now, then = predict(x, t), path(t), path(s)
        h, middle = log_ratio(then) - log_ratio(now), p.x
        if before is not None and then.sigma > 0:
            middle = middle + (h / (2.0 * h_before)) * (p.x - before)
        fall = now.alpha * then.sigma / (then.alpha * now.sigma)  # exp(-h), also where h is infinite
        x = (then.sigma / now.sigma * fall) * x + (then.alpha * (1.0 - fall**2)) * middle
        if then.sigma > 0:
            x = x + (then.sigma * math.sqrt(1.0 - fall**2)) * draw(k)
        before, h_before = p.x, h
    return x
