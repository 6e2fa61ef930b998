"""The vector-quantised autoencoder, on images and on vectors.

    minimise  |x - decoder(e_k)|^2 + |sg(z) - e_k|^2 + beta |z - sg(e_k)|^2,   z = encoder(x), e_k the nearest code

van den Oord, Vinyals and Kavukcuoglu, 2017, "Neural discrete representation learning", arXiv:1711.00937, equations 1 to
3 and appendix A.1; codebooks begun and kept alive: Razavi, van den Oord and Vinyals, 2019, "Generating diverse
high-fidelity images with VQ-VAE-2", arXiv:1906.00446, section 3.1 (the moving averages). Other quantisers:
`bottlenecks.residual`, `bottlenecks.fsq`.
"""

from __future__ import annotations

from torch import nn

from gensys.bottlenecks.vq import Quantiser
from gensys.families.autoencoder import Reconstruction, squared
from gensys.families.vq import VQAutoencoder
from gensys.nn.autoencoder import Decoder, Encoder, Perceptron

__all__ = ["vq_vae"]


def vq_vae(
    shape: tuple[int, ...],
    quantiser: nn.Module,
    *,
    width: int = 32,
    depth: int = 2,
    patch: int = 2,
    tokens: int = 4,
    beta: float = 0.25,
    reconstruction: Reconstruction = squared,
) -> VQAutoencoder:
    """Images (C, H, W) -> codes (H / f, W / f), f = patch 2^(depth - 1); vectors (D,) -> `tokens` codes.

    quantiser: see `bottlenecks.vq.Quantiser`. depth: resolutions of the convolutions, whose channels begin with `width`
    and double, or hidden layers of `width`.
    """
    dim = _dim(quantiser)
    if len(shape) == 1:
        encoder = nn.Sequential(
            Perceptron(shape[0], dim * tokens, width=width, depth=depth), nn.Unflatten(1, (dim, tokens))
        )
        decoder = nn.Sequential(nn.Flatten(1), Perceptron(dim * tokens, shape[0], width=width, depth=depth))
        return VQAutoencoder(encoder, quantiser, decoder, (tokens,), beta=beta, reconstruction=reconstruction)
    if len(shape) != 3:
        raise ValueError(f"'shape' must be (C, H, W) or (D,), got {shape}")
    channels, height, side = shape
    factor = patch * 2 ** (depth - 1)
    if height % factor or side % factor:
        raise ValueError(f"'shape' must have sides that are multiples of {factor}, got {shape}")
    widths = tuple(width * 2**k for k in range(depth))
    return VQAutoencoder(
        Encoder(channels, dim, widths, patch),
        quantiser,
        Decoder(channels, dim, widths, patch),
        (height // factor, side // factor),
        beta=beta,
        reconstruction=reconstruction,
    )


def _dim(quantiser: nn.Module | Quantiser) -> int:
    return quantiser.dim  # pyright: ignore[reportReturnType, reportAttributeAccessIssue]
