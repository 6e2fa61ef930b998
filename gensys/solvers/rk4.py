"""The classical Runge-Kutta method of order 4 on the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gensys.paths import Path
from gensys.solvers.euler import drift
from gensys.solvers.solver import Draw, Predict, check_times

__all__ = ["rk4"]


def rk4(predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw) -> Any:
    """Simpson's weights 1/6, 2/6, 2/6, 1/6. Order 4, four network calls a step, one in the last step.

    The last step, to sigma = 0, is Euler's, as in `heun`. Kutta, 1901; Hairer, Norsett and Wanner, 1993, "Solving
    ordinary differential equations I", table II.1.2.
    """
    check_times(times)
    for t, s in pairwise(times):
        h, middle = s - t, 0.5 * (t + s)
        a = drift(predict, path, x, t)
        if path(s).sigma > 0:
            b = drift(predict, path, x + (0.5 * h) * a, middle)
            c = drift(predict, path, x + (0.5 * h) * b, middle)
            d = drift(predict, path, x + h * c, s)
            x = x + (h / 6.0) * (a + 2.0 * b + 2.0 * c + d)
        else:
            x = x + h * a
    return x
