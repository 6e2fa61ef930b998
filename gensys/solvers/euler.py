"""Euler's method on the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gensys.paths import Path, Scalar
from gensys.solvers.solver import Draw, Predict, check_times

__all__ = ["drift", "euler"]


def drift(predict: Predict, path: Path, x: Any, t: Scalar) -> Any:
    """dx/dt = alpha' E[x | x_t] + sigma' E[eps | x_t]: the velocity of the probability flow.

    Lipman et al., 2022, "Flow matching for generative modeling", arXiv:2210.02747, equation 9; for the same flow as an
    SDE's ODE see Song et al., 2020, arXiv:2011.13456, equation 13.
    """
    p, c = predict(x, t), path(t)
    return c.d_alpha * p.x + c.d_sigma * p.eps


def euler(predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw) -> Any:
    """x_s = x_t + (s - t) dx/dt. Order 1, one network call a step."""
    check_times(times)
    for t, s in pairwise(times):
        x = x + (s - t) * drift(predict, path, x, t)
    return x
