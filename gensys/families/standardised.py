"""Vectors whose elements are of any size, such as the columns of a table, to a model of mean 0 and variance 1 each.

x = mean + std z          log p(x) = log p(z) - sum of log std

An element that never changes has a deviation of 0. It is drawn as it is; densities take its deviation for 1. The model
of z learns normal noise in its place: a density could rise without bound there, and gradients with it.

A category is a vector of zeros and a one to the model, and the largest of its numbers when it is drawn. Their deviation
is taken for 1/2, whatever their share is, so that two categories are as far apart as -1 and 1: Chen, Zhang and Hinton,
2022, "Analog bits: generating discrete data using diffusion models with self-conditioning", arXiv:2208.04202, section
2.1. Such a model has no density of x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gensys.columns import most_likely, one_hot, widths
from gensys.core import Batch, Bits, Cond, Generative, HasBits, HasLikelihood, Loss
from gensys.families.mapped import Mapped
from gensys.noise import Noise, Stream

__all__ = ["Standardised", "deviations"]

_CATEGORY = 0.5  # the deviation that is taken for that of a number of a one-hot vector


class Standardised(Mapped):
    """prior: the model of z, (B, D). mean, std: of each element of x, (D,); they are kept with the weights.

    categories: of every column of x how many categories it has, 0 = it is of numbers; () = all are. mean, std and z are
    then of rows as `columns.one_hot` has them.

    Raises: ValueError for a deviation that is negative or not finite.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, prior: Generative, mean: Sequence[float], std: Sequence[float], categories: Sequence[int] = ()
    ) -> None:
        super().__init__(prior)
        self.categories = tuple(categories)
        if categories and len(mean) != sum(widths(categories)):
            raise ValueError(
                f"'mean' must be {sum(widths(categories))} numbers for columns of {list(categories)} categories, got "
                f"{len(mean)}"
            )
        if len(mean) != len(std) or not all(0.0 <= value < math.inf for value in std):
            raise ValueError(f"'std' must be {len(mean)} numbers from 0 on, one for each of 'mean', got {list(std)}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def same(self, mean: Sequence[float], std: Sequence[float]) -> bool:
        """Whether these are its own, to the last bit of float32."""
        return torch.equal(self.mean, torch.tensor(mean)) and torch.equal(self.std, torch.tensor(std))

    @property
    def scale(self) -> Tensor:
        """What elements are divided by, (D,): their deviations, and 1 for those that never change."""
        return torch.where(self.std > 0, self.std, 1.0)

    def decode(self, z: Tensor) -> Tensor:
        x = self.mean + self.std * z
        return most_likely(self.categories, x) if self.categories else x

    def embed(self, x: Tensor) -> Tensor:
        return ((one_hot(self.categories, x) if self.categories else x) - self.mean) / self.scale

    def widened(self, mask: Tensor) -> Tensor:
        """What is said of every column of x, (B, columns), said of the elements of z that stand for it."""
        if not self.categories:
            return mask
        return mask.repeat_interleave(torch.tensor(widths(self.categories), device=mask.device), 1)

    def loss(self, batch: Batch, noise: Noise, player: str) -> Loss:
        z = self.embed(batch.x)
        if bool((self.std == 0).any()):
            z = torch.where(self.std > 0, z, noise.normal(z.shape[1:], Stream.CONSTANT))
        return self.prior.loss(replace(batch, x=z), noise, player)

    @torch.no_grad()
    def sample(self, cond: Cond, noise: Noise) -> Tensor:
        return self.decode(self.prior.sample(cond, noise))

    def log_prob(self, x: Tensor, cond: Cond) -> Tensor:
        """log p(x | cond) in nats, (B,). Raises: ValueError for a prior that has no density, and for categories."""
        if self.categories:
            raise ValueError("'x' has columns of categories, which have no density")
        if not isinstance(self.prior, HasLikelihood):
            raise ValueError(f"'prior' must have a density, and {type(self.prior).__name__} has none")
        return self.prior.log_prob(self.embed(x), cond) - self.scale.log().sum()

    def bits(self, x: Tensor, cond: Cond, noise: Noise, width: float | None) -> Bits | None:
        """See `HasBits`. Raises: ValueError for a width: the bins of pixels would not be even here."""
        if width is not None:
            raise ValueError(f"'width' must be None, vectors have no bins, got {width}")
        if self.categories or not isinstance(self.prior, HasBits):
            return None
        found = self.prior.bits(self.embed(x), cond, noise, None)
        return None if found is None else replace(found, per_dim=found.per_dim + self.scale.log2().mean())


def deviations(categories: Sequence[int], std: Tensor) -> Tensor:
    """The deviations that `Standardised` is given for rows whose own, as one-hot vectors, are these: (D,)."""
    kinds = torch.tensor([count > 0 for count in categories]).repeat_interleave(torch.tensor(widths(categories)))
    return torch.where(kinds & (std > 0), _CATEGORY, std)
