"""StyleGAN 2: styles scale weights instead of features, images of all resolutions are added, paths are regular.

Karras et al., 2019, "Analyzing and improving the image quality of StyleGAN", arXiv:1912.04958, sections 2 to 4, tables
1 (configurations B to E).
"""

from __future__ import annotations

from collections.abc import Sequence

from gensys.families.adversarial import Adversarial
from gensys.nn.mapping import Mapping, StyleGenerator
from gensys.nn.residual_critic import ResidualCritic
from gensys.nn.stylegan import StyleSynthesis
from gensys.objectives.games import non_saturating
from gensys.objectives.path_length import PathLength
from gensys.objectives.penalties import Penalty

__all__ = ["stylegan2"]


def stylegan2(
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
    path: PathLength | None = None,
) -> Adversarial:
    """Images of `shape`, (C, side, side). channels: of both players at each resolution from 4 x 4 on. styles: numbers
    of w. depth: layers of the mapping. penalty: on the critic. path: the path-length regulariser."""
    mapping = Mapping(latent, styles, depth=depth, classes=classes)
    synthesis = StyleSynthesis(shape, styles, channels)
    return Adversarial(
        StyleGenerator(mapping, synthesis, mixing=mixing, truncation=truncation),
        ResidualCritic(shape, channels, classes=classes),
        (latent,),
        non_saturating,
        penalty=penalty,
        regulariser=path,
    )
