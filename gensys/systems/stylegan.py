"""StyleGAN: a mapping network makes styles, which set the statistics of a synthesis network's features.

    z -> w -> (a_l, b_l) at every layer l;      the input of the synthesis network is a constant

Karras, Laine and Aila, 2018, "A style-based generator architecture for generative adversarial networks",
arXiv:1812.04948, figure 1b; all resolutions are trained at once, against the critic of version 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from gensys.families.adversarial import Adversarial
from gensys.nn.dcgan import Given
from gensys.nn.dcgan import critic as strided
from gensys.nn.mapping import Mapping, StyleGenerator, Synthesis
from gensys.nn.residual_critic import ResidualCritic
from gensys.nn.stylegan import AdaptiveLayer, StyleSynthesis, levels_of
from gensys.objectives.games import non_saturating
from gensys.objectives.path_length import PathLength
from gensys.objectives.penalties import Penalty

__all__ = ["Style", "style_based", "stylegan"]


@dataclass(frozen=True)
class Style:
    """What all versions have. latent: numbers of z. styles: of w. depth: layers of the mapping. mixing, truncation: see
    `StyleGenerator`. critic: residual = that of version 2; strided = that of a DCGAN, with which small images come in
    minutes, see docs/adversarial.md."""

    latent: int = 64
    styles: int = 64
    depth: int = 8
    mixing: float = 0.9
    truncation: float = 1.0
    critic: Literal["residual", "strided"] = "residual"


def style_based(
    synthesis: Callable[[], Synthesis],
    shape: tuple[int, int, int],
    channels: Sequence[int],
    style: Style,
    *,
    classes: int,
    penalty: Penalty | None,
    regulariser: PathLength | None = None,
    bounded: bool = False,
) -> Adversarial:
    """The game of all versions, which differ in their synthesis. channels: of the critic at each resolution from 4 x 4
    on. penalty: on the critic. regulariser: of the generator. bounded: whether a tanh keeps images in [-1, 1]."""
    mapping = Mapping(style.latent, style.styles, depth=style.depth, classes=classes)
    # it begins at half the image's side, where four times the channels cost as much
    critic = (
        strided(shape, width=4 * channels[-1], depth=levels_of(shape), given=Given(classes))
        if style.critic == "strided"
        else ResidualCritic(shape, channels, classes=classes)
    )
    return Adversarial(
        StyleGenerator(mapping, synthesis(), mixing=style.mixing, truncation=style.truncation, bounded=bounded),
        critic,
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
    texture: bool = True,
    bounded: bool = False,
) -> Adversarial:
    """Images of `shape`, (C, side, side). channels: of both players at each resolution from 4 x 4 on. penalty: on the
    critic. texture: whether layers have noise inputs. bounded: whether a tanh keeps images in [-1, 1]."""

    def synthesis() -> Synthesis:
        return StyleSynthesis(shape, style.styles, channels, layer=AdaptiveLayer, skip=False, texture=texture)

    return style_based(synthesis, shape, channels, style, classes=classes, penalty=penalty, bounded=bounded)
