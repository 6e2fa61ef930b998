"""How well a generator's images move when its input is moved: EQ-T, in decibels.

    EQ-T = 10 log10(2^2 / E (g(T z) - T g(z))^2)    over random translations T, the pixels that T g(z) knows, channels

2 is the range of [-1, 1]. Translations by whole pixels show the network alone; others (EQ-T_frac) need T g(z) between
pixels, which a Lanczos filter makes, and its own error is part of the figure.

Karras et al., 2021, "Alias-free generative adversarial networks", arXiv:2106.12423, section 2.2 (equation 3), appendix
E.1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gensys.evaluate.reconstruction import psnr
from gensys.noise import Noise, Stream

__all__ = ["translated", "translation_equivariance", "translations"]

LARGEST = 0.125  # of the image's side: the paper's
LOBES = 3  # of the Lanczos filter on either side: the paper's


def translations(noise: Noise, side: int, *, whole: bool = True) -> Tensor:
    """A shift along x and y for each id, uniform up to an eighth of the side: (B, 2) in sides of the image.

    whole: rounded to whole pixels, as EQ-T has it; else EQ-T_frac's.
    """
    shift = LARGEST * (2.0 * noise.uniform((2,), Stream.AUGMENT) - 1.0)
    return (shift * side).round() / side if whole else shift


def _along(side: int, shift: Tensor) -> tuple[Tensor, Tensor]:
    """One axis: matrices (B, side, side) that move by `shift` (B,), in pixels, and which results are known, (B, side).

    The Lanczos kernel sinc(t) sinc(t / 3), |t| < 3; at whole shifts it is a one among zeros, up to rounding.
    """
    place = torch.arange(
        -LOBES, side + LOBES, device=shift.device, dtype=torch.float64
    )  # some pixels that there aren't
    t = place[LOBES:-LOBES, None] - place - shift.double()[:, None, None]
    kernel = torch.sinc(t) * torch.sinc(t / LOBES) * (t.abs() < LOBES)
    kernel = torch.where(kernel.abs() < 1e-5, 0.0, kernel)  # 1e-5: what rounding of the shift to float32 leaves
    inside = kernel[..., LOBES:-LOBES]
    # what reaches further than the extra pixels is not there at all
    known = (inside != 0.0).any(-1) & (kernel[..., :LOBES] == 0.0).all(-1) & (kernel[..., -LOBES:] == 0.0).all(-1)
    reach = place[LOBES:-LOBES] - shift.double()[:, None]
    known &= (reach > -0.5) & (reach < side - 0.5)
    return inside / torch.where(known, inside.sum(-1), 1.0)[..., None], known


def translated(images: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, C, side, side) moved by shift (B, 2), in sides: to the right, downwards. With them, (B, side, side),
    which pixels are known: those made of pixels of the image alone."""
    side = images.shape[-1]
    x, known_x = _along(side, shift[:, 0] * side)
    y, known_y = _along(side, shift[:, 1] * side)
    moved = torch.einsum("byv,bxu,bcvu->bcyx", y, x, images.double())
    return moved.to(images.dtype), known_y[:, :, None] & known_x[:, None, :]


@torch.no_grad()
def translation_equivariance(generate: Callable[[Tensor], Tensor], shift: Tensor) -> float:
    """EQ-T in decibels. generate: a shift for each row, (B, 2) in sides, -> images (B, C, side, side) of the range
    [-1, 1], of the same styles at each call. shift: see `translations`. Infinite where there is no error.

    Raises: ValueError for images that aren't square, or a shift by more than the image.
    """
    still, moved = generate(torch.zeros_like(shift)), generate(shift)
    if still.ndim != 4 or still.shape[-1] != still.shape[-2] or still.shape[0] != shift.shape[0]:
        raise ValueError(f"'generate' must return ({shift.shape[0]}, C, side, side) images, got {tuple(still.shape)}")
    wanted, known = translated(still, shift)
    if not bool(known.flatten(1).any(1).all()):
        raise ValueError(f"'shift' must leave a part of the image in it, got up to {float(shift.abs().max()):g} sides")
    errors = (moved.double() - wanted.double()).square().mean(1)
    return psnr(float((errors * known).sum() / known.sum()))
