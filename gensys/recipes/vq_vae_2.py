"""The vector-quantised autoencoder of images with two grids of codes."""

from __future__ import annotations

from gensys.bottlenecks.ema import EmaQuantiser
from gensys.domain import open_domain
from gensys.knobs import Training
from gensys.run import Run
from gensys.systems.vq_vae_2 import vq_vae_2 as system


def vq_vae_2(
    data: str = "mnist",  # images
    size: int = 32,  # side to which encoded images are cropped and scaled
    codes: int = 256,  # vectors in the codebook of either grid
    dim: int = 16,  # numbers in one of them
    decay: float = 0.99,  # of the codebooks' moving averages
    revive: float = 0.1,  # part of a fair share of the latents below which a code is split off anew; 0 = never
    width: int = 32,  # channels at the finest resolution, doubled when it halves
    depth: int = 2,  # resolutions of the convolutions down to the fine grid; the coarse one has half its sides
    patch: int = 2,  # side of the squares of pixels that are folded into channels first
    beta: float = 0.25,  # weight of the commitment
    training: Training = Training(batch=32, budget="150k", lr=2e-3),  # noqa: B008 - a frozen value
) -> Run:
    """An autoencoder with coarse codes for the whole and fine ones for details, for `gensys encode` and vq_prior.

    Razavi, van den Oord and Vinyals, 2019, "Generating diverse high-fidelity images with VQ-VAE-2", arXiv:1906.00446,
    section 3.1.
    """
    domain = open_domain(data, size)

    def book() -> EmaQuantiser:
        return EmaQuantiser(codes, dim, decay=decay, revive=revive)

    return domain.run(
        lambda: system(domain.image, book(), book(), width=width, depth=depth, patch=patch, beta=beta),
        training.settings(),
    )
