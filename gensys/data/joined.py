"""Sources whose rows differ in shape, one after the other: images by aspect ratio, and the latents made of them.

A batch holds rows of one part, so that it is one tensor; `buckets.Plan` says of which one at each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gensys.core import Batch
from gensys.data import order
from gensys.data.buckets import Plan, assign, cropped, shapes
from gensys.data.decode import DamagedError, size_of
from gensys.data.images import HEADER, Images, Items
from gensys.data.source import Source, check_rows, fingerprint_of, image_shape
from gensys.errors import DataError
from gensys.noise import Noise

__all__ = ["Joined", "by_aspect", "visits"]

LEAST = 64  # images in a bucket: as many as are computed at once


@dataclass(frozen=True)
class Joined:
    """The rows of `parts`, one part after the other: sources that differ in shape only.

    `shape` is that of the part with the most rows.
    """

    parts: tuple[Source, ...]
    about: str
    name: str

    @property
    def starts(self) -> tuple[int, ...]:
        """The row where each part begins, and the number of rows."""
        return tuple(accumulate((len(part) for part in self.parts), initial=0))

    @property
    def shape(self) -> tuple[int, ...]:
        """See above."""
        return max(self.parts, key=len).shape

    def nearest(self, aspect: float) -> tuple[int, int, int]:
        """The shape (C, H, W) among the parts whose W / H is nearest to `aspect`. Raises DataError if it is not > 0."""
        if not aspect > 0:
            raise DataError(f"'aspect' must be positive, width over height, got {aspect}")
        found = [image_shape(part) for part in self.parts]
        return min(found, key=lambda shape: abs(math.log(shape[2] / shape[1] / aspect)))

    @property
    def classes(self) -> tuple[str, ...]:
        """See `Source`."""
        return self.parts[0].classes

    @property
    def first_test(self) -> int | None:
        """See `Source`."""
        return self.parts[0].first_test

    def __len__(self) -> int:
        return self.starts[-1]

    def groups(self, rows: Tensor) -> list[Tensor]:
        """The rows among `rows` of each part."""
        return [rows[(rows >= begin) & (rows < end)] for begin, end in zip(self.starts, self.starts[1:], strict=False)]

    def fingerprint(self) -> str:
        """See `Source`."""
        return fingerprint_of(tuple(part.fingerprint() for part in self.parts), self.digests())

    @cached_property
    def _digests(self) -> npt.NDArray[np.uint8]:
        return np.concatenate([part.digests() for part in self.parts])

    def digests(self) -> npt.NDArray[np.uint8]:
        """See `Source`."""
        return self._digests

    def quarantine(self) -> Mapping[int, str]:
        """See `Source`."""
        parts = zip(self.starts, self.parts, strict=False)
        return {begin + row: reason for begin, part in parts for row, reason in part.quarantine().items()}

    def named(self, rows: Tensor) -> list[str]:
        """See `Source`."""
        return [self.parts[k].named(row[None] - self.starts[k])[0] for k, row in self._places(rows)]

    def texts(self, rows: Tensor) -> list[str] | None:
        """See `Source`."""
        if self.parts[0].texts(torch.zeros(0, dtype=torch.int64)) is None:
            return None
        return [(self.parts[k].texts(row[None] - self.starts[k]) or [""])[0] for k, row in self._places(rows)]

    def origin(self, rows: Tensor) -> Tensor:
        """See `Source`."""
        check_rows(rows, len(self))
        return self._origins[rows]

    @cached_property
    def _origins(self) -> Tensor:
        return torch.cat([part.origin(torch.arange(len(part))) for part in self.parts])

    def batch(self, rows: Tensor, noise: Noise) -> Batch:
        """See `Source`. Raises DataError if the rows are of several parts."""
        check_rows(rows, len(self))
        parts = self._parts(rows).unique().tolist()
        if len(parts) != 1:
            sizes = sorted(self.parts[k].shape for k in parts)
            raise DataError(f"a batch holds rows of one shape, these are of {sizes}: take them from one of `groups`")
        (k,) = parts
        batch = self.parts[k].batch(rows - self.starts[k], noise)
        return Batch(batch.x, batch.cond, rows)

    def _parts(self, rows: Tensor) -> Tensor:
        """The number of the part that each row is in."""
        return torch.bucketize(rows, torch.tensor(self.starts[1:-1]), right=True)

    def _places(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(part, row) of every row."""
        return zip(self._parts(rows).tolist(), rows, strict=True)


@dataclass(frozen=True)
class _Some:
    """Some of the items of a source of images. See `images.Items`."""

    whole: Items
    rows: Tensor
    labels: Tensor
    captions: list[str] | None

    @classmethod
    def of(cls, whole: Items, rows: Tensor) -> _Some:
        captions = whole.captions
        kept = None if captions is None else [captions[row] for row in rows.tolist()]
        return cls(whole, rows, whole.labels[rows], kept)

    @property
    def place(self) -> str:
        return self.whole.place

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def classes(self) -> tuple[str, ...]:
        return self.whole.classes

    def __len__(self) -> int:
        return self.rows.shape[0]

    def title(self, row: int) -> str:
        return self.whole.title(int(self.rows[row]))

    def read(self, row: int, limit: int = -1) -> bytes:
        return self.whole.read(int(self.rows[row]), limit)


def by_aspect(source: Source, step: int, ratio: float) -> Joined:
    """The images of a source in buckets of aspect ratio, each of about as many pixels as the source's squares have.

    step: what sides are multiples of. ratio: the largest of long to short side, at least 1. The buckets of fewer than
    `LEAST` images are closed (`buckets.assign`). An image whose header cannot be read goes with the squares, where its
    examination finds it. Raises DataError for data that are no encoded images.
    """
    if not isinstance(source, Images):
        raise DataError(f"only files of images have aspect ratios, got {source.about}: leave --aspect out")
    try:
        buckets = shapes(source.size[0], step, ratio)
    except ValueError as error:
        raise DataError(f"no buckets of aspect ratio for images of {source.size[0]} pixels: {error}") from error
    sizes = np.array([_size(source.items, row) for row in range(len(source))], np.int64)
    bucket = assign(sizes, buckets, LEAST)
    parts: list[Source] = []
    lost = 0.0
    for k in np.unique(bucket):
        rows = torch.from_numpy(np.flatnonzero(bucket == k))
        parts.append(Images(_Some.of(source.items, rows), buckets[k], source.channels, rows))
        lost += float(cropped(sizes[bucket == k], buckets[k]).sum())
    shown = ", ".join(f"{part.shape[1]}x{part.shape[2]}: {len(part):,}" for part in parts)
    about = (
        f"{source.about.rpartition(', as')[0]}, by aspect ratio ({shown}; {lost / len(source):.1%} of the area cropped)"
    )
    return Joined(tuple(parts), about, source.name)


def _size(items: Items, row: int) -> tuple[int, int]:
    for limit in (HEADER, -1):
        try:
            return size_of(items.read(row, limit))
        except DamagedError:
            pass  # found, and told, by the examination
    return 1, 1


def visits(source: Source, rows: Tensor, seed: int, batch: int) -> Callable[[int], Tensor]:
    """step -> the rows of the global batch, (batch,) int64, of those that are trained on; of one shape.

    A function of (seed, step) alone: see order.py, and buckets.py for joined sources.
    """
    if not isinstance(source, Joined):
        return lambda step: rows[order.rows(seed, step, batch, len(rows))]
    groups = source.groups(rows)
    plan = Plan(seed, batch, tuple(len(group) for group in groups))

    def at(step: int) -> Tensor:
        bucket, places = plan.at(step)
        return groups[bucket][places]

    return at
