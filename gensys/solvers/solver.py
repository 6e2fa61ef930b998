"""What a solver is: a plain function that walks a grid from noise to data.

    Solver = (predict, path, x, times, draw) -> x_0

predict(x_t, t) -> Prediction(x, eps)     the model's view of x_t; t: a float, or (B, 1, ..., 1) where rows differ
path                                      alpha(t), sigma(t) and their derivatives
x: (B, *S)                                the state at times[0]
times                                     decreasing floats on the path's clock; the last one is the data end
draw(k) -> (B, *S)                        fresh standard normals of step k, for stochastic solvers

Most solvers use only +, -, and products with floats on their tensors. So the same function also runs on linear symbols
(trace.py), which turns it into a table that the stepper executes in one fused pass per network call. Those that do
more, an adaptive step or a norm, raise `NotLinear` when they are handed symbols, and run on tensors only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from gensys.paths import Coefs, Path
from gensys.targets import Prediction

__all__ = ["Draw", "NotLinear", "Predict", "Solver", "check_times", "draws", "kept", "named", "tensors_only"]

Predict = Callable[[Any, Any], Prediction]
Draw = Callable[[int], Any]


class Solver(Protocol):
    def __call__(self, predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw) -> Any: ...


class NotLinear(TypeError):
    """A solver that was asked for its table has none: it is not linear in its tensors."""


def tensors_only(solver: str, reason: str, x: Any) -> None:
    """Raise NotLinear unless x is a tensor."""
    if not isinstance(x, Tensor):
        raise NotLinear(f"{solver} {reason}: it is not linear, it has no table and runs on tensors")


def draws(solver: Solver, path: Path, times: Sequence[float]) -> bool:
    """Whether a solver adds noise on this grid. It is asked to walk it once, with a single number for x."""
    drawn: list[int] = []
    one = torch.ones(1, 1, dtype=torch.float64)

    def draw(k: int) -> Tensor:
        drawn.append(k)
        return one

    solver(lambda x, t: Prediction(one, one, one), path, one, times, draw)
    return bool(drawn)


def named(solver: Solver) -> str:
    """What a person calls it."""
    function = solver.func if isinstance(solver, partial) else solver
    return getattr(function, "__name__", repr(function))


def check_times(times: Sequence[float]) -> None:
    """Refuse a grid that no solver can walk."""
    if len(times) < 2 or any(s >= t for t, s in pairwise(times)):
        shown = ", ".join(f"{t:g}" for t in times[:6])
        raise ValueError(
            f"'times' must hold two or more decreasing values, noise first; got [{shown}]; try times[::-1]"
        )


def kept(now: Coefs, then: Coefs) -> float:
    """The noise-to-signal ratio of x_s over that of x_t, (sigma_s / alpha_s) / (sigma_t / alpha_t), in [0, 1].

    It is how much of the noise of x_s is still that of x_t where x_s ~ q(x_s | x_t, x); 0 from pure noise on.
    """
    return min(1.0, now.alpha * then.sigma / (then.alpha * now.sigma))  # rounding must not make 1 - kept^2 negative
