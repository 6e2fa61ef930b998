"""Open a data set by name or by path: genuine sets that package managers install, folders of images, latent stores.

`open_source` is cheap: what a source is (shape, classes, length) is known before its content is read, and the content
is read once, when it is first asked for. Data are opened for reading only.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from gensys.data import digits
from gensys.data.images import ImageFolder
from gensys.data.latents import LatentSource
from gensys.data.source import Source, is_test, split
from gensys.errors import DataError

__all__ = ["NAMED", "Source", "is_test", "open_source", "split"]

NAMED: dict[str, Callable[[], Source]] = {"mnist": digits.mnist, "fashion": digits.fashion}


def open_source(data: str | Path, size: int = 32) -> Source:
    """Open "mnist", "fashion", a folder of images, or a latent store (a sealed .zarr).

    data: a name, or a path (one without a slash that equals a name needs "./"). size: folders of images are cropped
    and resized to size x size; the other kinds have their own. Raises DataError with the remedy.
    """
    if isinstance(data, str) and data in NAMED:
        return NAMED[data]()
    if not str(data):
        raise DataError(f"'data' is empty: give a folder of images, a .zarr store or a name: {_names()}")
    path = Path(data).expanduser()
    if path.suffix == ".zarr" or (path / "zarr.json").exists():
        return LatentSource.open(path)
    if path.is_dir():
        return ImageFolder.open(path, size)
    if path.exists():
        raise DataError(
            f"'data' is the file {str(path)!r}: give a folder of images, a .zarr store or a name: {_names()}"
        )
    if os.sep in str(data):
        raise DataError(f"'data' is the path {str(data)!r}, and nothing is there; names are {_names()}")
    near = difflib.get_close_matches(str(data), NAMED, n=1, cutoff=0.6)
    raise DataError(
        f"'data' is {str(data)!r}, which is neither a name nor a path. "
        + (f"Did you mean {near[0]!r}? " if near else "")
        + f"Names are {_names()}"
    )


def _names() -> str:
    return ", ".join(repr(name) for name in NAMED)
