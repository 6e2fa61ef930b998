"""VQGAN: a vector-quantised autoencoder that is held to a perceptual distance and a critic of patches.

    codec minimises   |x - G(x)| + perceptual d(x, G(x)) + adversarial lambda E -D(G(x))
                      + |sg(z) - e|^2 + beta |z - sg(e)|^2                                z = encoder(x), e its code

Esser, Rombach and Ommer, 2020, "Taming transformers for high-resolution image synthesis", arXiv:2012.09841, equations 4
to 7. Without attention in the networks. Its prior: `systems.vq_prior`. See `families.perceptual`.
"""

from __future__ import annotations

from torch import nn

from gensys.families.autoencoder import absolute
from gensys.families.perceptual import PerceptualCodec
from gensys.systems.vq_vae import vq_vae

__all__ = ["vqgan"]


def vqgan(
    shape: tuple[int, int, int],
    quantiser: nn.Module,
    features: nn.Module,
    critic: nn.Module | None,
    *,
    width: int = 32,
    depth: int = 2,
    patch: int = 2,
    beta: float = 0.25,
    perceptual: float = 1.0,
    adversarial: float = 0.8,
    adaptive: bool = True,
    start: int = 0,
) -> PerceptualCodec:
    """Images of `shape` (C, H, W) -> codes, see `systems.vq_vae`; the rest is `PerceptualCodec`'s."""
    codec = vq_vae(shape, quantiser, width=width, depth=depth, patch=patch, beta=beta, reconstruction=absolute)
    return PerceptualCodec(
        codec, features, critic, perceptual=perceptual, adversarial=adversarial, adaptive=adaptive, start=start
    )
