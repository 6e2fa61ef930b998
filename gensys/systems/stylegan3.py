"""StyleGAN 3: a generator whose layers treat features as samples of band-limited signals, so that detail moves along.

Karras et al., 2021, "Alias-free generative adversarial networks", arXiv:2106.12423, table 3 (configurations T and R);
against the critic of version 2, without style mixing and path regularisation, as there.
"""

from __future__ import annotations

from collections.abc import Sequence

from gensys.families.adversarial import Adversarial
from gensys.nn.mapping import Mapping, StyleGenerator
from gensys.nn.residual_critic import ResidualCritic
from gensys.nn.stylegan3 import AliasFreeSynthesis
from gensys.objectives.games import non_saturating
from gensys.objectives.penalties import Penalty

__all__ = ["stylegan3"]


def stylegan3(
    shape: tuple[int, int, int],
    channels: Sequence[int],
    *,
    classes: int = 0,
    latent: int = 64,
    styles: int = 64,
    depth: int = 2,
    mixing: float = 0.0,
    truncation: float = 1.0,
    penalty: Penalty | None = None,
    layers: int = 14,
    rotations: bool = False,
) -> Adversarial:
    """Images of `shape`, (C, side, side). channels: of the critic at each resolution from 4 x 4 on; the generator has
    the last one's at the band of the image, inversely more at lower ones, up to the most. styles: numbers of w. depth:
    layers of the mapping. layers: of the synthesis network. rotations: version R, not T. penalty: on the critic."""
    mapping = Mapping(latent, styles, depth=depth, classes=classes)
    synthesis = AliasFreeSynthesis(
        shape, styles, layers=layers, base=channels[-1] * shape[-1], most=max(channels), rotations=rotations
    )
    return Adversarial(
        StyleGenerator(mapping, synthesis, mixing=mixing, truncation=truncation),
        ResidualCritic(shape, channels, classes=classes),
        (latent,),
        non_saturating,
        penalty=penalty,
    )
