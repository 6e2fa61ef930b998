"""Arrays as a source: images or vectors that are numbers already, from .npz and .npy files, or out of a table."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gensys.columns import MOST_CATEGORIES, Column
from gensys.core import Batch
from gensys.data.source import Source, check_rows, class_digests, digests_of, fingerprint_of, labels_of, scaled
from gensys.errors import DataError
from gensys.noise import Noise

__all__ = ["Arrays", "categorised", "columns_of", "open_array"]

_X = ("x", "images", "data")
_LABELS = ("y", "label", "labels")
_VECTORS = "vector"
_DAMAGE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError)
_BLOCK = 4096  # rows that are looked at at once: a mapped file need not fit into memory


@dataclass(frozen=True)
class Arrays:
    """Rows of an array. place: where it is, for a person.

    x: images (n, C, H, W) uint8, which become [-1, 1], or vectors (n, D) float32, which are taken as they are: nothing
    is shifted or scaled, since a test set must be treated as its training set was. labels: (n,) int64, -1 = none.
    known: rows that are known to be damaged, with the reasons. title: what a person calls a row, from its number.
    vectors: (n, L) float32, what each row is conditioned on besides its label, such as a state and an action.
    columns: what the elements of vectors are, if they are known to be the columns of a table; categories are in x as
    the numbers of their names.
    """

    name: str
    place: str
    x: npt.NDArray[Any]
    labels: Tensor
    classes: tuple[str, ...]
    known: Mapping[int, str]
    title: Callable[[int], str]
    vectors: npt.NDArray[np.float32] | None = None
    columns: tuple[Column, ...] = ()
    first_test: None = None

    @property
    def about(self) -> str:
        """What was found; files state no licence."""
        classes = f"{len(self.classes)} classes" if self.classes else "no classes"
        classes += f", each with {self.vector} numbers to go by" if self.vector else ""
        if len(self.shape) == 1:
            named = [f"{column.name} ({len(column.categories)})" for column in self.columns if column.categories]
            numbers = f"{self.shape[0] - len(named)} numbers"
            numbers += f" and {len(named)} categories ({', '.join(named)})" if named else ""
            return f"{len(self):,} vectors of {numbers} of {self.place}, {classes}, as they are"
        kind = "RGB" if self.shape[0] == 3 else "grey"
        return f"{len(self):,} {kind} images of {self.place}, {classes}, {self.shape[1]}x{self.shape[2]}"

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) or (D,)."""
        return self.x.shape[1:]

    @property
    def vector(self) -> int:
        """The length of cond["vector"]; 0 = there is none."""
        return 0 if self.vectors is None else self.vectors.shape[1]

    def __len__(self) -> int:
        return self.x.shape[0]

    @cached_property
    def _digests(self) -> npt.NDArray[np.uint8]:
        arrays = [self._numbers, class_digests(self.labels, self.classes), *self._names]
        arrays += [] if self.vectors is None else [self.vectors]
        starts = range(0, len(self), _BLOCK)
        return np.concatenate([digests_of(*(array[i : i + _BLOCK] for array in arrays)) for i in starts])

    @property
    def _numbers(self) -> npt.NDArray[Any]:
        """x without the columns of categories."""
        kept = [k for k, column in enumerate(self.columns) if not column.categories]
        return self.x if len(kept) == len(self.columns) else self.x[:, kept]

    @property
    def _names(self) -> list[npt.NDArray[np.uint8]]:
        """For each column of categories the digests of the rows' names, (n, 16), as those of classes."""
        kinds = enumerate(column.categories for column in self.columns)
        return [class_digests(torch.from_numpy(self.x[:, k].astype(np.int64)), names) for k, names in kinds if names]

    def digests(self) -> npt.NDArray[np.uint8]:
        """See `Source`: of each row's numbers, the name of its class, those of its categories, and its vector."""
        return self._digests

    def fingerprint(self) -> str:
        """Hash of every row's digest, the names of the classes and the categories, and the shape."""
        names = tuple(column.categories for column in self.columns if column.categories)
        return fingerprint_of((self.shape, str(self.x.dtype), self.classes, *names), self.digests())

    @cached_property
    def _quarantine(self) -> Mapping[int, str]:
        found = dict(self.known)
        told = {"it": self.x, "its vector": self.vectors}
        for what, array in ((what, array) for what, array in told.items() if array is not None):
            for i in range(0, len(self), _BLOCK) if array.dtype.kind == "f" else ():
                finite = np.isfinite(array[i : i + _BLOCK]).all(1)
                for row in (np.flatnonzero(~finite) + i).tolist():
                    found.setdefault(row, f"{what} holds a number that is not finite")
        return dict(sorted(found.items()))

    def quarantine(self) -> Mapping[int, str]:
        """See `Source`: vectors with a number that is missing or not finite."""
        return self._quarantine

    def named(self, rows: Tensor) -> list[str]:
        """See `Source`."""
        return [self.title(row) for row in rows.tolist()]

    def texts(self, rows: Tensor) -> list[str] | None:
        """None: arrays have no captions."""
        return None

    def batch(self, rows: Tensor, noise: Noise) -> Batch:
        """See `Source`; the noise is not used."""
        check_rows(rows, len(self))
        values = torch.from_numpy(self.x[rows.numpy()])
        cond = {"label": self.labels[rows]} if self.classes else {}
        if self.vectors is not None:
            cond["vector"] = torch.from_numpy(self.vectors[rows.numpy()])
        if values.dtype == torch.uint8:
            values = scaled(values)
        finite = bool(values.isfinite().all()) and ("vector" not in cond or bool(cond["vector"].isfinite().all()))
        if not finite or not self.known.keys().isdisjoint(rows.tolist()):
            row = next(row for row in rows.tolist() if row in self.quarantine())
            raise DataError(f"the row {self.title(row)!r} cannot be used: {self.quarantine()[row]}")
        return Batch(values, cond, rows)

    def origin(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows


def columns_of(source: Source) -> tuple[Column, ...]:
    """What the elements of vectors are; x0, x1, ... where they have no names."""
    named = source.columns if isinstance(source, Arrays) else ()
    return named or tuple(Column(f"x{k}") for k in range(source.shape[0]))


def categorised(source: Arrays, chosen: Sequence[str]) -> Arrays:
    """The same vectors with columns of numbers as categories: 0, 1, ... stand for the numbers in them, ascending.

    chosen: names of columns, or their numbers from 0. What are categories already stays so.
    Raises DataError for a column that is not there, or that has too many values.
    """
    columns = list(source.columns or (Column(str(k)) for k in range(source.shape[0])))
    names = [column.name for column in columns]
    x = np.array(source.x)
    used = np.ones(len(x), bool)
    used[list(source.quarantine())] = False
    if not used.any():
        raise DataError(f"no row of {source.name!r} can be read, so its categories cannot be counted: repair it")
    for word in chosen:
        k = names.index(word) if word in names else int(word) if word.isascii() and word.isdigit() else -1
        if not 0 <= k < len(names):
            raise DataError(f"there is no column {word!r} in {source.name!r}: they are {', '.join(names)}")
        if columns[k].categories:
            continue
        values = np.unique(x[used, k])
        if len(values) > MOST_CATEGORIES:
            raise DataError(
                f"the column {names[k]!r} of {source.name!r} has {len(values):,} different numbers, and at most "
                f"{MOST_CATEGORIES:,} can be categories: leave it a column of numbers"
            )
        x[:, k] = np.searchsorted(values, np.where(used, x[:, k], values[0]))
        columns[k] = Column(names[k], tuple(str(int(v)) if v == int(v) else str(v) for v in values))
    return replace(source, x=x, columns=tuple(columns))


def open_array(path: Path) -> Arrays:
    """A .npy file of an array (n, ...), which is mapped, or an .npz file with "x", "y" if there are labels, and
    "vector" if rows go by some numbers, such as a state and an action.

    Images: uint8 (n, H, W), (n, H, W, C) or (n, C, H, W) with C = 1 or 3, in their own size. Vectors: numbers (n, D).
    Labels: whole numbers from 0 or words, (n,). Vectors to go by: numbers (n, L). Raises DataError, also for arrays of
    Python objects: nothing is unpickled.
    """
    labels = vectors = None
    try:
        if path.suffix.lower() == ".npy":
            x = np.lib.format.open_memmap(path, mode="r")
        else:
            with open(path, "rb") as data, np.lib.npyio.NpzFile(data, allow_pickle=False) as file:
                x = _member(file, next((name for name in _X if name in file.files), ""))
                name = next((name for name in _LABELS if name in file.files), "")
                labels = _member(file, name) if name else None
                vectors = _member(file, _VECTORS) if _VECTORS in file.files else None
    except _DAMAGE as error:
        raise DataError(f"the array file {str(path)!r} cannot be read ({error}): save it again with numpy") from error
    x = _rows(path, x)
    numbers, classes = _labels(path, labels, len(x))
    title = f"{path.name}:{{}}".format
    vectors = None if vectors is None else _vectors(path, vectors, len(x))
    return Arrays(path.stem, f"the array {str(path)!r}", x, numbers, classes, {}, title, vectors)


def _member(file: np.lib.npyio.NpzFile, name: str) -> npt.NDArray[Any]:
    """An array of an .npz file. Raises ValueError if it is not there, or no array."""
    if not name:
        raise ValueError(
            f"it holds the arrays {', '.join(file.files) or '(none)'}, and the data are to be called {_X[0]!r}"
        )
    if not isinstance(found := file[name], np.ndarray):
        raise ValueError(f"its member {name!r} is no array")
    return found


def _rows(path: Path, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Images as (n, C, H, W) uint8, vectors as (n, D) float32."""
    told = f"the array of {str(path)!r} is {x.dtype} of shape {x.shape}"
    wanted = "images are uint8 (n, H, W), (n, H, W, C) or (n, C, H, W) with C = 1 or 3, vectors numbers (n, D)"
    if x.ndim < 2 or not x.size:
        raise DataError(f"{told}: {wanted}")
    if x.ndim == 2 and x.dtype.kind in "fiu":
        return _float32(x)
    if x.dtype != np.uint8 or x.ndim > 4:
        raise DataError(f"{told}: {wanted}")
    if x.ndim == 3:
        return x[:, None]
    first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
    if first == last:
        why = "channels could be its second axis or its last" if first else "it has neither 1 nor 3 channels"
        raise DataError(f"{told}, and {why}: {wanted}")
    return x if first else x.transpose(0, 3, 1, 2)


def _vectors(path: Path, vectors: npt.NDArray[Any], n: int) -> npt.NDArray[np.float32]:
    if vectors.ndim != 2 or len(vectors) != n or not vectors.size or vectors.dtype.kind not in "fiu":
        raise DataError(
            f"the array {_VECTORS!r} of {str(path)!r} is {vectors.dtype} of shape {vectors.shape}: numbers ({n}, L) "
            f"are wanted, a row for each of the data"
        )
    return _float32(vectors)


def _float32(x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if x.dtype == np.float32:
        return x
    with np.errstate(over="ignore"):  # infinity: such rows are put into quarantine
        return x.astype(np.float32)


def _labels(path: Path, labels: npt.NDArray[Any] | None, n: int) -> tuple[Tensor, tuple[str, ...]]:
    if labels is None:
        return labels_of([None] * n)
    if labels.shape != (n,) or labels.dtype.kind not in "iuU":
        raise DataError(
            f"the labels of {str(path)!r} are {labels.dtype} of shape {labels.shape}: {n} whole numbers or words are "
            f"wanted"
        )
    try:
        return labels_of(labels.tolist())
    except DataError as error:
        raise DataError(f"the labels of {str(path)!r}: {error}") from error
