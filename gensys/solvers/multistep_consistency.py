"""Sampling from a consistency model: jump to the data, add noise again, jump again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gensys.paths import Path
from gensys.solvers.solver import Draw, Predict, check_times

__all__ = ["multistep_consistency"]


def multistep_consistency(predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw) -> Any:
    """x_s = alpha_s x(t) + sigma_s z: the predicted data with all noise fresh. One step is x(t).

    For a model whose prediction at any t is the end of its trajectory. Song, Dhariwal, Chen and Sutskever, 2023,
    "Consistency models", arXiv:2303.01469, algorithm 1; Luo et al., 2023, "Latent consistency models",
    arXiv:2310.04378, algorithm 3.
    """
    check_times(times)
    for k, (t, s) in enumerate(pairwise(times)):
        then = path(s)
        x = then.alpha * predict(x, t).x
        if then.sigma > 0:
            x = x + then.sigma * draw(k)
    return x
