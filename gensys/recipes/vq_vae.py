"""The vector-quantised autoencoder on images, vectors and latents."""

from __future__ import annotations

from gensys.domain import open_domain
from gensys.knobs import Codebook, Training
from gensys.run import Run
from gensys.systems.vq_vae import vq_vae as system


def vq_vae(
    data: str = "mnist",  # images, vectors such as a CSV table, or a store of latents
    size: int = 32,  # side to which encoded images are cropped and scaled
    codebook: Codebook = Codebook(),  # noqa: B008 - a frozen value
    width: int = 32,  # channels at the finest resolution, doubled when it halves; hidden units for vectors
    depth: int = 2,  # resolutions of the convolutions; hidden layers for vectors
    patch: int = 2,  # side of the squares of pixels that are folded into channels first
    tokens: int = 4,  # codes of a vector
    beta: float = 0.25,  # weight of the commitment
    training: Training = Training(batch=32, budget="150k", lr=2e-3),  # noqa: B008
) -> Run:
    """A vector-quantised autoencoder: images to whole numbers, for `gensys encode` and models of tokens.

    Van den Oord, Vinyals and Kavukcuoglu, 2017, "Neural discrete representation learning", arXiv:1711.00937, section 3.
    """
    domain = open_domain(data, size)
    return domain.run(
        lambda: system(domain.shape, codebook.build(), width=width, depth=depth, patch=patch, tokens=tokens, beta=beta),
        training.settings(),
    )
