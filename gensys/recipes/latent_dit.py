"""A class-conditional flow-matching transformer on the latents of a codec."""

from __future__ import annotations

from gensys import needs
from gensys.core import Generative
from gensys.domain import open_domain
from gensys.errors import DataError
from gensys.knobs import SAMPLING, Sampling, Training
from gensys.paths import Linear
from gensys.run import Run
from gensys.systems.flow_dit import flow_dit


def latent_dit(
    data: str,  # a latent store, as `gensys encode` makes it
    width: int = 128,  # features of a token in the transformer
    depth: int = 5,  # blocks of the transformer
    heads: int = 4,  # heads of the attention
    patch: int = 2,  # side of the squares of latents that become one token
    dropout: needs.Dropout = 0.1,  # probability that a row is trained without its label
    aspect: needs.Aspect = 1.0,  # width over height of samples, if latents have several shapes: the nearest is taken
    training: Training = Training(batch=64, budget="500k", lr=3e-3),  # noqa: B008 - a frozen value
    sampling: Sampling = Sampling(solver="heun", steps=12, guidance=2.0, guide_from=0.8, guide_to=0.1),  # noqa: B008
) -> Run:
    """Flow matching with a diffusion transformer on the latents of a store; samples are decoded by its codec.

    Ma, Goldstein, Albergo, Boffi, Vanden-Eijnden and Xie, 2024, "SiT: exploring flow and diffusion-based generative
    models with scalable interpolant transformers", arXiv:2401.08740.
    """
    domain = open_domain(data, aspect=aspect)
    if domain.latents is None:
        raise DataError(f"{data!r} is {domain.source.about}, and latent_dit models latents: `gensys encode` makes them")

    def prior() -> Generative:
        return flow_dit(
            domain.image,
            classes=domain.classes,
            patch=patch,
            width=width,
            depth=depth,
            heads=heads,
            dropout=dropout,
            sampler=sampling.sampler(Linear(), domain),
        )

    return domain.run(prior, training.settings(), SAMPLING | {"aspect"})
