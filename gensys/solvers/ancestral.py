"""The ancestral sampler of DDPM, on any Gaussian path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from gensys.paths import Path
from gensys.solvers.solver import Draw, Predict, check_times

__all__ = ["ancestral"]


def ancestral(
    predict: Predict,
    path: Path,
    x: Any,
    times: Sequence[float],
    draw: Draw,
    variance: Literal["small", "large"] = "small",
) -> Any:
    """x_s ~ q(x_s | x_t, x) at the predicted x: mean alpha_s x + kept sigma_s eps, kept = alpha_t sigma_s / (alpha_s sigma_t).

    variance: "small", that of the posterior, sigma_s^2 (1 - kept^2), right for data at a point; "large", that of the
    step forward, beta = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2, right for data of unit variance. The last step, to
    sigma = 0, takes the mean.

    Ho, Jain and Abbeel, 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239, equations 6 and 7 and
    section 3.2. With "small" it is `ddim` with eta = 1.
    """
    check_times(times)
    for k, (t, s) in enumerate(pairwise(times)):
        p, now, then = predict(x, t), path(t), path(s)
        kept = now.alpha * then.sigma / (then.alpha * now.sigma)
        x = then.alpha * p.x + (kept * then.sigma) * p.eps
        if then.sigma > 0:
            small = then.sigma**2 * (1.0 - kept**2)
            large = now.sigma**2 - (now.alpha / then.alpha * then.sigma) ** 2
            x = x + math.sqrt(small if variance == "small" else large) * draw(k)
    return x
