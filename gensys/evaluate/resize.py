"""The one way in which metrics change the size of images: bicubic, with a filter as wide as what it leaves out.

A filter that is not widened when images shrink lets frequencies through that the smaller grid cannot hold, and
distances then measure the resizing: Parmar, Zhang and Zhu, 2022, "On aliased resizing and surprising subtleties in GAN
evaluation", arXiv:2104.11222. So this is their rule: Pillow's BICUBIC (Keys, 1981, with a = -1/2, stretched by the
factor of reduction) on floating-point values, not rounded to bytes between or after its two passes, then clamped.

Equal to Pillow on its images of mode "F" to 4e-5 of 255. On bytes Pillow rounds and clamps between the passes as well:
at a hard edge that is up to 20 of 255 elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gensys.evaluate.checks import check_images

__all__ = ["resized"]

_BATCH = 64  # images at a time in float64


def resized(images: Tensor, height: int, width: int) -> Tensor:
    """Images (n, C, H, W) in [-1, 1] as (n, C, height, width), float32, in [-1, 1]. Both sides are stretched on their
    own. Images of that size already keep their values.

    In float64: coefficients in float32 are off by up to 7e-3 of 255.
    ValueError for images that are not, or sides below 1.
    """
    check_images("images", images)
    if height < 1 or width < 1:
        raise ValueError(f"'height' and 'width' must be at least 1, got {height} and {width}")
    if images.shape[2:] == (height, width):
        return images.float()
    parts = [
        functional.interpolate(part.double(), size=(height, width), mode="bicubic", antialias=True)
        .clamp(-1.0, 1.0)  # bicubic overshoots at edges
        .float()
        for part in images.split(_BATCH)
    ]
    return torch.cat(parts)
