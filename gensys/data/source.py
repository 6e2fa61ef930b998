"""What a data set is to the rest of gensys, and how it is split into training and test rows."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gensys.core import Batch
from gensys.noise import Noise, philox_uniform

__all__ = ["Source", "check_rows", "is_test", "scaled", "split"]

_SPLIT_SEED = 0x5B117  # of the data, never of a run: every run must hold out the same rows
_TEST_FRACTION = 0.1
# A table is read faster than 65,536 pixels are divided, and without a pool of threads that fight over busy cores.
_SCALE = np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1.0)


class Source(Protocol):
    """A data set with random access. Rows are numbered from 0, and a row's number is its identity for all noise."""

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
        """The shape of one datum, (C, H, W)."""
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
        """A hash of the content, hex; equal content gives equal text on every machine."""
        ...

    def batch(self, rows: Tensor, noise: Noise) -> Batch:
        """rows: (B,) int64 -> x (B, *shape) float32 in [-1, 1], cond {"label": (B,) int64} if labelled, ids = rows.

        Raises IndexError for a row out of range, DataError for damaged content.
        """
        ...

    def origin(self, rows: Tensor) -> Tensor:
        """The rows' numbers in the data set that they were made from, (B,) int64: themselves, but for latents."""
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
    """(train_rows, test_rows): ascending row numbers of `source`, int64. Latents are split as their data were."""
    rows = torch.arange(len(source))
    test = is_test(source.origin(rows), source.first_test)
    return rows[~test], rows[test]


def check_rows(rows: Tensor, n: int) -> None:
    """Raise IndexError unless `rows` is (B,) int64 with values in [0, n)."""
    if rows.ndim != 1 or rows.dtype != torch.int64:
        raise IndexError(f"'rows' must be a 1-D int64 tensor, got {tuple(rows.shape)} of {rows.dtype}")
    if rows.numel() and (int(rows.min()) < 0 or int(rows.max()) >= n):
        raise IndexError(f"'rows' must lie in [0, {n}), got {int(rows.min())}..{int(rows.max())}")


def scaled(pixels: Tensor) -> Tensor:
    """uint8 pixels to float32 in [-1, 1]: 0 -> -1, 255 -> 1."""
    return torch.from_numpy(_SCALE[pixels.numpy()])
