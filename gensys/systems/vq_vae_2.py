"""VQ-VAE-2: an autoencoder of images with a coarse and a fine grid of codes.

    minimise  |x - decoder|^2 + sum over both levels of |sg(z) - e|^2 + beta |z - sg(e)|^2

Razavi, van den Oord and Vinyals, 2019, "Generating diverse high-fidelity images with VQ-VAE-2", arXiv:1906.00446,
section 3.1. Its prior: `systems.vq_prior`.
"""

from __future__ import annotations

from typing import cast

from torch import nn

from gensys.bottlenecks.hierarchy import HierarchicalQuantiser
from gensys.bottlenecks.vq import Quantiser
from gensys.families.vq import VQAutoencoder
from gensys.nn.autoencoder import Decoder, Encoder

__all__ = ["vq_vae_2"]


def vq_vae_2(
    shape: tuple[int, ...],
    top: nn.Module,
    bottom: nn.Module,
    *,
    width: int = 32,
    depth: int = 2,
    patch: int = 2,
    beta: float = 0.25,
) -> VQAutoencoder:
    """Images (C, H, W) -> H W / (4 f^2) codes of the top, then H W / f^2 of the bottom, f = patch 2^(depth - 1).

    top, bottom: see `bottlenecks.vq.Quantiser`, of one size. depth: resolutions of the convolutions down to the bottom,
    whose channels begin with `width` and double.
    """
    if len(shape) != 3:
        raise ValueError(f"'shape' must be (C, H, W), got {shape}: vectors have no coarser grid, take vq_vae")
    channels, height, side = shape
    factor = patch * 2 ** (depth - 1)
    if height % (2 * factor) or side % (2 * factor):
        raise ValueError(f"'shape' must have sides that are multiples of {2 * factor}, got {shape}")
    widths = tuple(width * 2**k for k in range(depth))
    features, (t, b) = widths[-1], (cast("Quantiser", q).dim for q in (top, bottom))
    grid, coarse = (height // factor, side // factor), (height // factor // 2, side // factor // 2)
    quantiser = HierarchicalQuantiser(
        features,
        grid,
        coarse,
        down=Encoder(features, t, (features, features)),
        top=top,
        up=Decoder(features, t, (features, features)),
        join=nn.Conv2d(2 * features, b, 1),
        bottom=bottom,
    )
    encoder, decoder = Encoder(channels, features, widths, patch), Decoder(channels, features + b, widths, patch)
    return VQAutoencoder(encoder, quantiser, decoder, grid, beta=beta)
