"""Latent diffusion: a U-Net on the latents of a codec."""

from __future__ import annotations

from gensys import needs
from gensys.core import Generative
from gensys.domain import open_domain
from gensys.errors import DataError
from gensys.knobs import SAMPLING, TARGETS, Network, Sampling, TargetName, Training
from gensys.run import Run
from gensys.systems.latent_diffusion import PATH
from gensys.systems.latent_diffusion import latent_diffusion as system


def latent_diffusion(
    data: str,  # a latent store, as `gensys encode` makes it
    target: TargetName = "v",  # what is predicted: noise is as published, and learns more slowly
    dropout: needs.Dropout = 0.1,  # probability that a row is trained without its label
    aspect: needs.Aspect = 1.0,  # width over height of samples, if latents have several shapes: the nearest is taken
    network: Network = Network(net="unet", width=64, depth=1, levels=2),  # noqa: B008 - a frozen value
    training: Training = Training(batch=32, budget="200k", lr=2e-3),  # noqa: B008
    sampling: Sampling = Sampling(solver="ddim", steps=30, grid="trailing", guidance=1.5),  # noqa: B008
) -> Run:
    """Diffusion with a U-Net on the latents of a store; samples are decoded by its codec.

    Rombach, Blattmann, Lorenz, Esser and Ommer, 2021, "High-resolution image synthesis with latent diffusion models",
    arXiv:2112.10752, section 3.2.
    """
    domain = open_domain(data, aspect=aspect)
    if domain.latents is None:
        raise DataError(
            f"{data!r} is {domain.source.about}, and latent_diffusion models latents: `gensys encode` makes them"
        )

    def prior() -> Generative:
        return system(
            network.build(domain),
            domain.shape,
            target=TARGETS[target],
            dropout=dropout,
            sampler=sampling.sampler(PATH, domain),
        )

    return domain.run(prior, training.settings(), SAMPLING | {"aspect"})
