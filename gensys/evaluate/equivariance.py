"""How well a generator's images move and turn when its input does: EQ-T and EQ-R, in decibels.

    EQ = 10 log10(2^2 / E (g(T z) - T g(z))^2)    over random T, the pixels that T g(z) knows, channels

T are translations or rotations; 2 is the range of [-1, 1]. Translations by whole pixels show the network alone; others
(EQ-T_frac), and rotations, need T g(z) between pixels, which a Lanczos filter makes, and its own error is part of the
figure. For rotations the authors also take away what lies in the corners of the spectrum, which has no place to turn
to; here it counts as an error, so EQ-R is at most theirs.

Karras et al., 2021, "Alias-free generative adversarial networks", arXiv:2106.12423, section 2.2 (equation 3), appendix
E.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gensys.evaluate.reconstruction import psnr
from gensys.noise import Noise, Stream

__all__ = [
    "rotated",
    "rotation_equivariance",
    "rotations",
    "translated",
    "translation_equivariance",
    "translations",
]

LARGEST = 0.125  # of the image's side: the paper's
LOBES = 3  # of the Lanczos filter on either side: the paper's


def translations(noise: Noise, side: int, *, whole: bool = True) -> Tensor:
    """A shift along x and y for each id, uniform up to an eighth of the side: (B, 2) in sides of the image.

    whole: rounded to whole pixels, as EQ-T has it; else EQ-T_frac's.
    """
    shift = LARGEST * (2.0 * noise.uniform((2,), Stream.AUGMENT) - 1.0)
    return (shift * side).round() / side if whole else shift


def _lanczos(t: Tensor) -> Tensor:
    """sinc(t) sinc(t / 3) within three pixels; at whole numbers a one among zeros."""
    kernel = torch.sinc(t) * torch.sinc(t / LOBES) * (t.abs() < LOBES)
    return torch.where(kernel.abs() < 1e-5, 0.0, kernel)  # 1e-5: what rounding of a shift to float32 leaves


def _along(side: int, shift: Tensor) -> tuple[Tensor, Tensor]:
    """One axis: matrices (B, side, side) that move by `shift` (B,), in pixels, and which results are known, (B, side).

    By the Lanczos kernel.
    """
    place = torch.arange(
        -LOBES, side + LOBES, device=shift.device, dtype=torch.float64
    )  # some pixels that there aren't
    t = place[LOBES:-LOBES, None] - place - shift.double()[:, None, None]
    kernel = _lanczos(t)
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


def rotations(noise: Noise) -> Tensor:
    """An angle for each id, uniform over the whole turn: (B,) radians."""
    return 2.0 * math.pi * noise.uniform((1,), Stream.AUGMENT)[:, 0]


def rotated(images: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, C, side, side) turned about their centre by turn (B,), in radians, from the axis to the right towards
    the one that points down. With them, (B, side, side), which pixels are known: those made of pixels of the image
    alone. By the product of two Lanczos filters, along x and y."""
    side = images.shape[-1]
    place = torch.arange(side, device=turn.device, dtype=torch.float64) - (side - 1) / 2
    cos, sin = (part[:, None, None] for part in (turn.double().cos(), turn.double().sin()))
    y, x = torch.meshgrid(place, place, indexing="ij")
    # where a pixel of the result comes from: turned back, and counted from the first pixel
    from_x, from_y = cos * x + sin * y + (side - 1) / 2, cos * y - sin * x + (side - 1) / 2
    pixels, near = images.double().flatten(2), torch.arange(1 - LOBES, 1 + LOBES, device=turn.device)
    total, weights = torch.zeros_like(images, dtype=torch.float64), torch.zeros_like(from_x)
    known = torch.ones_like(from_x, dtype=torch.bool)
    for dx in near:
        for dy in near:
            at_x, at_y = from_x.floor() + dx, from_y.floor() + dy
            weight = _lanczos(from_x - at_x) * _lanczos(from_y - at_y)
            inside = (at_x >= 0) & (at_x < side) & (at_y >= 0) & (at_y < side)
            index = (at_y.clamp(0, side - 1) * side + at_x.clamp(0, side - 1)).long().flatten(1)
            taken = pixels.gather(2, index[:, None].expand(-1, images.shape[1], -1)).view_as(total)
            total, weights = total + weight[:, None] * taken, weights + weight
            known &= inside | (weight == 0.0)
    return (total / weights[:, None]).to(images.dtype), known


@torch.no_grad()
def rotation_equivariance(generate: Callable[[Tensor], Tensor], turn: Tensor) -> float:
    """EQ-R in decibels. generate: an angle for each row, (B,) radians, -> images turned about their centre, which are
    as `translation_equivariance` has them. turn: see `rotations`. Infinite where there is no error."""
    return _equivariance(generate, turn, rotated, "turn")


@torch.no_grad()
def translation_equivariance(generate: Callable[[Tensor], Tensor], shift: Tensor) -> float:
    """EQ-T in decibels. generate: a shift for each row, (B, 2) in sides, -> images (B, C, side, side) of the range
    [-1, 1], of the same styles at each call. shift: see `translations`. Infinite where there is no error.

    Raises: ValueError for images that aren't square, or a shift by more than the image.
    """
    return _equivariance(generate, shift, translated, "shift")


def _equivariance(
    generate: Callable[[Tensor], Tensor],
    by: Tensor,
    transformed: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    name: str,
) -> float:
    still, moved = generate(torch.zeros_like(by)), generate(by)
    if still.ndim != 4 or still.shape[-1] != still.shape[-2] or still.shape[0] != by.shape[0]:
        raise ValueError(f"'generate' must return ({by.shape[0]}, C, side, side) images, got {tuple(still.shape)}")
    wanted, known = transformed(still, by)
    if not bool(known.flatten(1).any(1).all()):
        raise ValueError(f"{name!r} must leave a part of the image in it, got up to {float(by.abs().max()):g}")
    errors = (moved.double() - wanted.double()).square().mean(1)
    return psnr(float((errors * known).sum() / known.sum()))
