"""Encoded images as a source, wherever their bytes are kept: in a folder, in tars, in tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gensys.core import Batch
from gensys.data.decode import DamagedError, decode, is_grey
from gensys.data.examine import Examination, examine
from gensys.data.source import check_rows, class_digests, fingerprint_of, scaled
from gensys.errors import DataError
from gensys.noise import Noise

__all__ = ["HEADER", "Images", "Items"]

_KEPT_BYTES = 1 << 29  # decoded images are kept in memory if all of them fit into this

HEADER = 1 << 16  # bytes that hold the header of most images


class Items(Protocol):
    """Where encoded images are kept, and what is known of them without decoding one."""

    @property
    def place(self) -> str:
        """Where they are, for a person: "the folder '/data/cats'"."""
        ...

    @property
    def name(self) -> str:
        """A short name."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """See `Source`."""
        ...

    @property
    def labels(self) -> Tensor:
        """(n,) int64, -1 = none."""
        ...

    @property
    def captions(self) -> list[str] | None:
        """One for every row, or None."""
        ...

    def __len__(self) -> int: ...

    def title(self, row: int) -> str:
        """What a person calls a row."""
        ...

    def read(self, row: int, limit: int = -1) -> bytes:
        """The encoded image, or its first `limit` bytes, or more; from any thread. Raises DamagedError."""
        ...


@dataclass(frozen=True)
class Images:
    """Images that are centre-cropped to one aspect ratio and resized to (height, width). Open with `Images.of`.

    RGB, or grey if all are. How pixels are made of a file: `decode.decode`. An image that cannot be decoded is in
    `quarantine`, with its reason; to fetch it is an error that names it. Nothing is left out unsaid.
    """

    items: Items
    size: tuple[int, int]
    channels: int
    origins: Tensor | None = None  # the rows' numbers in the data set that these images are some of
    first_test: None = None

    @classmethod
    def of(cls, items: Items, size: int = 32) -> Images:
        """As squares. Reads headers until the number of channels is known (all of them only if all are grey)."""
        if not 1 <= size <= 4096:
            raise DataError(f"'size' must lie in [1, 4096], got {size}")
        return cls(items, (size, size), 1 if all(_may_be_grey(items, row) for row in range(len(items))) else 3)

    @property
    def name(self) -> str:
        """The folder's or file's name."""
        return self.items.name

    @property
    def about(self) -> str:
        """What was found; files state no licence."""
        kind = "RGB" if self.channels == 3 else "grey"
        classes = f"{len(self.classes)} classes" if self.classes else "no classes"
        captions = "" if self.items.captions is None else ", with captions"
        return (
            f"{len(self):,} {kind} images of {self.items.place}, {classes}{captions}, as {self.size[0]}x{self.size[1]}"
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """See `Source`."""
        return self.items.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, height, width)."""
        return self.channels, *self.size

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def _examination(self) -> Examination:
        _ = self._kept  # made before there are threads

        classes = class_digests(self.items.labels, self.classes)

        def about(row: int) -> bytes:
            captions = self.items.captions
            return classes[row].tobytes() + repr(None if captions is None else captions[row]).encode()

        return examine(len(self), self.items.read, about, self.shape, self._keep)

    def digests(self) -> npt.NDArray[np.uint8]:
        """See `Source`: of the encoded bytes, the name of the class and the caption."""
        return self._examination.digests

    def fingerprint(self) -> str:
        """Hash of every row's digest, the classes' names and the shape."""
        return fingerprint_of((self.shape, self.classes), self.digests())

    def quarantine(self) -> Mapping[int, str]:
        """See `Source`: every image is decoded for it, where a crash costs nothing (`examine`)."""
        return self._examination.quarantine

    def named(self, rows: Tensor) -> list[str]:
        """See `Source`."""
        return [self.items.title(row) for row in rows.tolist()]

    def texts(self, rows: Tensor) -> list[str] | None:
        """See `Source`."""
        captions = self.items.captions
        return None if captions is None else [captions[row] for row in rows.tolist()]

    @cached_property
    def _kept(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]] | None:
        shape = (len(self), *self.shape)
        if np.prod(shape, dtype=np.int64) > _KEPT_BYTES:
            return None
        return np.empty(shape, np.uint8), np.zeros(len(self), np.bool_)

    def _keep(self, row: int, image: npt.NDArray[np.uint8]) -> None:
        if self._kept is not None:
            pixels, known = self._kept
            pixels[row], known[row] = image, True

    def _image(self, row: int) -> npt.NDArray[np.uint8]:
        """(C, size, size) uint8."""
        if self._kept is not None and self._kept[1][row]:
            return self._kept[0][row]
        try:
            image = decode(self.items.read(row), self.shape)
        except DamagedError as error:
            raise DataError(
                f"the image {self.items.title(row)!r} of {self.items.place} is damaged ({error}): repair or remove it"
            ) from error
        self._keep(row, image)
        return image

    def batch(self, rows: Tensor, noise: Noise) -> Batch:
        """See `Source`; the noise is not used."""
        check_rows(rows, len(self))
        x = np.empty((rows.shape[0], *self.shape), np.uint8)
        for slot, row in enumerate(rows.tolist()):
            x[slot] = self._image(row)
        return Batch(scaled(torch.from_numpy(x)), {"label": self.items.labels[rows]} if self.classes else {}, rows)

    def origin(self, rows: Tensor) -> Tensor:
        """See `Source`."""
        return rows if self.origins is None else self.origins[rows]


def _may_be_grey(items: Items, row: int) -> bool:
    """Whether an image has no colour; one that cannot be read has no say."""
    for limit in (HEADER, -1):  # WebP is recognised by its whole length
        try:
            return is_grey(items.read(row, limit))
        except DamagedError:
            pass  # told when all images are looked at
    return True
