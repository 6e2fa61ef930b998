"""Vector quantisation: every latent vector is replaced by the nearest one of K learnt codes.

    z_q = e_k, k = argmin over j of |z - e_j|^2        decoder sees z_q; d z_q / d z := 1, the straight-through gradient
    loss = |sg(z) - e_k|^2 + beta |z - sg(e_k)|^2      sg: stop gradient; means over elements

The first term moves the codes to the latents, the second, the commitment, the latents to their codes; the codes get no
gradient from the decoder. van den Oord, Vinyals and Kavukcuoglu, 2017, "Neural discrete representation learning",
arXiv:1711.00937, equations 1 to 3 (beta = 0.25 there); straight-through: Bengio et al., 2013, arXiv:1308.3432.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gensys.kernels.vq_nearest import vq_nearest

__all__ = ["Quantised", "VectorQuantiser"]


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


class VectorQuantiser(nn.Module):
    """A codebook of `codes` vectors with `dim` numbers each, learnt by gradient."""

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        # So short that at first the direction of a latent chooses its code. Among codes as long as the latents the
        # shortest would win nearly everywhere, and the others would never be used.
        self.codebook = nn.Parameter(torch.empty(codes, dim).uniform_(-1 / codes, 1 / codes))

    def forward(self, z: Tensor) -> Quantised:
        """z: (B, D, *S), any floating point dtype; the arithmetic is float32."""
        if z.ndim < 2 or z.shape[1] != self.codebook.shape[1]:
            raise ValueError(f"'z' must be (B, {self.codebook.shape[1]}, ...), as wide as a code, got {tuple(z.shape)}")
        z = z.float()
        last = z.movedim(1, -1)
        codes = vq_nearest(last.flatten(0, -2), self.codebook.float()).view(last.shape[:-1])
        chosen = self.lookup(codes)
        return Quantised(
            z=chosen.detach() + (z - z.detach()),  # the bracket is 0: z_q is a code to the last bit
            codes=codes,
            codebook=(chosen - z.detach()).square().mean(),
            commitment=(z - chosen.detach()).square().mean(),
        )

    def lookup(self, codes: Tensor) -> Tensor:
        """The vectors with these numbers: (B, *S) int64 -> (B, D, *S)."""
        return F.embedding(codes, self.codebook.float()).movedim(-1, 1)
