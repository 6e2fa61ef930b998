"""StyleGAN: a mapping network makes styles, which set the statistics of a synthesis network's features.

    z -> w -> (a_l, b_l) at every layer l;      the input of the synthesis network is a constant

Karras, Laine and Aila, 2018, "A style-based generator architecture for generative adversarial networks",
arXiv:1812.04948, figure 1b; all resolutions are trained at once, against the critic of version 2.
"""

from __future__ import annotations

from collections.abc import Sequence

from gensys.families.adversarial import Adversarial
from gensys.nn.mapping import Mapping, StyleGenerator
from gensys.nn.residual_critic import ResidualCritic
from gensys.nn.stylegan import AdaptiveLayer, StyleSynthesis
from gensys.objectives.games import non_saturating
from gensys.objectives.penalties import Penalty

__all__ = ["stylegan"]


def stylegan(
    shape: tuple[int, int, int],
    channels: Sequence[int],
    *,
    classes: int = 0,
    latent: int = 64,
    styles: int = 64,
    depth: int = 8,
    mixing: float = 0.9,
    truncation: float = 1.0,
    penalty: Penalty | None = None,
) -> Adversarial:
    """Images of `shape`, (C, side, side). channels: of both players at each resolution from 4 x 4 on. styles: numbers
    of w. depth: layers of the mapping. penalty: on the critic."""
    mapping = Mapping(latent, styles, depth=depth, classes=classes)
    synthesis = StyleSynthesis(shape, styles, channels, layer=AdaptiveLayer, skip=False)
    return Adversarial(
        StyleGenerator(mapping, synthesis, mixing=mixing, truncation=truncation),
        ResidualCritic(shape, channels, classes=classes),
        (latent,),
        non_saturating,
        penalty=penalty,
    )
