"""A folder of images as a source: PNG, JPEG and WebP, whose class is the folder that holds them."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from gensys.core import Batch
from gensys.data.source import check_rows, scaled
from gensys.errors import DataError
from gensys.noise import Noise

__all__ = ["ImageFolder"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
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
_KEPT_BYTES = 1 << 29  # decoded images are kept in memory if all of them fit into this


@dataclass(frozen=True)
class ImageFolder:
    """Images below a folder, centre-cropped to a square and resized to size x size.

    Classes are the folders that hold images, by their path below the root ("animals/cat"), sorted. Images in the root
    itself have no label (-1), and if all are there the source is unlabelled. Names that start with a dot and files
    with another suffix are not looked at. Transparent pixels are shown on white, photographs turned upright as their
    EXIF says, of an animation the first frame is taken. RGB, or grey if all files are.

    An image that cannot be decoded is an error that names it, when it is fetched or when the source is fingerprinted;
    nothing is ever left out.
    """

    root: Path
    size: int
    files: tuple[str, ...]
    classes: tuple[str, ...]
    channels: int
    first_test: None = None

    @classmethod
    def open(cls, root: str | Path, size: int = 32) -> ImageFolder:
        """List the folder, and read headers until the number of channels is known (all of them only if all are grey).

        Raises DataError if there is no image, or if a header that is read is damaged.
        """
        root = Path(root)
        if not 1 <= size <= 4096:
            raise DataError(f"'size' must lie in [1, 4096], got {size}")
        files = sorted(_walk(root, "", set()))
        if not files:
            raise DataError(
                f"the folder {str(root)!r} holds no image ({', '.join(_SUFFIXES)}), nor does a folder below it"
            )
        classes = tuple(sorted({os.path.dirname(f) for f in files} - {""}))
        channels = 1 if all(_is_grey(root / f) for f in files) else 3
        return cls(root, size, tuple(files), classes, channels)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.root.resolve().name

    @property
    def about(self) -> str:
        """What was found; a folder states no licence."""
        kind = "RGB" if self.channels == 3 else "grey"
        classes = f"{len(self.classes)} classes" if self.classes else "no classes"
        return f"{len(self):,} {kind} images of the folder {str(self.root)!r}, {classes}, as {self.size}x{self.size}"

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, size, size)."""
        return self.channels, self.size, self.size

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def _labels(self) -> Tensor:
        number = {name: i for i, name in enumerate(self.classes)} | {"": -1}
        return torch.tensor([number[os.path.dirname(f)] for f in self.files])

    @cached_property
    def _hash(self) -> str:
        total = hashlib.blake2b(repr((self.size, self.channels)).encode(), digest_size=16)
        for row, file in enumerate(self.files):
            self._image(row)  # a damaged image must not get into the hash of a data set
            content = hashlib.blake2b((self.root / file).read_bytes()).digest()
            total.update(len(os.fsencode(file)).to_bytes(8, "big") + os.fsencode(file) + content)
        return total.hexdigest()

    def fingerprint(self) -> str:
        """Hash of every file's name and content and of the shape. Decodes every image: DataError if one is damaged."""
        return self._hash

    @cached_property
    def _kept(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]] | None:
        shape = (len(self), *self.shape)
        if np.prod(shape, dtype=np.int64) > _KEPT_BYTES:
            return None
        return np.empty(shape, np.uint8), np.zeros(len(self), np.bool_)

    def _image(self, row: int) -> npt.NDArray[np.uint8]:
        """(C, size, size) uint8."""
        kept = self._kept
        if kept is None:
            return _decode(self.root / self.files[row], self.size, self.channels)
        pixels, known = kept
        if not known[row]:
            pixels[row] = _decode(self.root / self.files[row], self.size, self.channels)
            known[row] = True
        return pixels[row]

    def batch(self, rows: Tensor, noise: Noise) -> Batch:
        """See `Source`; the noise is not used."""
        check_rows(rows, len(self))
        x = np.empty((rows.shape[0], *self.shape), np.uint8)
        for slot, row in enumerate(rows.tolist()):
            x[slot] = self._image(row)
        return Batch(scaled(torch.from_numpy(x)), {"label": self._labels[rows]} if self.classes else {}, rows)

    def origin(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows


def _walk(root: Path, below: str, seen: set[str]) -> Iterator[str]:
    """Paths of images relative to `root`, with "/" on every system; linked folders are followed once."""
    real = os.path.realpath(root / below)
    if real in seen:
        return
    seen.add(real)
    try:
        entries = sorted(os.scandir(root / below), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"the folder {str(root / below)!r} cannot be listed: {error}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir():
            yield from _walk(root, path, seen)
        elif entry.name.lower().endswith(_SUFFIXES):
            yield path


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except _DAMAGE as error:
        raise DataError(f"the image {str(path)!r} cannot be read ({error}): repair or remove it") from error


def _is_grey(path: Path) -> bool:
    with _open(path) as image:
        return image.mode in _GREY


def _decode(path: Path, size: int, channels: int) -> npt.NDArray[np.uint8]:
    """The image as (channels, size, size)."""
    with _open(path) as image:
        try:
            upright = ImageOps.exif_transpose(image)
        except _DAMAGE as error:
            raise DataError(f"the image {str(path)!r} is damaged ({error}): repair or remove it") from error
        if upright.mode in ("I", "F"):
            raise DataError(f"the image {str(path)!r} has 32-bit pixels of unknown range: save it with 8 or 16 bits")
        if upright.mode.startswith("I;16"):
            upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
        if upright.has_transparency_data:
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright.convert("RGBA"))
        upright = upright.convert("L" if channels == 1 else "RGB")
    square = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)  # centre crop; antialiased
    return np.asarray(square).reshape(size, size, channels).transpose(2, 0, 1)
