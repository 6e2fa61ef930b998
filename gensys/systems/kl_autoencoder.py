"""The KL-regularised autoencoder of latent diffusion.

Rombach, Blattmann, Lorenz, Esser and Ommer, 2021, "High-resolution image synthesis with latent diffusion models",
arXiv:2112.10752, section 3.1 and appendix G; without the perceptual and adversarial terms that `systems.kl_gan` adds.
"""

from __future__ import annotations

from gensys.families.autoencoder import Autoencoder, Reconstruction, squared
from gensys.nn.autoencoder import Decoder, Encoder

__all__ = ["kl_autoencoder"]


def kl_autoencoder(
    shape: tuple[int, int, int],
    *,
    channels: int = 4,
    widths: tuple[int, ...] = (32, 64),
    patch: int = 2,
    beta: float = 1e-4,
    reconstruction: Reconstruction = squared,
) -> Autoencoder:
    """Images of `shape` (C, H, W) -> latents (channels, H / f, W / f), f = patch 2^(len(widths) - 1)."""
    factor = patch * 2 ** (len(widths) - 1)
    image_channels, height, width = shape
    if height % factor or width % factor:
        raise ValueError(f"'shape' must have sides that are multiples of {factor}, got {shape}")
    return Autoencoder(
        Encoder(image_channels, 2 * channels, widths, patch),
        Decoder(image_channels, channels, widths, patch),
        (channels, height // factor, width // factor),
        beta=beta,
        reconstruction=reconstruction,
    )
