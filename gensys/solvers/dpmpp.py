"""DPM-Solver++ on any Gaussian path: multistep, of order 1 to 3, for the ODE and for the SDE.

lambda = ln(alpha / sigma), h = lambda_s - lambda_t. The data prediction D is extrapolated from the calls before, as a
polynomial in lambda, whose integral over the step is in closed form, with c = 1 for the ODE and c = 2 for the SDE:

    x_s = sigma_s / sigma_t exp((1 - c) h) x_t + alpha_s (phi_1 D + phi_2 D' / c + phi_3 D'' / c^2)  [+ fresh noise]
    phi_1 = 1 - exp(-c h)      phi_2 = c h - phi_1      phi_3 = (c h)^2 / 2 - phi_2

The noise of the SDE has the variance sigma_s^2 (1 - exp(-2 h)). Order 1 is D alone: DDIM's step with eta = 0 or 1. So
is a step whose h is infinite, from pure noise or to sigma = 0.

Lu et al., 2022, "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models", arXiv:2211.01095,
algorithm 2, proposition 4.1 and appendix; here for any alpha and sigma.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gensys.paths import Coefs, Path
from gensys.solvers.solver import Draw, Predict, check_times, kept

__all__ = ["dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "dpmpp_3m_sde", "log_ratio"]


def log_ratio(c: Coefs) -> float:
    """lambda = ln(alpha / sigma), -inf at pure noise and inf at the data."""
    if c.sigma == 0:
        return math.inf
    return math.log(c.alpha / c.sigma) if c.alpha > 0 else -math.inf


def dpmpp_2m(predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw) -> Any:
    """Order 2, one network call a step: D' from this call and the one before it.

    D' enters as if D were constant over the step, at its value in the middle: phi_1 (D + h / 2 D').
    """
    return _dpmpp(predict, path, x, times, draw, order=2, sde=False)


def dpmpp_3m(predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw, curvature: float = 1.0) -> Any:
    """Order 3, one network call a step: D' and D'' from the two calls before, as far as there are any.

    A D that is quadratic in lambda is integrated exactly from the third step on; the first two are of order 1 and 2.

    curvature: the weight of D''. The authors' code, and diffusers after it, take the second divided difference for D'',
    which is half of it: that is curvature = 0.5.
    """
    return _dpmpp(predict, path, x, times, draw, order=3, sde=False, curvature=curvature)


def dpmpp_2m_sde(predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw) -> Any:
    """The reverse SDE, with D as in `dpmpp_2m`. Song et al.'s SDE: its marginals are those of the path."""
    return _dpmpp(predict, path, x, times, draw, order=2, sde=True)


def dpmpp_3m_sde(
    predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw, curvature: float = 1.0
) -> Any:
    """The reverse SDE, with D' and D'' as in `dpmpp_3m`."""
    return _dpmpp(predict, path, x, times, draw, order=3, sde=True, curvature=curvature)


def _dpmpp(
    predict: Predict,
    path: Path,
    x: Any,
    times: Sequence[float],
    draw: Draw,
    *,
    order: int,
    sde: bool,
    curvature: float = 1.0,
) -> Any:
    check_times(times)
    c = 2 if sde else 1
    past: list[tuple[Any, float]] = []  # the data predicted before, newest first, and the step h that came of it
    for k, (t, s) in enumerate(pairwise(times)):
        p, now, then = predict(x, t), path(t), path(s)
        h, fall = log_ratio(then) - log_ratio(now), kept(now, then)  # fall = exp(-h), also where h is infinite
        ratio = then.sigma / now.sigma * fall ** (c - 1)
        x = ratio * x + (then.alpha - now.alpha * ratio) * p.x  # phi_1 D; alpha_s exp(-c h) = alpha_t ratio
        if past and math.isfinite(h):
            x = x + then.alpha * _extrapolated(p.x, past, c, h, curvature)
        if sde and then.sigma > 0:
            x = x + (then.sigma * math.sqrt(1.0 - fall**2)) * draw(k)
        if h > 0 and math.isfinite(h):  # over no step, or an infinite one, there is no slope to see
            past = [(p.x, h), *past][: order - 1]
    return x


def _extrapolated(data: Any, past: Sequence[tuple[Any, float]], c: int, h: float, curvature: float) -> Any:
    """What D' and, given two earlier calls, D'' add to the integral of D over the step, per alpha_s."""
    (x1, h1), phi_1 = past[0], -math.expm1(-c * h)
    slope = (1.0 / h1) * (data - x1)
    if len(past) == 1:
        return (phi_1 * 0.5 * h) * slope
    x2, h2 = past[1]
    bend = (1.0 / (h1 + h2)) * (slope - (1.0 / h2) * (x1 - x2))  # the divided difference: D'' / 2
    phi_2 = c * h - phi_1
    phi_3 = 0.5 * (c * h) ** 2 - phi_2
    return (phi_2 / c) * (slope + h1 * bend) + (2.0 * curvature * phi_3 / c**2) * bend
