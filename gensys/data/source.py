"""What a data set is to the rest of gensys, and how it is split into training and test rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gensys.core import Batch
from gensys.data.examine import DIGEST_BYTES, digest
from gensys.errors import DataError
from gensys.noise import Noise, philox_uniform

__all__ = [
    "Source",
    "check_rows",
    "class_digests",
    "digests_of",
    "fingerprint_of",
    "image_shape",
    "is_test",
    "labels_of",
    "scaled",
    "split",
]

_SPLIT_SEED = 0x5B117  # of the data, never of a run: every run must hold out the same rows
_TEST_FRACTION = 0.1
# A table is read faster than 65,536 pixels are divided, and without a pool of threads that fight over busy cores.
_SCALE = np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1.0)


class Source(Protocol):
    """A data set with random access. Rows are numbered from 0, and a row's number is its identity for all noise.

    What a source is costs little to ask. What is in it (`digests`, `fingerprint`, `quarantine`) is found in one pass
    over all of it, the first time that one of the three is asked for.
    """

    @property
    def name(self) -> str:
        """A short name, "mnist"."""
        ...

    @property
    def about(self) -> str:
        """One line for a person: what it is, how many, where from, under which licence."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one datum: (C, H, W) of an image, (D,) of a vector."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, label 0 first; () = unlabelled."""
        ...

    @property
    def first_test(self) -> int | None:
        """The row where an official test set starts, if there is one; None = `split` draws one."""
        ...

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """A hash of the content and of what is done to it, hex; equal content gives equal text on every machine."""
        ...

    def digests(self) -> npt.NDArray[np.uint8]:
        """(n, 16): a hash of each row's bytes, class and caption. Where a row lies, and its name, are not in it."""
        ...

    def quarantine(self) -> Mapping[int, str]:
        """The rows that cannot be read, ascending, each with its reason. `batch` raises DataError for them."""
        ...

    def named(self, rows: Tensor) -> list[str]:
        """What a person calls rows (B,) int64: "cats/001.png", "train-0001.tar/000123.jpg", "table.csv:17"."""
        ...

    def texts(self, rows: Tensor) -> list[str] | None:
        """The captions of rows (B,) int64, "" where a row has none; None = the data set has no captions."""
        ...

    def batch(self, rows: Tensor, noise: Noise) -> Batch:
        """rows: (B,) int64 -> x (B, *shape) float32, cond {"label": (B,) int64} if labelled, ids = rows.

        Images are in [-1, 1], vectors as they were given, latents normalised.
        Raises IndexError for a row out of range, DataError for damaged content.
        """
        ...

    def origin(self, rows: Tensor) -> Tensor:
        """The rows' numbers in the data set that they were made from, (B,) int64: themselves, but for latents, where -1
        marks rows that are not to be used."""
        ...


def is_test(origin: Tensor, first_test: int | None) -> Tensor:
    """Whether rows of a data set belong to its test set, (B,) bool: a function of the row's number alone.

    origin: (B,) int64, numbers in the original data set. first_test: where its official test set starts, or None: one
    row in ten is drawn by hash, so that the split neither changes with the length nor needs to be stored.
    """
    if first_test is not None:
        return origin >= first_test
    return philox_uniform(_SPLIT_SEED, origin, 0, 0, 1)[:, 0] < _TEST_FRACTION


def split(source: Source) -> tuple[Tensor, Tensor]:
    """(train_rows, test_rows): ascending row numbers of `source`, int64. Latents are split as their data were.

    A function of the rows' numbers, so that it costs nothing; rows that cannot be read are among them until
    `quarantine.without` takes them out, as training and evaluation do.
    """
    rows = torch.arange(len(source))
    origin = source.origin(rows)
    test, used = is_test(origin.clamp(min=0), source.first_test), origin >= 0
    return rows[~test & used], rows[test & used]


def check_rows(rows: Tensor, n: int) -> None:
    """Raise IndexError unless `rows` is (B,) int64 with values in [0, n)."""
    if rows.ndim != 1 or rows.dtype != torch.int64:
        raise IndexError(f"'rows' must be a 1-D int64 tensor, got {tuple(rows.shape)} of {rows.dtype}")
    if rows.numel() and (int(rows.min()) < 0 or int(rows.max()) >= n):
        raise IndexError(f"'rows' must lie in [0, {n}), got {int(rows.min())}..{int(rows.max())}")


def scaled(pixels: Tensor) -> Tensor:
    """uint8 pixels to float32 in [-1, 1]: 0 -> -1, 255 -> 1."""
    return torch.from_numpy(_SCALE[pixels.numpy()])


def image_shape(source: Source) -> tuple[int, int, int]:
    """(C, H, W) of a source that holds images or latents laid out like them. Raises DataError if it holds others."""
    if len(source.shape) != 3:
        raise DataError(
            f"images are wanted, (C, H, W), and {source.name!r} holds rows of shape {source.shape} ({source.about}): "
            "give images, or a recipe for such data"
        )
    channels, height, width = source.shape
    return channels, height, width


def fingerprint_of(parameters: tuple[object, ...], digests: npt.NDArray[np.uint8]) -> str:
    """A source's fingerprint. parameters: what is done to the rows, with a `repr` that is the same everywhere."""
    total = hashlib.blake2b(repr(parameters).encode(), digest_size=DIGEST_BYTES)
    total.update(digests.tobytes())
    return total.hexdigest()


def digests_of(*arrays: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """The digest of every row of arrays (n, ...): their bytes, array after array. (n, 16)."""
    rows = (digest(*(np.ascontiguousarray(part).tobytes() for part in parts)) for parts in zip(*arrays, strict=True))
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, DIGEST_BYTES)


def class_digests(labels: Tensor, classes: Sequence[str]) -> npt.NDArray[np.uint8]:
    """The digest of the name of each row's class, (n, 16). labels: (n,) int64 numbers of `classes`, -1 = none.

    The name and not the number: a new class that sorts before others changes the numbers of their rows, not the rows.
    """
    names = [digest(name.encode("utf-8", "surrogateescape")) for name in classes]
    table = np.frombuffer(b"".join([*names, digest()]), np.uint8).reshape(-1, DIGEST_BYTES)  # the last one is -1's
    return table[labels.numpy()]


_CLASSES = 1 << 16  # more classes than this are taken for a mistake: identities, not labels


def labels_of(values: Sequence[int | str | None], names: Sequence[str] = ()) -> tuple[Tensor, tuple[str, ...]]:
    """(labels (n,) int64, the classes' names) of what a data set says of its rows; None and -1 are "no label", -1.

    Whole numbers keep their value: the classes are 0..max, named `names` if given. Words are numbered in sorted order.
    Raises DataError for negative numbers, names that are too few, and numbers that cannot be those of classes.
    """
    known = [value for value in values if value is not None and value != -1]
    if not all(isinstance(value, int) for value in known):
        words = sorted({str(value) for value in known})
        if len(words) > _CLASSES:
            raise DataError(f"there are {len(words):,} different labels, and at most {_CLASSES:,} can be classes")
        number = {word: i for i, word in enumerate(words)}
        return torch.tensor([-1 if v is None or v == -1 else number[str(v)] for v in values]), tuple(words)
    numbers = [-1 if v is None else int(v) for v in values]
    low, high = min(numbers, default=-1), max(numbers, default=-1)
    if low < -1 or high >= _CLASSES or (names and high >= len(names)):
        most = len(names) or _CLASSES
        raise DataError(f"labels are numbers from 0 to {most - 1}, or -1 for none, got {low}..{high}: number them anew")
    return torch.tensor(numbers), tuple(names or map(str, range(high + 1)))
