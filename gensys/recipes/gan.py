"""Adversarial networks on images, vectors and latents."""

from __future__ import annotations

from typing import Annotated, Literal

from gensys import needs
from gensys.core import Generative
from gensys.domain import open_domain
from gensys.knobs import Rivals, Training
from gensys.objectives import games
from gensys.objectives.games import InstanceNoise
from gensys.objectives.penalties import R1, Lazy
from gensys.run import Run
from gensys.systems.gan import gan as system

_GAMES = {
    "minimax": games.minimax,
    "non_saturating": games.non_saturating,
    "least_squares": games.least_squares,
    "hinge": games.hinge,
}


def gan(
    data: str = "mnist",  # images, vectors, or a store of latents
    size: int = 32,  # side to which encoded images are cropped and scaled
    game: Literal["minimax", "non_saturating", "least_squares", "hinge"] = "non_saturating",  # what is played for
    spectral: bool = False,  # whether the critic's weights have a spectral norm of 1
    dropout: float = 0.0,  # probability that a feature of the critic is left out
    r1: float = 0.1,  # weight of the squared gradient of the critic at data; 0 = none
    every: Annotated[int, needs.R1] = 4,  # steps from one R1 penalty to the next, which is so many times as large
    instance: float = 0.0,  # standard deviation of noise on all that the critic sees, at first
    instance_steps: int = 0,  # steps over which that noise falls to 0; 0 = it stays
    rivals: Rivals = Rivals(),  # noqa: B008 - a frozen value
    training: Training = Training(batch=64, budget="300k", lr=1e-3),  # noqa: B008
) -> Run:
    """Generative adversarial networks: a generator that learns from a critic, in one step a sample.

    Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville and Bengio, 2014, "Generative adversarial
    networks", arXiv:1406.2661, section 3.
    """
    domain = open_domain(data, size, standardise="tables")

    def model() -> Generative:
        return system(
            domain.shape,
            game=_GAMES[game],
            latent=rivals.latent,
            width=rivals.width,
            depth=rivals.depth,
            turns=rivals.turns,
            normalised=spectral,
            dropout=dropout,
            penalty=Lazy(R1(r1), every) if r1 else None,
            instance=InstanceNoise(instance, instance_steps) if instance else None,
            bounded=domain.bounds is not None,
        )

    return domain.run(model, rivals.settings(training))
