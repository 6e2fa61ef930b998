"""Guidance: extrapolate from a reference prediction to a conditional one.

    guided = reference + scale (conditional - reference)

Classifier-free guidance takes the same network without its condition as the reference (Ho and Salimans, 2022,
arXiv:2207.12598; in their notation scale = 1 + w); a weaker network gives autoguidance (Karras et al., 2024,
arXiv:2406.02507). scale 1 = the conditional model, 0 = the reference. Limiting it to an interval of t keeps diversity
(Kynkaanniemi et al., 2024, arXiv:2404.07724).

Network output, data and noise are affine in each other at fixed x_t, so guiding any of them guides all: gensys guides
the output, where it is a pair of coefficients in a solver's table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gensys.core import Cond
from gensys.noise import Noise, Stream
from gensys.paths import Scalar, expand

__all__ = ["NO_LABEL", "Guidance", "drop", "without"]

NO_LABEL = -1
NONE = {"label": NO_LABEL, "vector": math.nan}
"""What stands for "none" in a row of each condition that can be left out."""


@dataclass(frozen=True)
class Guidance:
    """scale: 1 = conditional. interval: the fractions of the span, (0, 1) from data to noise, where it is applied."""

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(f"'interval' must be (low, high) with 0 <= low < high <= 1, got {self.interval}")

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
