"""Hierarchical vector quantisation: a coarse grid of codes for the whole, and a fine one for what it leaves.

    t = down(z),  q_t = top(t)                      features on a coarser grid, and their codes
    u = up(q_t),  q_b = bottom(join(z, u))          what the top says of the fine grid, and the codes beside it
    the decoder sees (u, q_b)

`top` may be a hierarchy itself. Razavi, van den Oord and Vinyals, 2019, "Generating diverse high-fidelity images with
VQ-VAE-2", arXiv:1906.00446, section 3.1 and algorithm 1; there the decoder has an `up` of its own for the top codes.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from gensys.bottlenecks.vq import Quantised, Quantiser

__all__ = ["HierarchicalQuantiser"]


class HierarchicalQuantiser(nn.Module):
    """Latents (B, dim, *grid) -> codes (B, n): those of the top, then those of the bottom, each in raster order.

    grid, coarse: of the bottom and of the top. down: (B, dim, *grid) -> (B, top.dim, *coarse). up: what top makes of
    those -> (B, E, *grid). join: (B, dim + E, *grid) -> (B, bottom.dim, *grid). top, bottom: of one size. A decoder
    gets (B, E + bottom.dim, *grid).
    """

    def __init__(
        self,
        dim: int,
        grid: tuple[int, ...],
        coarse: tuple[int, ...],
        *,
        down: nn.Module,
        top: nn.Module,
        up: nn.Module,
        join: nn.Module,
        bottom: nn.Module,
    ) -> None:
        super().__init__()
        sizes = [cast("Quantiser", q).size for q in (top, bottom)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"'top' and 'bottom' must have as many codes, got {sizes[0]} and {sizes[1]}")
        self.dim, self.size, self.grid, self.coarse = dim, sizes[0], grid, coarse
        self.down, self.top, self.up, self.join, self.bottom = down, top, up, join, bottom

    def _levels(self) -> tuple[Quantiser, Quantiser]:
        return cast("Quantiser", self.top), cast("Quantiser", self.bottom)

    def forward(self, z: Tensor) -> Quantised:
        """The terms of the loss are sums over the levels. z of the result: (B, E + bottom.dim, *grid)."""
        top, bottom = self._levels()
        first = top(self.down(z).float())
        above = self.up(first.z).float()
        second = bottom(self.join(torch.cat([z, above], 1)).float())
        return Quantised(
            z=torch.cat([above, second.z], 1),
            codes=torch.cat([first.codes.flatten(1), second.codes.flatten(1)], 1),
            codebook=first.codebook + second.codebook,
            commitment=first.commitment + second.commitment,
        )

    def lookup(self, codes: Tensor) -> Tensor:
        """(B, n) int64 -> (B, E + bottom.dim, *grid), as the decoder takes it."""
        top, bottom = self._levels()
        shapes = top.shape(self.coarse), bottom.shape(self.grid)
        first, second = codes.split([math.prod(shape) for shape in shapes], 1)
        above = self.up(top.lookup(first.unflatten(1, shapes[0]))).float()
        return torch.cat([above, bottom.lookup(second.unflatten(1, shapes[1]))], 1)

    def shape(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        return (sum(math.prod(each) for each in self.grids(grid)),)

    def grids(self, grid: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        if grid != self.grid:
            raise ValueError(f"'grid' must be {self.grid}, which this hierarchy was made for, got {grid}")
        top, bottom = self._levels()
        return top.grids(self.coarse) + bottom.grids(grid)
