"""Wasserstein adversarial networks with clipped weights."""

from __future__ import annotations

from gensys.core import Generative
from gensys.domain import open_domain
from gensys.knobs import Rivals, Training
from gensys.run import Run
from gensys.systems.wgan import wgan as system


def wgan(
    data: str = "mnist",  # images, vectors, or a store of latents
    size: int = 32,  # side to which encoded images are cropped and scaled
    clip_weights: float = 0.01,  # largest magnitude of a weight of the critic
    rivals: Rivals = Rivals(turns=5, momentum=0.0),  # noqa: B008 - a frozen value
    training: Training = Training(batch=64, budget="600k", lr=1e-3),  # noqa: B008
) -> Run:
    """Wasserstein adversarial networks: the critic estimates a distance, with its weights kept small.

    Arjovsky, Chintala and Bottou, 2017, "Wasserstein GAN", arXiv:1701.07875, algorithm 1. Theirs is RMSProp: Adam
    without momentum, but for the correction of its first steps.
    """
    domain = open_domain(data, size, standardise="tables")

    def model() -> Generative:
        return system(
            domain.shape,
            clip=clip_weights,
            latent=rivals.latent,
            width=rivals.width,
            depth=rivals.depth,
            turns=rivals.turns,
            bounded=domain.bounds is not None,
        )

    return domain.run(model, rivals.settings(training))
