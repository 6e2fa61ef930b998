"""Autoencoders: encoder x bottleneck x decoder x reconstruction.

Here the bottleneck is a diagonal Gaussian posterior: the variational autoencoder, and the KL-regularised codec of
latent diffusion, which is the same thing with a very small beta.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gensys.core import Batch, Cond, Generative, Loss, Posterior
from gensys.noise import Noise, Stream
from gensys.objectives.elbo import elbo

__all__ = ["Autoencoder", "Reconstruction", "absolute", "squared"]

Reconstruction = Callable[[Tensor, Tensor], Tensor]
"""(decoded, x) -> the terms of -log p(x | z), up to a constant, elementwise (B, *S)."""


def squared(decoded: Tensor, x: Tensor) -> Tensor:
    """(decoded - x)^2: a Gaussian of variance 1/2, without its constant."""
    return (decoded - x).square()


def absolute(decoded: Tensor, x: Tensor) -> Tensor:
    """|decoded - x|: a Laplace law of scale 1, without its constant."""
    return (decoded - x).abs()


class Autoencoder(Generative):
    """encoder: (B, *S) -> (B, 2 Z, ...), mean and logvar stacked along dim 1; decoder: (B, *latent) -> (B, *S).

    latent: the shape of one latent as `sample` draws it. beta: the weight of the KL term, 1 for the bound.
    logvar_limit: log-variances are kept within +-limit: exp(20) is far below float32's largest number, also after
    squaring.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent: tuple[int, ...],
        *,
        beta: float = 1.0,
        reconstruction: Reconstruction = squared,
        logvar_limit: float = 20.0,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.latent = encoder, decoder, latent
        self.beta, self.reconstruction, self.logvar_limit = beta, reconstruction, logvar_limit

    def encode(self, x: Tensor) -> Posterior:
        mean, logvar = self.encoder(x).float().chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-self.logvar_limit, self.logvar_limit))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z).float()

    def reconstruct(self, x: Tensor, noise: Noise) -> tuple[Tensor, Loss]:
        """What comes back of x through a latent that is drawn from its posterior, (B, *S), and the loss of that."""
        posterior = self.encode(x)
        eps = noise.normal(tuple(posterior.mean.shape[1:]), Stream.POSTERIOR)
        decoded = self.decode(posterior.sample(eps))
        return decoded, elbo(self.reconstruction(decoded, x), posterior, self.beta)

    def loss(self, batch: Batch, noise: Noise, player: str) -> Loss:
        return self.reconstruct(batch.x, noise)[1]

    @torch.no_grad()
    def sample(self, cond: Cond, noise: Noise) -> Tensor:
        """Decode z ~ N(0, I)."""
        return self.decode(noise.normal(self.latent, Stream.PRIOR))
