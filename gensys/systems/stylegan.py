"""StyleGAN: a mapping network makes styles, which set the statistics of a synthesis network's features.

    z -> w -> (a_l, b_l) at every layer l;      the input of the synthesis network is a constant

Karras, Laine and Aila, 2018, "A style-based generator architecture for generative adversarial networks",
arXiv:1812.04948, figure 1b; all resolutions are trained at once, against the critic of version 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gensys.families.adversarial import Adversarial
from gensys.nn.mapping import Mapping, StyleGenerator, Synthesis
from gensys.nn.residual_critic import ResidualCritic
from gensys.nn.stylegan import AdaptiveLayer, StyleSynthesis
from gensys.objectives.games import non_saturating
from gensys.objectives.path_length import PathLength
from gensys.objectives.penalties import Penalty

__all__ = ["Style", "style_based", "stylegan"]


@dataclass(frozen=True)
class Style:
    """How latents become styles, in all versions. latent: numbers of z. styles: of w. depth: layers of the mapping.
    mixing, truncation: see `StyleGenerator`."""

    latent: int = 64
    styles: int = 64
    depth: int = 8
    mixing: float = 0.9
    truncation: float = 1.0


def style_based(
    synthesis: Callable[[], Synthesis],
    shape: tuple[int, int, int],
    channels: Sequence[int],
    style: Style,
    *,
    classes: int,
    penalty: Penalty | None,
    regulariser: PathLength | None = None,
) -> Adversarial:
    """The game of all versions, which differ in their synthesis. channels: of the critic at each resolution from 4 x 4
    on. penalty: on the critic. regulariser: of the generator."""
    mapping = Mapping(style.latent, style.styles, depth=style.depth, classes=classes)
    return Adversarial(
        StyleGenerator(mapping, synthesis(), mixing=style.mixing, truncation=style.truncation),
        ResidualCritic(shape, channels, classes=classes),
        (style.latent,),
        non_saturating,
        penalty=penalty,
        regulariser=regulariser,
    )


def stylegan(
    shape: tuple[int, int, int],
    channels: Sequence[int],
    style: Style = Style(),
    *,
    classes: int = 0,
    penalty: Penalty | None = None,
) -> Adversarial:
    """Images of `shape`, (C, side, side). channels: of both players at each resolution from 4 x 4 on. penalty: on the
    critic."""

    def synthesis() -> Synthesis:
        return StyleSynthesis(shape, style.styles, channels, layer=AdaptiveLayer, skip=False)

    return style_based(synthesis, shape, channels, style, classes=classes, penalty=penalty)
