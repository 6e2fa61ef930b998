"""Residual vector quantisation: every quantiser codes what those before it have left.

    r_1 = z,   q_i = quantiser_i(r_i),   r_{i+1} = r_i - q_i;        z_q = q_1 + ... + q_n

n codebooks of K codes name K^n latents. Zeghidour, Luebs, Omran, Skoglund and Tagliasacchi, 2021, "SoundStream: an
end-to-end neural audio codec", arXiv:2107.03312, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from gensys.bottlenecks.vq import Quantised, Quantiser, straight_through

__all__ = ["ResidualQuantiser"]


class ResidualQuantiser(nn.Module):
    """quantisers: modules like `EmaQuantiser`, from coarse to fine, of one size and dim. Codes: (B, n, *S)."""

    def __init__(self, quantisers: Sequence[nn.Module]) -> None:
        super().__init__()
        kinds = {(q.size, q.dim) for q in cast("Sequence[Quantiser]", quantisers)}
        if len(kinds) != 1:
            raise ValueError(f"'quantisers' must be at least one, all of one (size, dim), got {sorted(kinds)}")
        self.quantisers = nn.ModuleList(quantisers)
        ((self.size, self.dim),) = kinds

    def _each(self) -> Sequence[Quantiser]:
        return cast("Sequence[Quantiser]", self.quantisers)

    def forward(self, z: Tensor) -> Quantised:
        """The terms of the loss are means over the quantisers."""
        z = z.float()
        rest, found = z, list[Quantised]()
        for quantiser in self._each():
            found.append(quantiser(rest))
            rest = rest - found[-1].z.detach()
        total = torch.stack([q.z.detach() for q in found]).sum(0)
        return Quantised(
            z=straight_through(z, total),
            codes=torch.stack([q.codes for q in found], 1),
            codebook=torch.stack([q.codebook for q in found]).mean(),
            commitment=torch.stack([q.commitment for q in found]).mean(),
        )

    def lookup(self, codes: Tensor) -> Tensor:
        """(B, m, *S) int64, the first m <= n codes of every latent, m >= 1 -> (B, D, *S): fewer codes, a coarser z."""
        if not 1 <= codes.shape[1] <= len(self.quantisers):
            raise ValueError(f"'codes' must be (B, 1 to {len(self.quantisers)}, ...), got {tuple(codes.shape)}")
        parts = zip(self._each(), codes.unbind(1), strict=False)
        return torch.stack([quantiser.lookup(some) for quantiser, some in parts]).sum(0)

    def shape(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        return (len(self.quantisers), *grid)

    def grids(self, grid: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return (grid,) * len(self.quantisers)
