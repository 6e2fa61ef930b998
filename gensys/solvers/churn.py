"""EDM's stochastic sampler: add some noise, then take a Heun step that removes more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gensys.paths import Path, at_ratio
from gensys.solvers.euler import drift
from gensys.solvers.solver import Draw, Predict, check_times

__all__ = ["churn"]


def churn(
    predict: Predict,
    path: Path,
    x: Any,
    times: Sequence[float],
    draw: Draw,
    amount: float = 40.0,
    low: float = 0.05,
    high: float = 50.0,
    inflation: float = 1.003,
) -> Any:
    """At noise level r = sigma / alpha in [low, high], first up to (1 + gamma) r, gamma = min(amount / steps, sqrt(2) - 1).

    amount: S_churn; 0 is `heun`. low, high: S_tmin and S_tmax. inflation: S_noise, the standard deviation of what is
    added. The defaults are those of the paper for ImageNet-64. On a path of bounded noise, the level stays within it.

    Karras et al., 2022, "Elucidating the design space of diffusion-based generative models", arXiv:2206.00364,
    algorithm 2, here on any path.
    """
    check_times(times)
    gamma = min(amount / (len(times) - 1), math.sqrt(2.0) - 1.0)
    for k, (t, s) in enumerate(pairwise(times)):
        now = path(t)
        ratio = now.sigma / now.alpha if now.alpha > 0 else math.inf
        if gamma > 0 and low <= ratio <= high:
            t = min(at_ratio(path, (1.0 + gamma) * ratio), path.span[1])
            up = path(t)
            more = max(0.0, (up.sigma / up.alpha) ** 2 - ratio**2) if up.alpha > 0 else 0.0
            x = (up.alpha / now.alpha) * x + (up.alpha * math.sqrt(more) * inflation) * draw(k)
        h = s - t
        d = drift(predict, path, x, t)
        ahead = x + h * d
        if path(s).sigma > 0:
            ahead = x + (0.5 * h) * (d + drift(predict, path, ahead, s))
        x = ahead
    return x
