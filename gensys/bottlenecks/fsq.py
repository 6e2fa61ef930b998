"""Finite scalar quantisation: every number of a latent is rounded to one of a few values; no codebook is learnt.

    y = tanh(z + s) h - o,     h = (L - 1) / 2,   o = 1/2 for even L, else 0,   s = artanh(o / h)
    z_q = round(y) / (L // 2)

so that z = 0 gives 0 and L levels are reached. The code of a latent is the number with its levels as digits, the first
of them the least. Mentzer, Minnen, Agustsson and Tschannen, 2023, "Finite scalar quantization: VQ-VAE made simple",
arXiv:2309.15505, section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gensys.bottlenecks.vq import Quantised, check_latents, straight_through

__all__ = ["ScalarQuantiser"]

_ROOM = 1e-3  # by which h is larger, relatively: tanh is 1 at infinity only, and the outermost values are to be reached


class ScalarQuantiser(nn.Module):
    """levels: how many values each channel has, at least 2; their product is the size of the implied codebook."""

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"'levels' must be at least 2 for every channel, got {tuple(levels)}")
        self.dim, self.size = len(levels), math.prod(levels)
        if self.size > 1 << 31:
            raise ValueError(f"'levels' {tuple(levels)} make {self.size} codes, and at most 2^31 can be stored")
        basis = [math.prod(levels[:k]) for k in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)  # given, not learnt
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def _along(self, values: Tensor, z: Tensor) -> Tensor:
        return values.view(1, -1, *(1,) * (z.ndim - 2))

    def bounded(self, z: Tensor) -> Tensor:
        """y above: what is rounded. (B, D, *S)"""
        levels = self._along(self.levels, z)
        half = 0.5 * (levels - 1) * (1.0 + _ROOM)
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        return torch.tanh(z + torch.atanh(offset / half)) * half - offset

    def forward(self, z: Tensor) -> Quantised:
        """z: (B, D, *S); the gradient passes the rounding unchanged, and the tanh as it is."""
        check_latents(z, self.dim)
        y = self.bounded(z.float())
        whole, middle = y.round().detach(), self._along(self.levels // 2, z)
        codes = ((whole.long() + middle) * self._along(self.basis, z)).sum(1)
        zero = y.new_zeros(())  # nothing is to be learnt beside the reconstruction
        return Quantised(z=straight_through(y / middle, whole / middle), codes=codes, codebook=zero, commitment=zero)

    def lookup(self, codes: Tensor) -> Tensor:
        """(B, *S) int64 -> (B, D, *S)."""
        codes = codes[:, None]
        digits = codes // self._along(self.basis, codes) % self._along(self.levels, codes)
        middle = self._along(self.levels // 2, codes)
        return (digits - middle) / middle

    def shape(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        return grid

    def grids(self, grid: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return (grid,)
