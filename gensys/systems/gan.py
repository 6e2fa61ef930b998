"""Generative adversarial networks: a generator against a classifier of data and samples.

    max_D min_G  E log D(x) + E log(1 - D(G(z)))          and with log D(G(z)) for the generator where that saturates

Goodfellow et al., 2014, "Generative adversarial networks", arXiv:1406.2661, equation 1; with the networks of Radford,
Metz and Chintala, 2015, arXiv:1511.06434; spectral normalisation: Miyato et al., 2018, arXiv:1802.05957; R1: Mescheder
et al., 2018, arXiv:1801.04406.
"""

from __future__ import annotations

from gensys.families.adversarial import Adversarial
from gensys.nn.dcgan import critic, generator
from gensys.objectives.games import Game, InstanceNoise, non_saturating
from gensys.objectives.penalties import Penalty

__all__ = ["gan"]


def gan(
    shape: tuple[int, ...],
    *,
    game: Game = non_saturating,
    latent: int = 64,
    width: int = 32,
    depth: int = 3,
    turns: int = 1,
    normalised: bool = False,
    dropout: float = 0.0,
    penalty: Penalty | None = None,
    instance: InstanceNoise | None = None,
    bounded: bool = True,
) -> Adversarial:
    """Data of `shape`, (C, H, W) or (D,). See `nn.dcgan` for the networks, `Adversarial` for the rest."""
    return Adversarial(
        generator(shape, latent=latent, width=width, depth=depth, bounded=bounded),
        critic(shape, width=width, depth=depth, normalised=normalised, dropout=dropout),
        (latent,),
        game,
        turns=turns,
        penalty=penalty,
        instance=instance,
    )
