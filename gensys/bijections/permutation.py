"""Permutations of channels, fixed: so that couplings and autoregressive maps do not see them in one order for ever."""

from __future__ import annotations

import torch
from torch import Tensor

from gensys.bijections.bijection import Bijection
from gensys.core import Cond

__all__ = ["Permutation", "reverse", "shuffle"]


class Permutation(Bijection):
    """z[:, i] = x[:, order[i]]; log-determinant 0. order: a permutation of 0 .. C - 1, (C,) int64."""

    order: Tensor
    back: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        if order.ndim != 1 or not torch.equal(order.sort().values, torch.arange(len(order))):
            raise ValueError(f"'order' must be a permutation of 0 .. {order.numel() - 1}, got {order.tolist()}")
        # part of the architecture, not of what is learnt: whoever builds the model builds it again
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        return x[:, self.order], x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, cond: Cond) -> Tensor:
        return z[:, self.back]


def reverse(channels: int) -> Permutation:
    """The last channel first."""
    return Permutation(torch.arange(channels - 1, -1, -1))


def shuffle(channels: int, seed: int) -> Permutation:
    """A random order, a function of the seed alone."""
    return Permutation(torch.randperm(channels, generator=torch.Generator().manual_seed(seed)))
