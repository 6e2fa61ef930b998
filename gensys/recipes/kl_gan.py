"""The codec of latent diffusion with its perceptual and adversarial terms."""

from __future__ import annotations

from gensys.domain import open_domain
from gensys.knobs import Likeness, Training
from gensys.run import Run
from gensys.systems.kl_gan import kl_gan as system


def kl_gan(
    data: str = "mnist",  # images
    size: int = 32,  # side to which encoded images are cropped and scaled
    channels: int = 4,  # channels of the latents
    width: int = 32,  # channels at the finest resolution; doubles when it halves
    levels: int = 2,  # resolutions; the latents are 2 * 2^(levels - 1) times smaller than the image
    beta: float = 1e-4,  # weight of the KL term
    likeness: Likeness = Likeness(),  # noqa: B008 - a frozen value
    training: Training = Training(batch=16, budget="150k", lr=4e-3),  # noqa: B008
) -> Run:
    """A KL autoencoder whose images are to look right: perceptual distance and a critic, for latent models.

    Rombach, Blattmann, Lorenz, Esser and Ommer, 2021, "High-resolution image synthesis with latent diffusion models",
    arXiv:2112.10752, section 3.1 and appendix G.
    """
    domain = open_domain(data, size)
    return domain.run(
        lambda: system(
            domain.image,
            likeness.features(domain.image),
            likeness.critic(domain.image),
            channels=channels,
            widths=tuple(width * 2**k for k in range(levels)),
            beta=beta,
            perceptual=likeness.perceptual,
            adversarial=likeness.adversarial,
            adaptive=likeness.adaptive,
            start=likeness.start,
        ),
        likeness.settings(training),
    )
