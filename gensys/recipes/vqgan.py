"""VQGAN: codes of images that are to look right."""

from __future__ import annotations

from gensys.domain import open_domain
from gensys.knobs import Codebook, Likeness, Training
from gensys.run import Run
from gensys.systems.vqgan import vqgan as system


def vqgan(
    data: str = "mnist",  # images
    size: int = 32,  # side to which encoded images are cropped and scaled
    codebook: Codebook = Codebook(),  # noqa: B008 - a frozen value
    width: int = 32,  # channels at the finest resolution, doubled when it halves
    depth: int = 2,  # resolutions of the convolutions
    patch: int = 2,  # side of the squares of pixels that are folded into channels first
    beta: float = 0.25,  # weight of the commitment
    likeness: Likeness = Likeness(),  # noqa: B008
    training: Training = Training(batch=32, budget="150k", lr=2e-3),  # noqa: B008
) -> Run:
    """VQGAN, a codec of codes whose images are to look right: perceptual distance and a critic, for vq_prior.

    Esser, Rombach and Ommer, 2020, "Taming transformers for high-resolution image synthesis", arXiv:2012.09841, section
    3.1.
    """
    domain = open_domain(data, size)
    return domain.run(
        lambda: system(
            domain.image,
            codebook.build(),
            likeness.features(domain.image),
            likeness.critic(domain.image),
            width=width,
            depth=depth,
            patch=patch,
            beta=beta,
            perceptual=likeness.perceptual,
            adversarial=likeness.adversarial,
            adaptive=likeness.adaptive,
            start=likeness.start,
        ),
        likeness.settings(training),
    )
