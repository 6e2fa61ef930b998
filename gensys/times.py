"""Times: the law of t in training, and the grid of t in sampling.

A law draws t for each row of a batch from its `Noise`, within [0, 1]: it is a fraction of the path's span. Functions
such as exp are taken in float64 and rounded: in float32 their last bit depends on a row's place in the batch. A grid is
a decreasing list of n + 1 fractions that ends at 0, in double precision; it starts at 1 unless it says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from gensys.noise import Noise, Stream
from gensys.paths import Path, Scalar, at_ratio

__all__ = [
    "LogNormal",
    "LogitNormal",
    "Mode",
    "Shifted",
    "Steps",
    "TimeLaw",
    "Uniform",
    "cosine",
    "jumps",
    "karras",
    "leading",
    "linspace",
    "log_snr",
    "on",
    "quadratic",
    "shifted",
    "trailing",
    "uniform",
]


class TimeLaw(Protocol):
    """A density on [0, 1]; returns (B,) float32."""

    def __call__(self, noise: Noise) -> Tensor: ...


def _uniform(noise: Noise) -> Tensor:
    """(B,) float32."""
    return noise.uniform((1,), Stream.TIME)[:, 0]


def _normal(noise: Noise) -> Tensor:
    """(B,) float64."""
    return noise.normal((1,), Stream.TIME)[:, 0].double()


@dataclass(frozen=True)
class Uniform:
    """t ~ U(low, high). A path that is singular at its data end is not trained there."""

    low: float = 0.0
    high: float = 1.0

    def __call__(self, noise: Noise) -> Tensor:
        return self.low + (self.high - self.low) * _uniform(noise)


@dataclass(frozen=True)
class Steps:
    """t uniform on 1 / n, 2 / n, ..., 1: the steps of a discrete schedule. Ho et al., 2020, arXiv:2006.11239."""

    n: int = 1000

    def __call__(self, noise: Noise) -> Tensor:
        return ((_uniform(noise) * self.n).floor().clamp(max=self.n - 1) + 1) / self.n


@dataclass(frozen=True)
class LogitNormal:
    """t = sigmoid(mean + std z), z ~ N(0, 1): more weight on the middle of the path.

    Esser et al., 2024, "Scaling rectified flow transformers", arXiv:2403.03206, section 3.1.
    """

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, noise: Noise) -> Tensor:
        return torch.sigmoid(self.mean + self.std * _normal(noise)).float()


@dataclass(frozen=True)
class Mode:
    """t = 1 - u - scale (cos^2(pi u / 2) - 1 + u), u ~ U(0, 1): heavy in the middle, with mass at both ends.

    scale: from -1 to 2 / (pi - 2), where the map stays monotonic; 0 = uniform. Esser et al., 2024, arXiv:2403.03206,
    section 3.1.
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        if not -1.0 <= self.scale <= 2.0 / (math.pi - 2.0):
            raise ValueError(f"'scale' must lie in [-1, {2 / (math.pi - 2):.4f}], got {self.scale}")

    def __call__(self, noise: Noise) -> Tensor:
        u = _uniform(noise).double()
        return (1.0 - u - self.scale * (torch.cos(0.5 * math.pi * u).square() - 1.0 + u)).float()


@dataclass(frozen=True)
class LogNormal:
    """ln(sigma / alpha) ~ N(mean, std^2): EDM's law of noise levels, on any path.

    Levels beyond the path's ends are taken at them. Karras et al., 2022, arXiv:2206.00364, table 1.
    """

    path: Path
    mean: float = -1.2
    std: float = 1.2

    def __call__(self, noise: Noise) -> Tensor:
        low, high = self.path.span
        ratio = torch.exp(self.mean + self.std * _normal(noise))
        return ((at_ratio(self.path, ratio) - low) / (high - low)).float()


@dataclass(frozen=True)
class Shifted:
    """A law whose times are moved by `shifted`, for data of higher resolution."""

    law: TimeLaw
    shift: float

    def __post_init__(self) -> None:
        _moved(0.0, self.shift)

    def __call__(self, noise: Noise) -> Tensor:
        return _moved(self.law(noise), self.shift)


def _counted(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"'steps' must be at least 1, got {steps}")
    return steps


def uniform(steps: int) -> list[float]:
    """1, (steps - 1) / steps, ..., 1 / steps, 0."""
    return [(steps - k) / steps for k in range(_counted(steps) + 1)]


def quadratic(steps: int) -> list[float]:
    """The squares of `uniform`: finer near the data. Song, Meng and Ermon, 2020, arXiv:2010.02502, appendix D.2."""
    return [t * t for t in uniform(steps)]


def cosine(steps: int) -> list[float]:
    """1 - cos(pi u / 2) for u of `uniform`: finer near the data, linear near the noise."""
    return [1.0 - math.cos(0.5 * math.pi * u) for u in uniform(steps)]


