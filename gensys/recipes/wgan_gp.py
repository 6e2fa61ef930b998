"""Wasserstein adversarial networks with a gradient penalty."""

from __future__ import annotations

from gensys.core import Generative
from gensys.domain import open_domain
from gensys.knobs import Rivals, Training
from gensys.run import Run
from gensys.systems.wgan_gp import wgan_gp as system


def wgan_gp(
    data: str = "mnist",  # images, vectors, or a store of latents
    size: int = 32,  # side to which encoded images are cropped and scaled
    penalty: float = 10.0,  # weight of the gradient penalty
    one_sided: bool = False,  # whether gradients of the critic that are shorter than 1 cost nothing
    rivals: Rivals = Rivals(turns=5, momentum=0.0),  # noqa: B008 - a frozen value
    training: Training = Training(batch=64, budget="600k", lr=1e-3),  # noqa: B008
) -> Run:
    """Wasserstein adversarial networks with a gradient penalty: the critic's gradient has length 1 where it matters.

    Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville, 2017, "Improved training of Wasserstein GANs",
    arXiv:1704.00028, algorithm 1.
    """
    domain = open_domain(data, size, standardise="tables")

    def model() -> Generative:
        return system(
            domain.shape,
            weight=penalty,
            one_sided=one_sided,
            latent=rivals.latent,
            width=rivals.width,
            depth=rivals.depth,
            turns=rivals.turns,
            bounded=domain.bounds is not None,
        )

    return domain.run(model, rivals.settings(training))
