"""The perceptual distance of two images: how far apart their features are, of a network that is not trained meanwhile.

    d(x, y) = mean over maps l of   mean over places p of   |u(f_l(x))_p - u(f_l(y))_p|^2 / 2
    u(f)_p  = f_p / sqrt(|f_p|^2 + c^2 C_l)           f_l: (C_l, H_l, W_l), f_p its C_l numbers at a place

u is nearly a unit vector where there is something to see, so a term is nearly 1 - cos of the angle between features;
the constant c keeps noise on plain areas from counting as much as a contour, and makes u injective: d is 0 only where
all features are equal. d lies in [0, 2]. Without c, and with weights for the channels that people's judgements were
fitted to, this is LPIPS: Zhang, Isola, Efros, Shechtman and Wang, 2018, "The unreasonable effectiveness of deep
features as a perceptual metric", arXiv:1801.03924, equation 1. There are no such weights here, they are all 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Features", "perceptual_distance"]

Features = Callable[[Tensor], Sequence[Tensor]]
"""Images (B, C, H, W) -> maps of features, each (B, C_l, H_l, W_l), of one resolution or several."""

_FLOOR = 0.1  # c: a tenth of the size that features of a picture with full contrast have, about 1


def perceptual_distance(features: Features, x: Tensor, y: Tensor) -> Tensor:
    """d(x, y) for each row, (B,) float32; x, y: (B, C, H, W). Raises ValueError for images of two shapes."""
    if x.shape != y.shape:
        raise ValueError(f"'y' must be shaped like 'x', {tuple(x.shape)}, got {tuple(y.shape)}")
    with torch.autocast(x.device.type, enabled=False):  # near the end differences are smaller than bfloat16 can tell
        pairs = zip(features(x.float()), features(y.float()), strict=True)
        found = [(_unit(a) - _unit(b)).square().sum(1).flatten(1).mean(1) for a, b in pairs]
    return 0.5 * torch.stack(found).mean(0)


def _unit(maps: Tensor) -> Tensor:
    return maps / (maps.square().sum(1, keepdim=True) + _FLOOR**2 * maps.shape[1]).sqrt()
