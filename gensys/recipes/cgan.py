"""Conditional adversarial networks on labelled images and vectors."""

from __future__ import annotations

from typing import Annotated, Literal

from gensys import needs
from gensys.core import Generative
from gensys.domain import open_domain
from gensys.knobs import Rivals, Training
from gensys.objectives.games import hinge, non_saturating
from gensys.objectives.penalties import R1, Lazy
from gensys.run import Run
from gensys.systems.cgan import cgan as system


def cgan(
    data: str = "mnist",  # labelled images or vectors, or a store of their latents
    size: int = 32,  # side to which encoded images are cropped and scaled
    conditioning: Literal["projection", "concatenation"] = "projection",  # how the critic is told the label
    game: Literal["hinge", "non_saturating"] = "hinge",  # what is played for
    spectral: bool = True,  # whether the critic's weights have a spectral norm of 1
    dropout: float = 0.0,  # probability that a feature of the critic is left out
    r1: float = 0.0,  # weight of the squared gradient of the critic at data; 0 = none
    every: Annotated[int, needs.R1] = 4,  # steps from one R1 penalty to the next, which is so many times as large
    rivals: Rivals = Rivals(),  # noqa: B008 - a frozen value
    training: Training = Training(batch=64, budget="150k", lr=1e-3),  # noqa: B008
) -> Run:
    """Conditional adversarial networks: one generator for all classes, and a critic that knows the label.

    Miyato and Koyama, 2018, "cGANs with projection discriminator", arXiv:1802.05637, section 3.
    """
    domain = open_domain(data, size, standardise="tables")

    def model() -> Generative:
        return system(
            domain.shape,
            classes=domain.classes,
            vector=domain.vector,
            projection=conditioning == "projection",
            game=hinge if game == "hinge" else non_saturating,
            latent=rivals.latent,
            width=rivals.width,
            depth=rivals.depth,
            turns=rivals.turns,
            normalised=spectral,
            dropout=dropout,
            penalty=Lazy(R1(r1), every) if r1 else None,
            bounded=domain.bounds is not None,
        )

    return domain.run(model, rivals.settings(training))
