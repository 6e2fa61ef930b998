"""Pictures for the report, as data URIs."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image as Frame

__all__ = ["Picture", "frames", "halves", "picture", "sheet", "spread"]

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """An image inside the page. uri: its bytes. width, height: in CSS pixels, at which one pixel is one pixel."""

    uri: str
    width: int
    height: int


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` items, evenly spread, the first and the last among them."""
    last = len(items) - 1
    return [items[k] for k in sorted({round(k * last / (count - 1)) for k in range(count)})] if items else []


def _uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def picture(path: Path) -> Picture | None:
    """A PNG file as it is, animation included; None if it is no whole PNG."""
    from PIL import Image

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            return Picture(_uri(data), image.width, image.height)
    # Pillow tells of damage by any of these, depending on where it is; SyntaxError is a broken chunk.
    except (OSError, ValueError, SyntaxError):
        return None


def frames(path: Path, count: int) -> list[Picture]:
    """At most `count` frames of an animated PNG as stills, the last among them; [] if it is no whole PNG."""
    from PIL import Image, ImageSequence

    try:
        with Image.open(path, formats=["PNG"]) as image:
            every = [frame.copy() for frame in ImageSequence.Iterator(image)]
            return [_still(frame) for frame in spread(every, count)]
    except (OSError, ValueError, SyntaxError):
        return []


def _still(image: Frame) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", save_all=False)
    return Picture(_uri(buffer.getvalue()), image.width, image.height)


def sheet(images: npt.NDArray[np.uint8], columns: int) -> Picture:
    """uint8 (N, C, H, W), C = 1 or 3, in rows; small images enlarged by a whole number; gaps are transparent."""
    import numpy as np
    from PIL import Image

    n, channels, height, width = images.shape
    scale = max(1, min(8, round(960 / (columns * (width + 1)))))
    columns = min(columns, n)
    rows, gap = math.ceil(n / columns), 1
    opaque = np.full((n, 1, height, width), 255, np.uint8)
    cells = np.concatenate([images, opaque], axis=1).transpose(0, 2, 3, 1)
    canvas = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, channels + 1), np.uint8)
    for k, cell in enumerate(cells):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        canvas[top : top + height, left : left + width] = cell
    big = Image.fromarray(canvas.repeat(scale, axis=0).repeat(scale, axis=1))
    buffer = io.BytesIO()
    big.save(buffer, format="PNG")
    return Picture(_uri(buffer.getvalue()), big.width, big.height)


def halves(path: Path, count: int) -> list[tuple[Picture, Picture]]:
    """`count` pictures side by side in a PNG, each cut into its upper and its lower half and enlarged.

    ValueError if it is no whole PNG that can be cut so.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            array = np.array(image.convert("L" if image.mode == "L" else "RGB"))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path.name} is no whole PNG file") from error
    array = np.atleast_3d(array).transpose(2, 0, 1)
    high, wide = array.shape[1] // 2, array.shape[2] // max(count, 1)
    if not count or array.shape[1:] != (2 * high, count * wide) or not high:
        raise ValueError(f"{path.name} does not hold two rows of {count} pictures")
    cells = [array[:, :, k * wide : (k + 1) * wide] for k in range(count)]
    return [(sheet(cell[None, :, :high], 10), sheet(cell[None, :, high:], 10)) for cell in cells]  # of ten in a row
