"""What a solver is: a plain function that walks a grid from noise to data.

    Solver = (predict, path, x, times, draw) -> x_0

predict(x_t, t) -> Prediction(x, eps)     the model's view of x_t
path                                      alpha(t), sigma(t) and their derivatives
x: (B, *S)                                the state at times[0]
times                                     decreasing floats on the path's clock; the last one is the data end
draw(k) -> (B, *S)                        fresh standard normals of step k, for stochastic solvers

A solver uses only +, -, and products with floats on its tensors. So the same function also runs on linear symbols
(trace.py), which turns it into a table that the stepper executes in one fused pass per network call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

from gensys.paths import Path
from gensys.targets import Prediction

__all__ = ["Draw", "Predict", "Solver", "check_times"]

Predict = Callable[[Any, float], Prediction]
Draw = Callable[[int], Any]


class Solver(Protocol):
    def __call__(self, predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw) -> Any: ...


def check_times(times: Sequence[float]) -> None:
    """Refuse a grid that no solver can walk."""
    if len(times) < 2 or any(s >= t for t, s in pairwise(times)):
        shown = ", ".join(f"{t:g}" for t in times[:6])
        raise ValueError(
            f"'times' must hold two or more decreasing values, noise first; got [{shown}]; try times[::-1]"
        )
