"""DDIM on any Gaussian path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gensys.paths import Path
from gensys.solvers.solver import Draw, Predict, check_times

__all__ = ["ddim"]


def ddim(predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw, eta: float = 0.0) -> Any:
    """x_s = alpha_s x + sqrt(sigma_s^2 - v) eps + sqrt(v) z.

    v = eta^2 sigma_s^2 (1 - (alpha_t sigma_s / alpha_s sigma_t)^2) is the variance of the fresh noise z.

    eta = 0 is deterministic, exact wherever the prediction is constant along the path; eta = 1 has the variance of the
    ancestral sampler of DDPM.

    Song, Meng and Ermon, 2020, "Denoising diffusion implicit models", arXiv:2010.02502, equations 12 and 16, here for
    any alpha and sigma (theirs: alpha^2 + sigma^2 = 1).
    """
    check_times(times)
    for k, (t, s) in enumerate(pairwise(times)):
        p, now, then = predict(x, t), path(t), path(s)
        fresh = 0.0
        if eta and then.sigma > 0:
            kept = now.alpha * then.sigma / (then.alpha * now.sigma)  # how much of x_s's noise is still in x_t
            fresh = eta * then.sigma * math.sqrt(1.0 - kept**2)
        x = then.alpha * p.x + math.sqrt(then.sigma**2 - fresh**2) * p.eps
        if fresh:
            x = x + fresh * draw(k)
    return x
