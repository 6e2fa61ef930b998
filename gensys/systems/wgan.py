"""Wasserstein adversarial networks: the critic's gain is an estimate of how far samples are to be moved.

    max over 1-Lipschitz D of  E D(x) - E D(G(z))  =  W1(data, samples)

A critic whose weights are kept in [-clip, clip] is K-Lipschitz for some K: the estimate is K W1 at best.

Arjovsky, Chintala and Bottou, 2017, "Wasserstein GAN", arXiv:1701.07875, algorithm 1.
"""

from __future__ import annotations

from gensys.families.adversarial import Adversarial
from gensys.nn.dcgan import critic, generator
from gensys.objectives.games import wasserstein

__all__ = ["wgan"]


def wgan(
    shape: tuple[int, ...],
    *,
    clip: float = 0.01,
    latent: int = 64,
    width: int = 32,
    depth: int = 3,
    turns: int = 5,
    bounded: bool = True,
) -> Adversarial:
    """Data of `shape`, (C, H, W) or (D,). See `nn.dcgan` for the networks; turns: of the critic, for one of the
    generator."""
    return Adversarial(
        generator(shape, latent=latent, width=width, depth=depth, bounded=bounded),
        critic(shape, width=width, depth=depth, offset=False),
        (latent,),
        wasserstein,
        turns=turns,
        clip=clip,
    )
