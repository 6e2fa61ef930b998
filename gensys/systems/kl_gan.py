"""The codec of latent diffusion as it was published: Gaussian latents, perceptual distance and a critic of patches.

    codec minimises   |x - G(x)| + perceptual d(x, G(x)) + beta KL / elements + adversarial lambda E -D(G(x))

Rombach, Blattmann, Lorenz, Esser and Ommer, 2021, "High-resolution image synthesis with latent diffusion models",
arXiv:2112.10752, section 3.1 and appendix G, equation 25. Without the learnt scale of the error of their code. See
`families.perceptual`.
"""

from __future__ import annotations

from torch import nn

from gensys.families.autoencoder import absolute
from gensys.families.perceptual import PerceptualCodec
from gensys.systems.kl_autoencoder import kl_autoencoder

__all__ = ["kl_gan"]


def kl_gan(
    shape: tuple[int, int, int],
    features: nn.Module,
    critic: nn.Module | None,
    *,
    channels: int = 4,
    widths: tuple[int, ...] = (32, 64),
    patch: int = 2,
    beta: float = 1e-4,
    perceptual: float = 1.0,
    adversarial: float = 0.5,
    adaptive: bool = True,
    start: int = 0,
) -> PerceptualCodec:
    """Images of `shape` (C, H, W) -> latents, see `systems.kl_autoencoder`; the rest is `PerceptualCodec`'s."""
    codec = kl_autoencoder(shape, channels=channels, widths=widths, patch=patch, beta=beta, reconstruction=absolute)
    return PerceptualCodec(
        codec, features, critic, perceptual=perceptual, adversarial=adversarial, adaptive=adaptive, start=start
    )
