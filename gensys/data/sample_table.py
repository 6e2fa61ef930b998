"""What every sample is to be: a table with a row for each, read from Parquet, CSV or JSON lines.

Row i belongs to sample i. Columns, each of them optional, in any order:

    label      the class: its name, or its number (a text that is a class's name means that class)
    guidance   the scale of guidance, a finite number
    seed       a seed of this sample's own, a whole number of 64 bits
    prompt     a text, for models that are conditioned on one
    vector     finite numbers, for models that are conditioned on some: a list, in CSV a text with spaces between them

Rows are counted from 0, without the header. A table is read as a whole, and refused as a whole.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gensys.errors import DataError

__all__ = ["NEEDS", "SampleTable", "class_number", "read_sample_table"]

NEEDS = {"label": "label", "guidance": "guidance", "seed": "seed", "prompt": "text", "vector": "vector"}
"""The columns, and the condition that a model must know for each."""

_DTYPES = {"label": "int64", "guidance": "float64", "seed": "int64", "vector": "float32"}
_SEEDS = range(-(1 << 63), 1 << 63)

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class SampleTable:
    """columns: by name, (rows,) each: label and seed int64, guidance float64, prompt of Python strings; vector float32,
    (rows, L)."""

    path: Path
    columns: Mapping[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def digest(self) -> str:
        """Hex digest of the content: the same for the same rows, from whatever kind of file."""
        found = hashlib.blake2b(digest_size=16)
        for name, column in sorted(self.columns.items()):
            text = name == "prompt"
            data = (
                json.dumps(column.tolist()).encode()
                if text
                else column.astype(column.dtype.newbyteorder("<")).tobytes()
            )
            found.update(f"{name} {len(data)} ".encode() + data)
        return found.hexdigest()


def read_sample_table(path: Path, classes: Sequence[str], conditions: frozenset[str], vector: int = 0) -> SampleTable:
    """Read and check a table. classes: of the labels. conditions: what the model is conditioned on. vector: the length
    of its vectors.

    Raises: DataError that names the file, the row and the column.
    """
    kinds: dict[str, Callable[[Path], Columns]] = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}
    if path.suffix not in kinds:
        raise DataError(f"the table {str(path)!r} must end in one of {', '.join(kinds)}, which says how to read it")
    try:
        columns = kinds[path.suffix](path)
    except OSError as error:
        raise DataError(f"the table {str(path)!r} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the table {str(path)!r} is not UTF-8 text ({error}): save it as UTF-8") from error
    for name in columns:
        if name not in NEEDS:
            near = get_close_matches(name, NEEDS, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise DataError(f"the table {str(path)!r} has the unknown column {name!r}.{hint} Known: {', '.join(NEEDS)}")
        if NEEDS[name] not in conditions:
            what = {"label": "labels", "prompt": "texts", "vector": "vectors"}.get(name, f"{name} for each sample")
            raise DataError(
                f"the table {str(path)!r} has the column {name!r}, and this model takes no {what}: leave it out"
            )
    if not any(columns.values()):
        raise DataError(
            f"the table {str(path)!r} is empty: it needs a row for every sample, and one of {', '.join(NEEDS)}"
        )
    read: dict[str, Callable[[Any], Any]] = {
        "label": lambda value: class_number(value, classes),
        "guidance": _guidance,
        "seed": _seed,
        "prompt": _text,
        "vector": lambda value: _vector(value, vector),
    }
    shapes = {"vector": (vector,)}
    found = {name: _column(path, name, values, read[name], shapes.get(name, ())) for name, values in columns.items()}
    return SampleTable(path, found)


def _column(
    path: Path, name: str, values: list[Any], read: Callable[[Any], Any], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    out = np.empty((len(values), *shape), _DTYPES.get(name, object))
    for row, value in enumerate(values):
        try:
            out[row] = read(value)
        except ValueError as error:
            raise _wrong(path, row, f"column {name!r}: {error}") from error
    return out


def _wrong(path: Path, row: int, what: str) -> DataError:
    return DataError(f"the table {str(path)!r}, row {row} (counted from 0), {what}")


# -------------------------------------------------------------------------------------------------------------- values


def class_number(value: Any, classes: Sequence[str]) -> int:
    """The number of a class, from its name or its number. Raises ValueError for what is neither."""
    if isinstance(value, str) and value in classes:
        return classes.index(value)
    number = _whole(value)
    if number is None and isinstance(value, str) and value:
        near = get_close_matches(value, classes, n=1, cutoff=0.4)
        raise ValueError(f"there is no class {value!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
    if number is None:
        raise ValueError(f"a label is a class's name or number, got {value!r}")
    last = len(classes) - 1
    if not 0 <= number <= last:
        raise ValueError(f"a label lies in 0..{last}, got {number}; the nearest is {min(max(number, 0), last)}")
    return number


def _guidance(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"guidance is a finite number, got {value!r}")
    return number


def _vector(value: Any, length: int) -> list[float]:
    parts = value.split() if isinstance(value, str) else value
    try:
        numbers = [math.nan if isinstance(part, bool) else float(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != length or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"a vector is {length} finite numbers, got {value!r}")
    return numbers


def _seed(value: Any) -> int:
    number = _whole(value)
    if number is None or number not in _SEEDS:
        raise ValueError(f"a seed is a whole number of 64 bits, got {value!r}")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a prompt is a text, got {value!r}")
    return value


def _whole(value: Any) -> int | None:
    """The whole number that a value is, or says; None if it is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return int(value) if isinstance(value, str) else None
    except ValueError:
        return None


