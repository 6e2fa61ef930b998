"""The vector-quantised autoencoder on images, vectors and latents."""

from __future__ import annotations

from typing import Literal

from torch import nn

from gensys.bottlenecks.ema import EmaQuantiser
from gensys.bottlenecks.fsq import ScalarQuantiser
from gensys.bottlenecks.residual import ResidualQuantiser
from gensys.bottlenecks.vq import VectorQuantiser
from gensys.domain import open_domain
from gensys.errors import ConfigError
from gensys.knobs import Training
from gensys.run import Run
from gensys.systems.vq_vae import vq_vae as system

Kind = Literal["ema", "gradient", "residual", "fsq"]


def vq_vae(
    data: str = "mnist",  # images, vectors such as a CSV table, or a store of latents
    size: int = 32,  # side to which encoded images are cropped and scaled
    quantiser: Kind = "ema",  # codebook by moving averages or gradients; residual = several in turn; fsq = rounding
    codes: int = 256,  # vectors in a codebook
    dim: int = 16,  # numbers in one of them
    books: int = 4,  # codebooks of quantiser=residual
    levels: str = "8,6,5",  # values of every number of quantiser=fsq: their product is the number of codes
    decay: float = 0.99,  # of the moving averages
    revive: float = 0.1,  # part of a fair share of the latents below which a code is split off anew; 0 = never
    width: int = 32,  # channels at the finest resolution, doubled when it halves; hidden units for vectors
    depth: int = 2,  # resolutions of the convolutions; hidden layers for vectors
    patch: int = 2,  # side of the squares of pixels that are folded into channels first
    tokens: int = 4,  # codes of a vector
    beta: float = 0.25,  # weight of the commitment
    training: Training = Training(batch=32, budget="150k", lr=2e-3),  # noqa: B008 - a frozen value
) -> Run:
    """A vector-quantised autoencoder: images to whole numbers, for `gensys encode` and models of tokens.

    Van den Oord, Vinyals and Kavukcuoglu, 2017, "Neural discrete representation learning", arXiv:1711.00937, section 3.
    """
    domain = open_domain(data, size)

    def bottleneck() -> nn.Module:
        if quantiser == "fsq":
            return ScalarQuantiser(_levels(levels))
        if quantiser == "gradient":
            return VectorQuantiser(codes, dim)
        if quantiser == "residual":
            return ResidualQuantiser([EmaQuantiser(codes, dim, decay=decay, revive=revive) for _ in range(books)])
        return EmaQuantiser(codes, dim, decay=decay, revive=revive)

    return domain.run(
        lambda: system(domain.shape, bottleneck(), width=width, depth=depth, patch=patch, tokens=tokens, beta=beta),
        training.settings(),
    )


def _levels(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ConfigError(f"'levels' is whole numbers with commas, such as 8,6,5, got {text!r}") from None
