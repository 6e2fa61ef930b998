"""Wasserstein adversarial networks with a gradient penalty instead of clipped weights.

    critic: minimise  E D(G(z)) - E D(x) + lambda E (|grad D(x')| - 1)^2          x' between x and G(z)

Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville, 2017, "Improved training of Wasserstein GANs", arXiv:1704.00028,
algorithm 1.
"""

from __future__ import annotations

from gensys.families.adversarial import Adversarial
from gensys.nn.dcgan import critic, generator
from gensys.objectives.games import wasserstein
from gensys.objectives.penalties import GradientPenalty

__all__ = ["wgan_gp"]


def wgan_gp(
    shape: tuple[int, ...],
    *,
    weight: float = 10.0,
    one_sided: bool = False,
    latent: int = 64,
    width: int = 32,
    depth: int = 3,
    turns: int = 5,
    bounded: bool = True,
) -> Adversarial:
    """Data of `shape`, (C, H, W) or (D,). weight, one_sided: of the penalty, see there; the rest: see
    `wgan`."""
    return Adversarial(
        generator(shape, latent=latent, width=width, depth=depth, bounded=bounded),
        critic(shape, width=width, depth=depth, offset=False),
        (latent,),
        wasserstein,
        turns=turns,
        penalty=GradientPenalty(weight, one_sided),
    )
