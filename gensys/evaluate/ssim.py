"""Structural similarity of two images, at one scale (SSIM) and at several (MS-SSIM).

    l  = (2 m_x m_y + C1) / (m_x^2 + m_y^2 + C1)        means, in a Gaussian window of 11 pixels, sigma 1.5
    cs = (2 s_xy + C2) / (s_x^2 + s_y^2 + C2)           covariance and variances, in the same window
    SSIM    = mean of l cs over the windows within the image, then over channels
    MS-SSIM = mean over channels of SSIM_M^w_M * product over scales i < M of (mean of cs_i)^w_i
    C1 = (0.01 L)^2, C2 = (0.03 L)^2, L the range of values

Wang, Bovik, Sheikh and Simoncelli, 2004, "Image quality assessment: from error visibility to structural similarity",
IEEE Trans. Image Processing 13, equation 13; Wang, Simoncelli and Bovik, 2003, "Multiscale structural similarity
for image quality assessment", Asilomar, equation 7.

l compares brightness, and so is not of images in [-1, 1], whose means are around 0: they are moved to [0, L] first.
A scale is half of the one before, by means of 2 x 2 pixels; the last row or column of an odd side is repeated, as the
authors' program does (pytorch-msssim counts zeros there, and differs from it for such sides).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gensys.evaluate.checks import check_images

__all__ = ["WEIGHTS", "MultiScale", "least_side", "most_scales", "ms_ssim", "ssim"]

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, finest first: the authors', measured on people, as printed; they add up to 1.0001."""

_SIZE, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03
_BATCH = 64  # images at a time: five maps in float64 of 256 x 256 pixels and 3 channels are 500 MB


@dataclass(frozen=True)
class MultiScale:
    """values: (n,) float64, in [0, 1]. scales: how many. weights: theirs, finest first."""

    values: Tensor
    scales: int
    weights: tuple[float, ...]


def least_side(scales: int) -> int:
    """The least side, in pixels, of images that have so many scales: the window must fit in the last one."""
    return (_SIZE - 1) * 2 ** (scales - 1) + 1


def most_scales(side: int) -> int:
    """The number of scales, at most 5, of images whose shorter side is this; 0 if there is none."""
    return sum(least_side(scales) <= side for scales in range(1, len(WEIGHTS) + 1))


def _window(like: Tensor) -> Tensor:
    at = torch.arange(_SIZE, dtype=like.dtype, device=like.device) - _SIZE // 2
    weights = torch.exp(-at.square() / (2.0 * _SIGMA**2))
    return weights / weights.sum()


def _smooth(x: Tensor, window: Tensor) -> Tensor:
    """Weighted means over all windows within (B, C, H, W): (B, C, H - 10, W - 10)."""
    rows = x.flatten(0, 1)[:, None]  # a channel is an image of its own
    down, across = window[None, None, :, None], window[None, None, None]
    return functional.conv2d(functional.conv2d(rows, down), across).unflatten(0, x.shape[:2])[:, :, 0]


def _similarity(x: Tensor, y: Tensor, span: float) -> tuple[Tensor, Tensor]:
    """SSIM and the mean of cs of images in [0, span], (B, C) each."""
    window = _window(x)
    c1, c2 = (_K1 * span) ** 2, (_K2 * span) ** 2
    mean_x, mean_y, xx, yy, xy = (_smooth(z, window) for z in (x, y, x * x, y * y, x * y))
    square_x, square_y, product = mean_x.square(), mean_y.square(), mean_x * mean_y
    contrast = (2.0 * (xy - product) + c2) / ((xx - square_x) + (yy - square_y) + c2)
    brightness = (2.0 * product + c1) / (square_x + square_y + c1)
    return (brightness * contrast).mean((2, 3)), contrast.mean((2, 3))


def _halved(x: Tensor) -> Tensor:
    odd = (0, x.shape[3] % 2, 0, x.shape[2] % 2)
    return functional.avg_pool2d(functional.pad(x, odd, mode="replicate") if any(odd) else x, 2)


def _check(a: Tensor, b: Tensor, low: float, high: float, scales: int) -> None:
    if not low < high:
        raise ValueError(f"'low' must be below 'high', got {low} and {high}")
    check_images("a", a, scaled=False)
    check_images("b", b, tuple(a.shape[1:]), scaled=False)
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"'b' must have {a.shape[0]} rows as 'a' has, got {b.shape[0]}")
    side = min(a.shape[2:])
    if side < least_side(scales):
        fit = most_scales(side)
        remedy = f"scales={fit}, with the weights of those alone" if fit else "larger images"
        raise ValueError(
            f"'a' must have sides of at least {least_side(scales)} pixels for {scales} scales, got {side}; try {remedy}"
        )


def ssim(a: Tensor, b: Tensor, *, low: float = -1.0, high: float = 1.0) -> Tensor:
    """SSIM of the pairs of (n, C, H, W) images: (n,) float64, 1 for equal images, symmetric, at least -1.

    low, high: the values of black and white; L = high - low. Sides of at least 11 pixels.
    ValueError for other shapes, images that are not finite or too small.
    """
    _check(a, b, low, high, 1)
    parts = zip(a.split(_BATCH), b.split(_BATCH), strict=True)
    return torch.cat([_similarity(x.double() - low, y.double() - low, high - low)[0].mean(1) for x, y in parts])


def ms_ssim(a: Tensor, b: Tensor, *, low: float = -1.0, high: float = 1.0, scales: int = 5) -> MultiScale:
    """MS-SSIM of the pairs of (n, C, H, W) images, with sides of at least 161 pixels for the five scales.

    low, high: the values of black and white. scales: 1 to 5; fewer than five use the first of `WEIGHTS`, divided by
    their sum, which is another measure than the authors': figures compare at equal scales only, and the result says
    which they are. A mean of cs below 0, where images are each other's negatives, counts as 0: a root has none.
    ValueError for other shapes, images that are not finite, or too small for the scales: it says what fits.
    """
    if not 1 <= scales <= len(WEIGHTS):
        raise ValueError(f"'scales' must be 1 to {len(WEIGHTS)}, got {scales}")
    _check(a, b, low, high, scales)
    total = 1.0 if scales == len(WEIGHTS) else sum(WEIGHTS[:scales])  # all five as they are published
    weights = tuple(weight / total for weight in WEIGHTS[:scales])
    values = []
    for x, y in zip(a.split(_BATCH), b.split(_BATCH), strict=True):
        x, y = x.double() - low, y.double() - low
        product = x.new_ones(x.shape[:2])
        for scale, weight in enumerate(weights, 1):
            whole, contrast = _similarity(x, y, high - low)
            product = product * (whole if scale == scales else contrast).clamp_min(0.0) ** weight
            if scale < scales:
                x, y = _halved(x), _halved(y)
        values.append(product.mean(1))
    return MultiScale(torch.cat(values), scales, weights)
