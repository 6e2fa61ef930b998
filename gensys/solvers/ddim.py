"""DDIM on any Gaussian path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gensys.paths import Path
from gensys.solvers.solver import Draw, Predict, check_times, kept

__all__ = ["ddim"]


def ddim(predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw, eta: float = 0.0) -> Any:
    """x_s = alpha_s x + sqrt(sigma_s^2 - v) eps + sqrt(v) z.

    v = eta^2 sigma_s^2 (1 - (alpha_t sigma_s / alpha_s sigma_t)^2) is the variance of the fresh noise z.

    eta = 0 is deterministic, exact wherever the prediction is constant along the path; eta = 1, the largest, has the
    variance of the ancestral sampler of DDPM. In x / alpha over sigma / alpha, where a step of `eta` = 0 is Euler's,
    these are the samplers that are known as Euler and Euler ancestral.

    Song, Meng and Ermon, 2020, "Denoising diffusion implicit models", arXiv:2010.02502, equations 12 and 16, here for
    any alpha and sigma (theirs: alpha^2 + sigma^2 = 1).
    """
    check_times(times)
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"'eta' must lie in [0, 1], got {eta}")
    for k, (t, s) in enumerate(pairwise(times)):
        p, now, then = predict(x, t), path(t), path(s)
        fresh = eta * then.sigma * math.sqrt(1.0 - kept(now, then) ** 2)
        x = then.alpha * p.x + math.sqrt(then.sigma**2 - fresh**2) * p.eps
        if fresh:
            x = x + fresh * draw(k)
    return x
