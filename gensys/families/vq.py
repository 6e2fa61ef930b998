"""Vector-quantised autoencoders: encoder x quantiser x decoder. Their latents are codes, whole numbers.

van den Oord, Vinyals and Kavukcuoglu, 2017, "Neural discrete representation learning", arXiv:1711.00937.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from gensys.bottlenecks.vq import Quantiser
from gensys.core import Batch, Codes, Cond, Generative, Loss
from gensys.families.autoencoder import Reconstruction, squared
from gensys.noise import Noise, Stream
from gensys.objectives.vq import vq

__all__ = ["VQAutoencoder"]


class VQAutoencoder(Generative):
    """encoder: (B, *S) -> (B, D, *grid); quantiser: a module, see `bottlenecks.vq.Quantiser`; decoder: (B, D, *grid) ->
    (B, *S).

    beta: the weight of the commitment. reconstruction: see `Autoencoder`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        quantiser: nn.Module,
        decoder: nn.Module,
        grid: tuple[int, ...],
        *,
        beta: float = 0.25,
        reconstruction: Reconstruction = squared,
    ) -> None:
        super().__init__()
        if not beta >= 0.0:
            raise ValueError(f"'beta' must not be negative, got {beta}")
        self.encoder, self.quantiser, self.decoder = encoder, quantiser, decoder
        self.grid, self.beta, self.reconstruction = grid, beta, reconstruction

    @property
    def _codes(self) -> Quantiser:
        return cast("Quantiser", self.quantiser)

    def reconstruct(self, x: Tensor, noise: Noise) -> tuple[Tensor, Loss]:
        """What comes back of x through its codes, (B, *S), and the loss of that; nothing is drawn."""
        quantised = self._codes(self.encoder(x).float())
        decoded = self.decoder(quantised.z).float()
        return decoded, vq(self.reconstruction(decoded, x), quantised, self._codes.size, self.beta)

    def loss(self, batch: Batch, noise: Noise, player: str) -> Loss:
        return self.reconstruct(batch.x, noise)[1]

    def encode(self, x: Tensor) -> Codes:
        """(B, *S) -> codes (B, *quantiser.shape(grid)); a codebook that follows its latents does not follow these."""
        training = self.quantiser.training
        try:
            found = cast("Quantiser", self.quantiser.eval())(self.encoder(x).float())
            return Codes(found.codes, self._codes.size, self._codes.grids(self.grid))
        finally:
            self.quantiser.train(training)

    def decode(self, z: Tensor) -> Tensor:
        """z: codes, int64. Raises ValueError for others."""
        if z.is_floating_point():
            raise ValueError(f"'z' must be codes, whole numbers, got {z.dtype}: those of `encode`")
        if z.numel() and not 0 <= int(z.min()) <= int(z.max()) < self._codes.size:
            raise ValueError(f"'z' must lie in [0, {self._codes.size}), got {int(z.min())}..{int(z.max())}")
        return self.decoder(self._codes.lookup(z.long())).float()

    @torch.no_grad()
    def sample(self, cond: Cond, noise: Noise) -> Tensor:
        """Decode codes drawn uniformly: the prior that the model is trained with, and far from that of its data."""
        shape, size = self._codes.shape(self.grid), self._codes.size
        u = noise.uniform((math.prod(shape),), Stream.PRIOR).view(-1, *shape)
        return self.decode((u.double() * size).long())
