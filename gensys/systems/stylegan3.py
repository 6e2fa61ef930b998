"""StyleGAN 3: a generator whose layers treat features as samples of band-limited signals, so that detail moves along.

Karras et al., 2021, "Alias-free generative adversarial networks", arXiv:2106.12423, table 3 (configurations T and R);
against the critic of version 2, without style mixing and path regularisation, as there.
"""

from __future__ import annotations

from collections.abc import Sequence

from gensys.families.adversarial import Adversarial
from gensys.nn.mapping import Synthesis
from gensys.nn.stylegan3 import AliasFreeSynthesis
from gensys.objectives.penalties import Penalty
from gensys.systems.stylegan import Style, style_based

__all__ = ["stylegan3"]


def stylegan3(
    shape: tuple[int, int, int],
    channels: Sequence[int],
    style: Style = Style(depth=2, mixing=0.0),  # noqa: B008 - a frozen value
    *,
    classes: int = 0,
    penalty: Penalty | None = None,
    layers: int = 14,
    rotations: bool = False,
) -> Adversarial:
    """Images of `shape`, (C, side, side). channels: of the critic at each resolution from 4 x 4 on; the generator has
    the last one's at the band of the image, inversely more at lower ones, up to the most. penalty: on the critic.
    layers: of the synthesis network. rotations: version R, not T."""

    def synthesis() -> Synthesis:
        base, most = channels[-1] * shape[-1], max(channels)
        return AliasFreeSynthesis(shape, style.styles, layers=layers, base=base, most=most, rotations=rotations)

    return style_based(synthesis, shape, channels, style, classes=classes, penalty=penalty)
