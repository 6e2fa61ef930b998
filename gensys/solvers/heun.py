"""Heun's method on the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gensys.paths import Path
from gensys.solvers.euler import drift
from gensys.solvers.solver import Draw, Predict, check_times

__all__ = ["heun"]


def heun(predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw) -> Any:
    """The trapezoidal rule with an Euler predictor. Order 2, two network calls a step, one in the last step.

    The last step is Euler's: at the data end sigma is 0, and targets such as noise or score have no inverse there.

    Karras et al., 2022, "Elucidating the design space of diffusion-based generative models", arXiv:2206.00364,
    algorithm 1, here on any path.
    """
    check_times(times)
    for t, s in pairwise(times):
        h = s - t
        d = drift(predict, path, x, t)
        ahead = x + h * d
        if path(s).sigma > 0:
            ahead = x + (0.5 * h) * (d + drift(predict, path, ahead, s))
        x = ahead
    return x