def leading(steps: int, timesteps: int = 1000, offset: int = 0) -> list[float]:
    """Times of a discrete schedule, `timesteps` // steps apart, from its first one on, and 0; it starts below 1.

    offset: added to the number of every step. The spacing of DDIM's code; "leading" is diffusers' name for it.
    """
    gap = timesteps // _counted(steps)
    return _discrete([k * gap + offset for k in reversed(range(steps))], timesteps)


def trailing(steps: int, timesteps: int = 1000) -> list[float]:
    """Times of a discrete schedule, evenly from its last one back, and 0: it starts at pure noise.

    Lin, Liu, Li and Yang, 2023, arXiv:2305.08891, section 3.3; "trailing" in diffusers.
    """
    return _discrete([round(timesteps - k * timesteps / steps) - 1 for k in range(_counted(steps))], timesteps)


def linspace(steps: int, timesteps: int = 1000) -> list[float]:
    """Times of a discrete schedule, evenly from its last one to its first one, and 0. Diffusers' name for it."""
    return _discrete([round((timesteps - 1) * (1.0 - u)) for u in _unit(steps)], timesteps)


def _discrete(numbers: list[int], timesteps: int) -> list[float]:
    """Step numbers from 0, as alpha_bar counts them -> fractions, and 0."""
    if not (numbers[-1] >= 0 and numbers[0] < timesteps and all(s < t for t, s in pairwise(numbers))):
        raise ValueError(
            f"{len(numbers)} different numbers in [0, {timesteps}), of the timesteps that are trained, are wanted for "
            f"'steps' = {len(numbers)}: give fewer steps, or a lower 'offset'"
        )
    return [*((k + 1) / timesteps for k in numbers), 0.0]


def karras(path: Path, steps: int, low: float = 0.002, high: float | None = None, rho: float = 7.0) -> list[float]:
    """Noise levels sigma / alpha from `high` to `low`, evenly in their rho-th roots, and 0; on any path.

    high: None = EDM's 80, or the path's last level if that is less. A single level is `high`.

    Karras et al., 2022, arXiv:2206.00364, equation 5.
    """
    top = _top(path, low, high)
    roots = top ** (1 / rho), low ** (1 / rho)
    return _levels(path, [(roots[0] + (roots[1] - roots[0]) * u) ** rho for u in _unit(steps)])


def log_snr(path: Path, steps: int, low: float = 0.002, high: float | None = None) -> list[float]:
    """Noise levels sigma / alpha from `high` to `low`, evenly in their logarithms, and 0; `high` as in `karras`.

    Lu et al., 2022, "DPM-Solver", arXiv:2206.00927, section 3.
    """
    top = _top(path, low, high)
    return _levels(path, [top * (low / top) ** u for u in _unit(steps)])


def jumps(path: Path, steps: int, low: float = 0.002, high: float | None = None, rho: float = 7.0) -> list[float]:
    """Noise levels sigma / alpha from `high` down, evenly in their rho-th roots on the way to `low`, and 0.

    Where a consistency model jumps from: unlike `karras`, `low` is where it lands, and none of them. A single
    level is `high`; `high` as in `karras`. Song et al., 2023, arXiv:2303.01469, algorithm 1, find theirs by search.
    """
    top = _top(path, low, high)
    roots = top ** (1 / rho), low ** (1 / rho)
    return _levels(path, [(roots[0] + (roots[1] - roots[0]) * k / steps) ** rho for k in range(_counted(steps))])


def _unit(steps: int) -> list[float]:
    """0 to 1 in steps - 1 even parts."""
    return [k / max(1, steps - 1) for k in range(_counted(steps))]


def _top(path: Path, low: float, high: float | None) -> float:
    """The first level of a grid, checked against `low` and the path."""
    end = path(path.span[1])
    reached = end.sigma / end.alpha if end.alpha > 0 else math.inf
    top = min(reached, 80.0) if high is None else high
    if not 0 < low < top:
        raise ValueError(f"'low' must be a level between 0 and 'high', {top:g}, got {low:g}")
    if top > reached * (1.0 + 1e-12):
        raise ValueError(f"'high' must be a level that {path} reaches, {reached:g}, got {top:g}")
    return top


def _levels(path: Path, ratios: list[float]) -> list[float]:
    low, high = path.span
    return [*((at_ratio(path, r) - low) / (high - low) for r in ratios), 0.0]


def shifted(times: list[float], shift: float) -> list[float]:
    """t -> shift t / (1 + (shift - 1) t): shift > 1 spends more steps near the noise.

    Esser et al., 2024, arXiv:2403.03206, equation 23 (their resolution shift is sqrt(m / n)).
    """
    return [_moved(t, shift) for t in times]


def _moved(t: Scalar, shift: float) -> Scalar:
    if not shift > 0:
        raise ValueError(f"'shift' must be positive, got {shift}; 1 leaves times as they are")
    return shift * t / (1.0 + (shift - 1.0) * t)


def on(path: Path, fractions: list[float]) -> list[float]:
    """Fractions of a path's span -> its own clock."""
    low, high = path.span
    return [low + (high - low) * f for f in fractions]
