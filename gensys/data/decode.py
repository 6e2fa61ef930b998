"""Bytes of a PNG, JPEG or WebP file to pixels. Imports neither torch nor the rest of gensys: a decoder starts fast."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

__all__ = ["SUFFIXES", "DamagedError", "decode", "is_grey", "size_of"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_GREY = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I", "F")
# Pillow reports damage as OSError by its rules, but its readers of headers and metadata raise what they stumble over.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class DamagedError(Exception):
    """An item that cannot be used; the text says why, in a few words that are the same every time."""


def _open(data: bytes) -> Image.Image:
    if not data:
        raise DamagedError("it is empty")
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:  # whose own text holds an address in memory
        raise DamagedError("no image that Pillow knows") from error
    except _DAMAGE as error:
        raise DamagedError(str(error) or type(error).__name__) from error


def is_grey(data: bytes) -> bool:
    """Whether an image has no colour, from its header. Raises DamagedError if that cannot be read."""
    with _open(data) as image:
        return image.mode in _GREY


def size_of(data: bytes) -> tuple[int, int]:
    """(height, width) of an image as it is shown, from its header. Raises DamagedError if that cannot be read."""
    with _open(data) as image:
        try:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # by a quarter, either way
        except _DAMAGE as error:
            raise DamagedError(str(error) or type(error).__name__) from error
        return (image.width, image.height) if turned else (image.height, image.width)


def decode(data: bytes, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """An encoded image as pixels of `shape` (C, H, W), C = 1 or 3: upright, cropped at its centre, antialiased.

    Transparent pixels are shown on white, photographs turned upright as their EXIF says, of an animation the first
    frame is taken, 16 bits become 8. Raises DamagedError.
    """
    channels, height, width = shape
    with _open(data) as image:
        try:
            upright = ImageOps.exif_transpose(image)
        except _DAMAGE as error:
            raise DamagedError(str(error) or type(error).__name__) from error
        if upright.mode in ("I", "F"):
            raise DamagedError("32-bit pixels of unknown range: save it with 8 or 16 bits")
        if upright.mode.startswith("I;16"):
            upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
        if upright.has_transparency_data:
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright.convert("RGBA"))
        upright = upright.convert("L" if channels == 1 else "RGB")
    fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(fitted).reshape(height, width, channels).transpose(2, 0, 1)
