"""Open a data set by name or by path: sets that package managers install, and files of many kinds.

`open_source` is cheap where the kind of data lets it: what a source is (shape, classes, length) is known before its
content is read, and the content is read once, when it is first asked for. Data are opened for reading only.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from gensys.data import digits
from gensys.data.arrays import open_array
from gensys.data.decode import SUFFIXES
from gensys.data.folder import open_folder
from gensys.data.joined_latents import open_latents
from gensys.data.source import Source, image_shape, is_test, split
from gensys.data.table import open_table
from gensys.data.toys import TOYS
from gensys.data.webdataset import open_tars
from gensys.data.where import is_url
from gensys.errors import DataError

__all__ = ["NAMED", "Source", "image_shape", "is_test", "open_source", "split"]

NAMED: dict[str, Callable[[], Source]] = {"mnist": digits.mnist, "fashion": digits.fashion, **TOYS}


def _parquet(paths: Sequence[Path], size: int) -> Source:
    from gensys.data.parquet import open_parquet, schema_of  # pyarrow takes its time to import
    from gensys.data.parquet_table import is_table, open_parquet_table

    return open_parquet_table(paths) if is_table(schema_of(paths[0])) else open_parquet(paths, size)


_MANY: dict[str, Callable[[Sequence[Path], int], Source]] = {".tar": open_tars, ".parquet": _parquet}
_ONE: dict[str, Callable[[Path], Source]] = {
    ".npz": open_array,
    ".npy": open_array,
    ".csv": open_table,
    ".tsv": open_table,
}
_KINDS = (
    "a folder of images, a .tar or .parquet file of images (or a folder of them, or part-{000..009}.tar), a .csv, .tsv "
    "or .parquet table, an .npz or .npy file, a .zarr store of latents"
)


def open_source(data: str | Path, size: int = 32) -> Source:
    """Open a data set: "mnist", "fashion", "moons" (see `toys`), or a path, whose kind its suffix or content tells.

    data: a name, or the path of a folder of images (`folder`), of tars (`webdataset`), of tables of images (`parquet`)
    or of numbers (`table`, `parquet_table`), of arrays (`arrays`), of a sealed latent store (`latents`), which may be a
    URL too. A path without a slash that equals a name needs "./". size: encoded images are cropped and resized to size
    x size; other data have their own.
    Raises DataError with the remedy.
    """
    if isinstance(data, str) and data in NAMED:
        return NAMED[data]()
    if not str(data):
        raise DataError(f"'data' is empty: give {_KINDS}, or a name: {_names()}")
    if is_url(data):
        return open_latents(data)
    path = Path(data).expanduser()
    if path.suffix == ".zarr" or (path / "zarr.json").exists():
        return open_latents(path)
    if path.is_dir():
        return _open_directory(path, size)
    if path.exists() or "{" in path.name:
        return _open_files(path, size)
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


def _open_directory(path: Path, size: int) -> Source:
    """A folder of tars or of tables, if there are any in it; else a folder of images."""
    try:
        files = sorted(p for p in path.iterdir() if not p.name.startswith(".") and not p.is_dir())
    except OSError as error:
        raise DataError(f"the folder {str(path)!r} cannot be listed: {error.strerror}") from error
    found = {suffix: [p for p in files if p.suffix.lower() == suffix] for suffix in (*_MANY, *SUFFIXES)}
    kinds = [suffix for suffix, those in found.items() if those]
    many = [suffix for suffix in kinds if suffix in _MANY]
    if not many:
        return open_folder(path, size)
    if len(kinds) > 1:
        raise DataError(
            f"the folder {str(path)!r} holds {' and '.join(f'{len(found[k])} {k}' for k in kinds)} files: keep one "
            f"kind of data in a folder, or name its files as part-{{000..009}}{many[0]}"
        )
    _check_files(found[many[0]])
    return _MANY[many[0]](found[many[0]], size)


def _check_files(paths: Sequence[Path]) -> None:
    """Raise DataError for a pipe or a device, whose reader may wait for ever."""
    for path in paths:
        if not path.is_file():
            raise DataError(f"'data' is {str(path)!r}, which is no file but a pipe, a device or a link to nothing")


def _open_files(path: Path, size: int) -> Source:
    """One file, or the numbered files of a pattern such as part-{000..009}.tar."""
    suffix = path.suffix.lower()
    if path.exists():
        _check_files([path])
    if suffix in _MANY:
        return _MANY[suffix]([path] if path.exists() else _expand(path), size)
    if suffix in _ONE and path.exists():
        return _ONE[suffix](path)
    if suffix in (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip"):
        raise DataError(f"'data' is the compressed file {str(path)!r}: unpack it first; what can be given is {_KINDS}")
    if suffix in SUFFIXES:
        raise DataError(f"'data' is the image {str(path)!r}: give the folder that it is in")
    raise DataError(f"'data' is the file {str(path)!r}: give {_KINDS}, or a name: {_names()}")


def _expand(path: Path) -> list[Path]:
    """part-{000..009}.tar -> its ten paths, of which none may be missing."""
    ranges = re.findall(r"\{([0-9]+)\.\.([0-9]+)\}", path.name)
    if len(ranges) != 1 or path.name.count("{") != 1:
        raise DataError(
            f"'data' is {str(path)!r}: a pattern has one range of numbers in the name of the file, {{000..009}}"
        )
    first, last = ranges[0]
    if int(last) < int(first) or int(last) - int(first) >= 1_000_000:
        raise DataError(f"'data' is {str(path)!r}: its range must rise, by less than a million, got {first}..{last}")
    before, after = path.name.split(f"{{{first}..{last}}}")
    paths = [path.with_name(f"{before}{n:0{len(first)}}{after}") for n in range(int(first), int(last) + 1)]
    missing = [p.name for p in paths if not p.is_file()]
    if missing:
        raise DataError(
            f"'data' is {str(path)!r}, and {len(missing)} of its {len(paths)} files are missing, such as {missing[0]!r}"
        )
    return paths
