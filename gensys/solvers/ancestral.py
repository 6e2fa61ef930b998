"""The ancestral sampler of DDPM, on any Gaussian path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from gensys.paths import Path
from gensys.solvers.solver import Draw, Predict, check_times, kept, tensors_only

__all__ = ["ancestral"]


def ancestral(
    predict: Predict,
    path: Path,
    x: Any,
    times: Sequence[float],
    draw: Draw,
    variance: Literal["small", "large", "learned"] = "small",
) -> Any:
    """x_s ~ q(x_s | x_t, x) at the predicted x: x_s = alpha_s x + k sigma_s eps + sqrt(v) z, k = `kept`.

    variance: "small", that of the posterior, v = sigma_s^2 (1 - k^2), right for data at a point; "large", that of the
    step forward, v = beta = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2, right for data of unit variance; "learned",
    between them, ln v = (1 - mix) ln small + mix ln large, with the `mix` of a network that learns it. Because
    large / small = (sigma_t / sigma_s)^2, all three are v = small (sigma_t / sigma_s)^(2 mix), which no table holds
    when mix is a tensor. The last step, to sigma = 0, takes the mean.

    On fewer times than the network was trained on, k and both bounds are those of the times that are left: the betas of
    a respaced schedule.

    Ho, Jain and Abbeel, 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239, equations 6 and 7 and
    section 3.2. With "small" it is `ddim` with eta = 1. Nichol and Dhariwal, 2021, "Improved denoising diffusion
    probabilistic models", arXiv:2102.09672, equations 15 and 19.
    """
    check_times(times)
    if variance not in ("small", "large", "learned"):
        raise ValueError(f"'variance' must be 'small', 'large' or 'learned', got {variance!r}")
    if variance == "learned":
        tensors_only("ancestral", "with a learned variance scales its noise by what the network returns", x)
    for k, (t, s) in enumerate(pairwise(times)):
        p, now, then = predict(x, t), path(t), path(s)
        ratio = kept(now, then)
        x = then.alpha * p.x + (ratio * then.sigma) * p.eps
        if then.sigma > 0:
            mix = {"small": 0.0, "large": 1.0, "learned": p.mix}[variance]
            if mix is None:
                raise ValueError("'variance' is 'learned', and the network learns none: use 'small' or 'large'")
            x = x + ((then.sigma * math.sqrt(1.0 - ratio**2)) * (now.sigma / then.sigma) ** mix) * draw(k)
    return x
