"""What a bijection is, and how bijections are put together: one after the other, backwards, on half, reshaped.

Papamakarios, Nalisnick, Rezende, Mohamed and Lakshminarayanan, 2019, "Normalizing flows for probabilistic modeling and
inference", arXiv:1912.02762, section 2.1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from gensys.core import Cond

__all__ = ["Bijection", "Chain", "Flattened", "Inverse", "OnHalf"]


class Bijection(nn.Module, ABC):
    """An invertible map of rows. x, z: (B, *S), of as many elements."""

    @abstractmethod
    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """(z, logdet): the image, and log |det dz/dx| in nats, (B,)."""

    @abstractmethod
    def inverse(self, z: Tensor, cond: Cond) -> Tensor:
        """x with forward(x, cond)[0] = z."""


class Chain(Bijection):
    """The first one first, on the way from data to base: z = f_n(... f_1(x)); log-determinants add up."""

    def __init__(self, *parts: Bijection) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(x.shape[0])
        for bijection in self.parts:
            x, logdet = bijection(x, cond)
            total = total + logdet
        return x, total

    def inverse(self, z: Tensor, cond: Cond) -> Tensor:
        for bijection in reversed(self.parts):
            assert isinstance(bijection, Bijection)  # ModuleList has forgotten it
            z = bijection.inverse(z, cond)
        return z


class Inverse(Bijection):
    """The other way round: what was the inverse is the forward map, at the price of both for its log-determinant."""

    def __init__(self, inner: Bijection) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        z = self.inner.inverse(x, cond)
        return z, -self.inner(z, cond)[1]

    def inverse(self, z: Tensor, cond: Cond) -> Tensor:
        return self.inner(z, cond)[0]


class OnHalf(Bijection):
    """inner on the first half of the channels of (B, C, *S), rounded down; the rest is finished, and left as it is.

    This is the factoring out of a multi-scale flow (Dinh et al., 2017, arXiv:1605.08803, section 3.6). A coupling
    before it that maps the second half, given the first, makes the base law of what is left a learnt one: with an
    affine coupling a Gaussian whose mean and scale are functions of the first half (Kingma and Dhariwal, 2018,
    arXiv:1807.03039, whose published code has this prior).
    """

    def __init__(self, inner: Bijection) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        half = x.shape[1] // 2
        z, logdet = self.inner(x[:, :half], cond)
        return torch.cat([z, x[:, half:]], 1), logdet

    def inverse(self, z: Tensor, cond: Cond) -> Tensor:
        half = z.shape[1] // 2
        return torch.cat([self.inner.inverse(z[:, :half], cond), z[:, half:]], 1)


class Flattened(Bijection):
    """inner, a map of vectors (B, D), on rows of any shape."""

    def __init__(self, inner: Bijection) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        z, logdet = self.inner(x.flatten(1), cond)
        return z.view(x.shape), logdet

    def inverse(self, z: Tensor, cond: Cond) -> Tensor:
        return self.inner.inverse(z.flatten(1), cond).view(z.shape)
