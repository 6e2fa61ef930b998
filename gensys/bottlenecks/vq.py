"""Vector quantisation: every latent vector is replaced by the nearest one of K learnt codes.

    z_q = e_k, k = argmin over j of |z - e_j|^2        decoder sees z_q; d z_q / d z := 1, the straight-through gradient
    loss = |sg(z) - e_k|^2 + beta |z - sg(e_k)|^2      sg: stop gradient; means over elements

The first term moves the codes to the latents, the second, the commitment, the latents to their codes; the codes get no
gradient from the decoder. van den Oord, Vinyals and Kavukcuoglu, 2017, "Neural discrete representation learning",
arXiv:1711.00937, equations 1 to 3 (beta = 0.25 there); straight-through: Bengio et al., 2013, arXiv:1308.3432.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gensys.kernels.vq_nearest import vq_nearest

__all__ = ["Quantised", "Quantiser", "VectorQuantiser", "perplexity", "straight_through"]


@dataclass(frozen=True)
class Quantised:
    """What a quantiser makes of latents z, (B, D, *S).

    z: (B, D, *S) float32, exactly the codes, for the decoder; its gradient goes to the latents unchanged.
    codes: (B, *S) int64, which ones. codebook, commitment: (), the two terms of the loss; equal in value, they differ
    in who gets the gradient.
    """

    z: Tensor
    codes: Tensor
    codebook: Tensor
    commitment: Tensor

    def loss(self, beta: float = 0.25) -> Tensor:
        """codebook + beta commitment, (), beside the reconstruction in the loss of an autoencoder."""
        return self.codebook + beta * self.commitment


class Quantiser(Protocol):
    """What an autoencoder asks of its quantiser, a module. size: how many codes; dim: channels of the latents."""

    size: int
    dim: int

    def __call__(self, z: Tensor) -> Quantised: ...

    def lookup(self, codes: Tensor) -> Tensor:
        """The latents that codes stand for, (B, D, *S)."""
        ...

    def shape(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the codes of one datum whose latents are (D, *grid)."""
        ...

    def grids(self, grid: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """The grids that these codes are of, see `Codes`."""
        ...


def straight_through(z: Tensor, quantised: Tensor) -> Tensor:
    """`quantised` to the last bit, with the gradient going to z unchanged."""
    return quantised.detach() + (z - z.detach())  # the bracket is 0


def perplexity(codes: Tensor, size: int) -> Tensor:
    """exp of the entropy of how often each of `size` codes occurs, (): between 1 and size."""
    share = torch.bincount(codes.flatten(), minlength=size).double() / max(1, codes.numel())
    return torch.special.entr(share).sum().exp().float()


def check_sizes(codes: int, dim: int) -> None:
    """Raise ValueError for a codebook without codes or numbers."""
    if codes < 1 or dim < 1:
        raise ValueError(f"'codes' and 'dim' must be at least 1, got {codes} and {dim}")


def check_latents(z: Tensor, dim: int) -> None:
    """Raise ValueError unless z is (B, dim, ...)."""
    if z.ndim < 2 or z.shape[1] != dim:
        raise ValueError(f"'z' must be (B, {dim}, ...), as wide as a code, got {tuple(z.shape)}")


def nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """The nearest of the codes (K, D) for latents (B, D, *S), (B, *S) int64."""
    last = z.movedim(1, -1)
    return vq_nearest(last.flatten(0, -2), codebook).view(last.shape[:-1])


class VectorQuantiser(nn.Module):
    """A codebook of `codes` vectors with `dim` numbers each, learnt by gradient."""

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        check_sizes(codes, dim)
        self.size, self.dim = codes, dim
        # So short that at first the direction of a latent chooses its code. Among codes as long as the latents the
        # shortest would win nearly everywhere, and the others would never be used.
        self.codebook = nn.Parameter(torch.empty(codes, dim).uniform_(-1 / codes, 1 / codes))

    def forward(self, z: Tensor) -> Quantised:
        """z: (B, D, *S), any floating point dtype; the arithmetic is float32."""
        check_latents(z, self.dim)
        z = z.float()
        codes = nearest(z, self.codebook.float())
        chosen = self.lookup(codes)
        return Quantised(
            z=straight_through(z, chosen),
            codes=codes,
            codebook=(chosen - z.detach()).square().mean(),
            commitment=(z - chosen.detach()).square().mean(),
        )

    def lookup(self, codes: Tensor) -> Tensor:
        """The vectors with these numbers: (B, *S) int64 -> (B, D, *S)."""
        return F.embedding(codes, self.codebook.float()).movedim(-1, 1)

    def shape(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        return grid

    def grids(self, grid: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return (grid,)
