"""Conditional adversarial networks: both players are told the label.

Mirza and Osindero, 2014, "Conditional generative adversarial nets", arXiv:1411.1784, equation 2, with the label beside
the data (concatenation), or Miyato and Koyama, 2018, "cGANs with projection discriminator", arXiv:1802.05637, equation
10, with hinge game and spectral normalisation.
"""

from __future__ import annotations

from gensys.families.adversarial import Adversarial
from gensys.nn.dcgan import Given, critic, generator
from gensys.objectives.games import Game, hinge
from gensys.objectives.penalties import Penalty

__all__ = ["cgan"]


def cgan(
    shape: tuple[int, ...],
    *,
    classes: int,
    vector: int = 0,
    projection: bool = True,
    game: Game = hinge,
    latent: int = 64,
    width: int = 32,
    depth: int = 3,
    turns: int = 1,
    normalised: bool = True,
    dropout: float = 0.0,
    penalty: Penalty | None = None,
    bounded: bool = True,
) -> Adversarial:
    """Data of `shape`, (C, H, W) or (D,), by label or vector. See `nn.dcgan` for the networks."""
    given = Given(classes, vector)
    if not given.numbers:
        raise ValueError("'classes' and 'vector' are 0, there is nothing to go by: take a gan, or data with labels")
    return Adversarial(
        generator(shape, latent=latent, width=width, depth=depth, given=given, bounded=bounded),
        critic(
            shape,
            width=width,
            depth=depth,
            given=given,
            projection=projection,
            normalised=normalised,
            dropout=dropout,
        ),
        (latent,),
        game,
        turns=turns,
        penalty=penalty,
    )
