"""How well a codec gives images back: mean squared error and peak signal-to-noise ratio on images it was not shown."""

from __future__ import annotations

import math

from torch import Tensor

from gensys.evaluate.checks import check_images

__all__ = ["psnr", "squared_errors"]

_PEAK = 2.0  # the range of [-1, 1]


def squared_errors(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Mean squared error of every image over its pixels, in units of [-1, 1]: (n,) float64; its mean is the set's MSE.

    Both (n, C, H, W). ValueError for other shapes, NaN, or images outside [-1, 1].
    """
    check_images("images", images)
    check_images("reconstructions", reconstructions, tuple(images.shape[1:]), scaled=False)
    if images.shape[0] != reconstructions.shape[0]:
        raise ValueError(f"'reconstructions' must have {images.shape[0]} rows, got {reconstructions.shape[0]}")
    return (images.double() - reconstructions.double()).square().flatten(1).mean(1)


def psnr(mse: float) -> float:
    """10 log10(peak^2 / mse) in decibels, with peak = 2, the range of [-1, 1]; infinite for mse = 0.

    Of the whole set's error, not the mean of the images' decibels: one perfect image would make that infinite.
    """
    if mse < 0.0:
        raise ValueError(f"'mse' must not be negative, got {mse}")
    return math.inf if mse == 0.0 else 10.0 * math.log10(_PEAK**2 / mse)
