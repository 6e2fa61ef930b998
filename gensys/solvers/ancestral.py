"""The ancestral sampler of DDPM, on any Gaussian path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from gensys.paths import Path
from gensys.solvers.solver import Draw, Predict, check_times, kept

__all__ = ["ancestral"]


def ancestral(
    predict: Predict,
    path: Path,
    x: Any,
    times: Sequence[float],
    draw: Draw,
    variance: Literal["small", "large"] = "small",
) -> Any:
    """x_s ~ q(x_s | x_t, x) at the predicted x: x_s = alpha_s x + k sigma_s eps + sqrt(v) z, k = `kept`.

    variance: "small", that of the posterior, v = sigma_s^2 (1 - k^2), right for data at a point; "large", that of the
    step forward, v = beta = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2, right for data of unit variance. The last
    step, to sigma = 0, takes the mean.

    Ho, Jain and Abbeel, 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239, equations 6 and 7 and
    section 3.2. With "small" it is `ddim` with eta = 1.
    """
    check_times(times)
    if variance not in ("small", "large"):
        raise ValueError(f"'variance' must be 'small' or 'large', got {variance!r}")
    for k, (t, s) in enumerate(pairwise(times)):
        p, now, then = predict(x, t), path(t), path(s)
        ratio = kept(now, then)
        x = then.alpha * p.x + (ratio * then.sigma) * p.eps
        if then.sigma > 0:
            scale = then.sigma if variance == "small" else now.sigma  # beta = sigma_t^2 (1 - k^2)
            x = x + (scale * math.sqrt(1.0 - ratio**2)) * draw(k)
    return x
