"""StyleGAN 2: styles scale weights instead of features, images of all resolutions are added, paths are regular.

Karras et al., 2019, "Analyzing and improving the image quality of StyleGAN", arXiv:1912.04958, sections 2 to 4, tables
1 (configurations B to E).
"""

from __future__ import annotations

from collections.abc import Sequence

from gensys.families.adversarial import Adversarial
from gensys.nn.mapping import Synthesis
from gensys.nn.stylegan import StyleSynthesis
from gensys.objectives.path_length import PathLength
from gensys.objectives.penalties import Penalty
from gensys.systems.stylegan import Style, style_based

__all__ = ["stylegan2"]


def stylegan2(
    shape: tuple[int, int, int],
    channels: Sequence[int],
    style: Style = Style(),  # noqa: B008 - a frozen value
    *,
    classes: int = 0,
    penalty: Penalty | None = None,
    path: PathLength | None = None,
    texture: bool = True,
    bounded: bool = False,
) -> Adversarial:
    """Images of `shape`, (C, side, side). channels: of both players at each resolution from 4 x 4 on. penalty: on the
    critic. path: the path-length regulariser. texture: whether layers have noise inputs. bounded: whether a tanh keeps
    images in [-1, 1]."""

    def synthesis() -> Synthesis:
        return StyleSynthesis(shape, style.styles, channels, texture=texture)

    return style_based(
        synthesis, shape, channels, style, classes=classes, penalty=penalty, regulariser=path, bounded=bounded
    )
