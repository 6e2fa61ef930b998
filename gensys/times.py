"""Times: the law of t in training, and the grid of t in sampling.

A law draws t for each row of a batch from its `Noise`, within (0, 1): it is a fraction of the path's span. A grid is
a decreasing list of n + 1 fractions from 1 to 0, in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gensys.noise import Noise, Stream
from gensys.paths import Path

__all__ = ["LogitNormal", "TimeLaw", "Uniform", "on", "shifted", "uniform"]


class TimeLaw(Protocol):
    """A density on (0, 1); returns (B,) float32."""

    def __call__(self, noise: Noise) -> Tensor: ...


@dataclass(frozen=True)
class Uniform:
    """t ~ U(0, 1)."""

    def __call__(self, noise: Noise) -> Tensor:
        return noise.uniform((1,), Stream.TIME)[:, 0]


@dataclass(frozen=True)
class LogitNormal:
    """t = sigmoid(mean + std z), z ~ N(0, 1): more weight on the middle of the path.

    Esser et al., 2024, "Scaling rectified flow transformers", arXiv:2403.03206, section 3.1.
    """

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, noise: Noise) -> Tensor:
        return torch.sigmoid(self.mean + self.std * noise.normal((1,), Stream.TIME)[:, 0])


def uniform(n: int) -> list[float]:
    """1, (n - 1) / n, ..., 1 / n, 0."""
    if n < 1:
        raise ValueError(f"'n' must be at least 1 step, got {n}")
    return [(n - k) / n for k in range(n + 1)]


def shifted(times: list[float], shift: float) -> list[float]:
    """t -> shift t / (1 + (shift - 1) t): shift > 1 spends more steps near the noise.

    Esser et al., 2024, arXiv:2403.03206, equation 23 (their resolution shift is sqrt(m / n)).
    """
    if not shift > 0:
        raise ValueError(f"'shift' must be positive, got {shift}; 1 leaves the grid as it is")
    return [shift * t / (1 + (shift - 1) * t) for t in times]


def on(path: Path, fractions: list[float]) -> list[float]:
    """Fractions of a path's span -> its own clock."""
    low, high = path.span
    return [low + (high - low) * f for f in fractions]
