"""CycleGAN: translation between two domains of images, learnt from images of both that do not belong together.

    generators   G_b: a -> b, G_a: b -> a          critics   D_a, D_b: maps of scores
    D_b minimises   E (D_b(b) - 1)^2 / 2 + E D_b(G_b(a))^2 / 2
    G_b minimises   E (D_b(G_b(a)) - 1)^2 + weight (cycle + identity)        and the same for a

It is a conditional adversarial network. Its condition is an image of the other domain and the label of this one: a row
trains the direction that its label says, `label` and `image` are what samples are asked for too, and the label chooses
the network among two. Least squares have a half before every term here (objectives/games.py), so the weight is halved
as well: the generators minimise half of what the paper's do. Rows of both labels are equally frequent, as
`Unpaired.balanced` makes them.

Zhu, Park, Isola and Efros, 2017, "Unpaired image-to-image translation using cycle-consistent adversarial networks",
arXiv:1703.10593, equations 1 to 3 with the least squares of section 4; an earlier generator in place of the pool of
images that it made, see families/adversarial.py.
"""

from __future__ import annotations

from gensys.families.adversarial import Adversarial
from gensys.nn.translator import PerLabel, Translator, patch_critic, residual_generator
from gensys.objectives.cycle import CycleConsistency
from gensys.objectives.games import least_squares

__all__ = ["cyclegan"]


def cyclegan(
    shape: tuple[int, ...],
    *,
    width: int = 64,
    halvings: int = 2,
    blocks: int = 6,
    critic_width: int = 64,
    critic_halvings: int = 3,
    cycle: float = 10.0,
    identity: float = 0.5,
    history: int = 0,
) -> Adversarial:
    """Images of `shape`, (C, H, W), of two domains, labels 0 and 1. See `nn.translator` for the networks; cycle,
    identity: weights as in the paper, see `objectives.cycle`; history: see `Adversarial`."""
    return Adversarial(
        Translator(residual_generator(shape, width=width, halvings=halvings, blocks=blocks) for _ in range(2)),
        PerLabel(patch_critic(shape, width=critic_width, halvings=critic_halvings) for _ in range(2)),
        (0,),
        least_squares,
        regulariser=CycleConsistency(0.5 * cycle, identity),
        history=history,
    )
