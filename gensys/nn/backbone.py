"""The network of a path model for data of a shape: a transformer or a U-Net for images, a perceptron for vectors."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from torch import nn

from gensys.errors import ConfigError
from gensys.nn.dit import DiT
from gensys.nn.mlp import MLP
from gensys.nn.unet import UNet

__all__ = ["backbone", "squares"]

_COARSEST = 4  # the largest square of pixels that is chosen unasked: what a larger one holds is more than texture
# (width, depth): what an hour of a CPU trains; what GPUs train is given by hand
_DIT, _UNET, _MLP = (96, 4), (32, 1), (128, 3)
_TOKENS, _PLACES = 8, 16  # a side: attention costs the fourth power of it, convolutions the square


def squares(sides: Collection[int], places: int, multiple: int = 1) -> int:
    """The side of the squares of pixels that are taken together, for at least `places` of them along all `sides`.

    The largest of 4, 2 and 1 that leaves multiples of `multiple`; 1 if none does.
    """
    for square in (_COARSEST, _COARSEST // 2):
        if all(side % (square * multiple) == 0 and side // square >= places for side in sides):
            return square
    return 1


def backbone(
    shape: tuple[int, ...],
    net: Literal["dit", "unet"],
    *,
    width: int = 0,
    depth: int = 0,
    heads: int = 4,
    patch: int = 0,
    levels: int = 3,
    fold: int = 0,
    classes: int = 0,
    vector: int = 0,
    outputs: int | None = None,
    others: Collection[tuple[int, ...]] = (),
) -> nn.Module:
    """The untrained network for data of `shape`, (C, H, W) or (D,); vectors have an MLP, whatever `net` says.

    width: features of a token (DiT), first channels (U-Net), units (MLP). depth: blocks (DiT), blocks of a resolution
    (U-Net), layers (MLP). heads, patch: see `DiT`. levels, how many resolutions, and fold: see `UNet`. A width, depth,
    patch or fold of 0 goes by the kind of network and the sides of the data. classes: 0 = unconditional. vector: length
    of a vector that rows are conditioned on. outputs: channels that it returns, if not those of the data. others:
    shapes that it must take as well, of images that are not all alike.

    Raises: ConfigError for data, and ValueError for a network, that do not fit.
    """
    if min(width, depth, patch, fold) < 0 or levels < 1:
        raise ConfigError(
            f"'width', 'depth', 'patch' and 'fold' must be at least 0 (0 = by the data) and 'levels' at least 1, got "
            f"{width}, {depth}, {patch}, {fold} and {levels}"
        )
    if len(shape) == 1:
        width, depth = width or _MLP[0], depth or _MLP[1]
        return MLP(shape[0], width=width, depth=depth, classes=classes, vector=vector, outputs=outputs)
    if len(shape) != 3:
        raise ConfigError(f"images (C, H, W) or vectors (D,) are wanted, and the data are {shape}")
    channels, rows, columns = shape
    sides = sorted({side for each in (shape, *others) for side in each[1:]})
    if net == "dit":
        patch = patch or squares(sides, _TOKENS)
        if any(side % patch for side in sides):
            raise ConfigError(f"'patch' must divide all sides, which are {_listed(sides)}, got {patch}")
        return DiT(
            (channels, rows, columns),
            patch=patch,
            width=width or _DIT[0],
            depth=depth or _DIT[1],
            heads=heads,
            classes=classes,
            vector=vector,
            outputs=outputs,
        )
    halved = 2 ** (levels - 1)
    fold = fold or squares(sides, _PLACES, halved)
    if any(side % (fold * halved) for side in sides):
        raise ConfigError(
            f"each of the 'levels' after the first has half the sides, and the sides are {_listed(sides)}, over "
            f"'fold', got {levels} levels and a fold of {fold}: give fewer levels, a smaller fold, or net=dit"
        )
    return UNet(
        channels,
        width=width or _UNET[0],
        multipliers=(1, *[2] * (levels - 1)),
        blocks=depth or _UNET[1],
        attention=tuple(range(1, levels)),
        classes=classes,
        vector=vector,
        outputs=outputs,
        fold=fold,
    )


def _listed(sides: Collection[int]) -> str:
    *most, last = map(str, sides)
    return f"{', '.join(most)} and {last}" if most else last
