"""Pictures of tensors: grids, PNG files, animations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

__all__ = ["beneath", "grid", "save_animation", "save_png", "to_uint8"]


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] -> 0..255, rounded, clipped; any shape."""
    return ((x.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def grid(images: Tensor, columns: int, gap: int = 1, scale: int = 1) -> Image.Image:
    """uint8 (N, C, H, W), C = 1 or 3, row by row on a white ground. scale: a whole-number enlargement."""
    n, channels, height, width = images.shape
    if channels not in (1, 3):
        raise ValueError(f"'images' must have 1 or 3 channels to be drawn, got {channels}")
    rows = math.ceil(n / columns)
    sheet = torch.full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8)
    for k, image in enumerate(images):
        top, left = gap + k // columns * (height + gap), gap + k % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    array = sheet.permute(1, 2, 0).squeeze(-1).numpy() if channels == 1 else sheet.permute(1, 2, 0).numpy()
    picture = Image.fromarray(array)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def beneath(sets: Sequence[Tensor], columns: int) -> Tensor:
    """Images that belong together, such as originals and reconstructions, in the order in which `grid` shows each row
    of the first set above that of the second, and so on.

    Each set (N, C, H, W) uint8; returns such images, the last rows filled up with white ones.
    """
    short = -len(sets[0]) % columns
    filled = [torch.cat([images, images.new_full((short, *images.shape[1:]), 255)]) for images in sets]
    rows = zip(*(images.split(columns) for images in filled), strict=True)
    return torch.cat([images for row in rows for images in row])


def save_png(picture: Image.Image, path: Path) -> None:
    """Written beside and renamed, so that a viewer never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    picture.save(part, format="PNG", optimize=True)
    part.replace(path)


def save_animation(frames: Sequence[Image.Image], path: Path, milliseconds: int = 120, hold: int = 1500) -> None:
    """An animated PNG that loops: every frame for so many milliseconds, the last one held longer."""
    durations = [milliseconds] * (len(frames) - 1) + [hold]
    frames[0].save(path, format="PNG", save_all=True, append_images=list(frames[1:]), duration=durations, loop=0)