# --------------------------------------------------------------------------------------------------------------- files


def _lines(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8-sig", newline="") as file:  # -sig: some programs begin their UTF-8 with a mark
        yield from file


def _csv(path: Path) -> Columns:
    lines = csv.reader(_lines(path), strict=True)
    header: list[str] = []
    rows: list[list[str]] = []
    try:
        header = [name.strip() for name in next(lines, [])]
        rows = list(lines)
    except csv.Error as error:
        raise _wrong(path, max(lines.line_num - 2, 0), f"no CSV: {error}") from error
    while rows and not rows[-1]:
        rows.pop()  # empty lines at the end are no rows
    if len(set(header)) != len(header):
        raise DataError(f"the table {str(path)!r} names a column twice: {', '.join(header)}")
    for row, values in enumerate(rows):
        if len(values) != len(header):
            names = ", ".join(header)
            raise _wrong(path, row, f"has {len(values)} values for the {len(header)} columns {names}")
    return {name: [values[k] for values in rows] for k, name in enumerate(header)}


def _json_lines(path: Path) -> Columns:
    lines = "".join(_lines(path)).rstrip().split("\n")  # not splitlines, for which a text may hold line breaks
    columns: Columns = {}
    for row, line in enumerate(lines if lines != [""] else []):
        try:
            values = json.loads(line)
        except ValueError as error:
            raise _wrong(path, row, f"no JSON: {error}") from error
        if not isinstance(values, dict):
            raise _wrong(path, row, f'must be a JSON object such as {{"label": 3}}, got {line[:40]!r}')
        if row == 0:
            columns = {name: [] for name in values}
        if values.keys() != columns.keys():
            name = min(values.keys() ^ columns.keys())
            raise _wrong(path, row, f"column {name!r}: " + ("row 0 has none" if name in values else "there is none"))
        for name, value in values.items():
            columns[name].append(value)
    return columns


def _parquet(path: Path) -> Columns:
    import pyarrow  # comes with Ray; slow to import, and needed for this alone
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise DataError(f"the table {str(path)!r} is no Parquet file, or a damaged one: {error}") from error
    if len(set(table.column_names)) != len(table.column_names):
        raise DataError(f"the table {str(path)!r} names a column twice: {', '.join(table.column_names)}")
    return table.to_pydict()
