"""Sampling from a consistency model: jump to the data, add noise again, jump again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gensys.paths import Path
from gensys.solvers.solver import Draw, Predict, check_times

__all__ = ["multistep_consistency"]


def multistep_consistency(
    predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw, end: float = 0.0
) -> Any:
    """x_s = alpha_s x(t) + sigma_s z: the predicted data with all noise fresh. One step is x(t).

    For a model whose prediction at any t is the end of its trajectory. end: the time of that end, where it returns what
    it is given (the paper's epsilon). What it predicts has the noise of that time still in it, so less is added:
    x_s = alpha_s / alpha_e x(t) + sqrt(sigma_s^2 - (alpha_s sigma_e / alpha_e)^2) z. The last prediction is the result.

    Song, Dhariwal, Chen and Sutskever, 2023, "Consistency models", arXiv:2303.01469, algorithm 1; Luo et al., 2023,
    "Latent consistency models", arXiv:2310.04378, algorithm 3 (end = 0).
    """
    check_times(times)
    if not path.span[0] <= end < times[-2]:
        raise ValueError(
            f"'end', where the jumps land, must lie in [{path.span[0]:g}, {times[-2]:g}), below the time of the last "
            f"jump, got {end:g}: a grid that keeps above it is grid=jumps; of others take fewer 'steps'"
        )
    rest = path(end)
    for k, (t, s) in enumerate(pairwise(times)):
        x, then = predict(x, t).x, path(s)
        if s > end:
            scale = then.alpha / rest.alpha
            x = scale * x + math.sqrt(then.sigma**2 - (scale * rest.sigma) ** 2) * draw(k)
    return x
