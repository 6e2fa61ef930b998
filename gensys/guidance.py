"""Guidance: extrapolate from a reference prediction to a conditional one, and what is done to the result.

    guided = reference + scale (conditional - reference)

Classifier-free guidance takes the same network without its condition as the reference (Ho and Salimans, 2022,
arXiv:2207.12598); a weaker network with the same condition gives autoguidance (Karras et al., 2024, arXiv:2406.02507).
scale 1 = the conditional model, 0 = the reference. Ho and Salimans state w = scale - 1, 0 = the conditional model;
Saharia et al., Karras et al. and most programs state `scale` as it is here. Limiting it to an interval of t keeps
diversity (Kynkaanniemi et al., 2024, arXiv:2404.07724).

Network output, data and noise are affine in each other at fixed x_t, so guiding any of them guides all: gensys guides
the output, all of its channels, where it is a pair of coefficients in a solver's table.

What is not affine is a `Node`: a function of the guided estimate of the data, whose value the solver works with.

    Rescale      its standard deviation is brought back to that of the conditional estimate
    Threshold    it is clipped at a percentile of its own magnitudes, and divided by that (dynamic thresholding)
    Clip         it is clipped to fixed bounds
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gensys.core import Cond
from gensys.noise import Noise, Stream
from gensys.paths import Scalar, expand

__all__ = ["NO_LABEL", "Clip", "Guidance", "Node", "Rescale", "Threshold", "correct", "drop", "without"]

NO_LABEL = -1
NONE = {"label": NO_LABEL, "vector": math.nan}
"""What stands for "none" in a row of each condition that can be left out."""


@dataclass(frozen=True)
class Guidance:
    """scale: 1 = conditional. interval: the fractions of the span, (0, 1) from data to noise, where it is applied.
    rescale: 0 = off, see `Rescale`; published results have 0.7.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(f"'interval' must be (low, high) with 0 <= low < high <= 1, got {self.interval}")
        if not 0.0 <= self.rescale <= 1.0:
            raise ValueError(f"'rescale' must lie in [0, 1], got {self.rescale}: 0 leaves estimates as they are")

    def at(self, fraction: Scalar) -> Scalar:
        """The scale at a time, given as a fraction of the path's span: a float, or a tensor of times."""
        low, high = self.interval
        inside = (low <= fraction) & (fraction <= high)
        if isinstance(fraction, Tensor):
            return torch.where(inside, fraction.new_tensor(self.scale), fraction.new_tensor(1.0))
        return self.scale if inside else 1.0

    def blend(self, conditional: Tensor, reference: Tensor, fraction: Scalar) -> Tensor:
        """reference + scale (conditional - reference), as one multiply-add pair of terms."""
        scale = self.at(fraction)
        return conditional * scale + reference * (1.0 - scale)


class Node(Protocol):
    """(estimate, conditional) -> what the solver takes for the data: all (B, *S), each row a function of itself alone.

    conditional: the estimate before guidance; None where a call was not guided, and both are one.
    """

    def __call__(self, estimate: Tensor, conditional: Tensor | None) -> Tensor: ...


@dataclass(frozen=True)
class Clip:
    """Clipped to [low, high], the bounds of the data; NaN stays NaN."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"'clip' must be (low, high) with low < high, got {(self.low, self.high)}")

    def __call__(self, estimate: Tensor, conditional: Tensor | None) -> Tensor:
        return estimate.clamp(self.low, self.high)


@dataclass(frozen=True)
class Rescale:
    """phi (std of conditional / std of estimate) estimate + (1 - phi) estimate; std over all elements of a row.

    Large scales spread the estimate, which over-exposes images. Lin, Liu, Li and Yang, 2023, "Common diffusion noise
    schedules and sample steps are flawed", arXiv:2305.08891, equations 15 and 16. They state it on the output of their
    network; on the estimate of the data it is the same for every target, and means what it says: the contrast.
    """

    phi: float

    def __call__(self, estimate: Tensor, conditional: Tensor | None) -> Tensor:
        if conditional is None:
            return estimate
        wanted, had = _spread(conditional), _spread(estimate)
        factor = torch.where(had > 0, self.phi * wanted / had + (1.0 - self.phi), 1.0)  # of a constant there is none
        return estimate * expand(factor.to(estimate.dtype), estimate)


def _spread(x: Tensor) -> Tensor:
    """The standard deviation of each row, times the root of its size, (B,).

    In double precision: the order of sums may depend on the batch, and what that changes is rounded away. torch.std
    takes eight times as long.
    """
    rows = x.double().flatten(1)
    return torch.linalg.vector_norm(rows - rows.mean(1, keepdim=True), dim=1)


@dataclass(frozen=True)
class Threshold:
    """clip(estimate, -s, s) / s, with s the given percentile of the row's magnitudes, at least 1: for data in [-1, 1].

    percentile: in (0, 100], interpolated linearly between two magnitudes; 99.5 is the usual choice.

    Saharia et al., 2022, "Photorealistic text-to-image diffusion models with deep language understanding",
    arXiv:2205.11487, section 2.3.
    """

    percentile: float

    def __post_init__(self) -> None:
        if not 0.0 < self.percentile <= 100.0:
            raise ValueError(f"'threshold' must be a percentile in (0, 100], got {self.percentile}")

    def __call__(self, estimate: Tensor, conditional: Tensor | None) -> Tensor:
        magnitudes = estimate.flatten(1).abs()
        place = self.percentile / 100.0 * (magnitudes.shape[1] - 1)
        below = math.floor(place)
        # The largest suffice, and are found faster than all are sorted (torch.quantile does that).
        largest = magnitudes.topk(magnitudes.shape[1] - below, 1).values
        s = torch.lerp(largest[:, -1], largest[:, max(-2, -largest.shape[1])], place - below)
        s = expand(s.clamp(min=1.0), estimate)
        return torch.maximum(torch.minimum(estimate, s), -s) / s


def correct(nodes: Sequence[Node], estimate: Tensor, conditional: Tensor | None) -> Tensor:
    """An estimate after all nodes, in turn."""
    for node in nodes:
        estimate = node(estimate, conditional)
    return estimate


def without(cond: Cond) -> Cond:
    """The condition of the reference: every label and vector removed."""
    return {name: _nothing(name, value) for name, value in cond.items()}


def _nothing(name: str, value: Tensor) -> Tensor:
    """What stands for "none" in a condition of this name; what has no such value stays."""
    return torch.full_like(value, NONE[name]) if name in NONE else value


def drop(cond: Cond, noise: Noise, probability: float) -> Cond:
    """Remove the condition of each row with the given probability, so that one network learns both predictions."""
    if not probability or not NONE.keys() & cond.keys():
        return cond
    kept = noise.uniform((1,), Stream.DROP)[:, 0] >= probability
    return {name: torch.where(expand(kept, value), value, _nothing(name, value)) for name, value in cond.items()}
