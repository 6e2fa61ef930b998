"""CSV tables of numbers as a source of vectors."""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gensys.data.arrays import Arrays
from gensys.data.source import labels_of
from gensys.errors import DataError

__all__ = ["open_table"]

_LABELS = ("label", "class")


def open_table(path: Path) -> Arrays:
    """A table (.csv; .tsv with tabs) whose columns are the elements of vectors (D,) float32, taken as they are.

    The first line names the columns. One may be "label" or "class": whole numbers from 0 or words, empty = none. A line
    with another number of cells, or with a cell that is missing or no number, is a row that cannot be read; empty lines
    are none. Rows are called by the line where they end. Raises DataError if it is no such table.
    """
    lines = _lines(path)
    number, header = next(lines, (1, []))
    names = [name.strip() for name in header]
    if not names:
        raise DataError(f"the table {str(path)!r} is empty")
    if all(_number(name) is not None for name in names):
        raise DataError(f"the first line of {str(path)!r} is numbers: the names of the columns belong there")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"the table {str(path)!r} has two columns {twice!r}: rename one")
    label = next((i for i, name in enumerate(names) if name.lower() in _LABELS), None)
    columns = [name for i, name in enumerate(names) if i != label]
    if not columns:
        raise DataError(
            f"the table {str(path)!r} has the column {names[0]!r} alone: its cells are divided by "
            f"{'tabs' if _delimiter(path) != ',' else 'commas'}, and columns of numbers are wanted"
        )
    values, labels, at, known = array("f"), list[int | str | None](), array("q"), dict[int, str]()
    for number, cells in lines:
        row, numbers = len(at), [0.0] * len(columns)
        at.append(number)
        labels.append(None)
        if len(cells) != len(names):
            known[row] = f"{len(cells)} cells instead of {len(names)}"
        else:
            if label is not None:
                word = cells.pop(label).strip()
                labels[row] = int(word) if re.fullmatch(r"-?[0-9]{1,18}", word) else word or None
            read = [_number(cell) for cell in cells]
            if None in read:
                name, cell = columns[read.index(None)], cells[read.index(None)].strip()
                known[row] = f"{name} is {cell!r}, no number" if cell else f"{name} is missing"
            else:
                numbers = [value for value in read if value is not None]
        values.extend(numbers)
    if not at:
        raise DataError(f"the table {str(path)!r} has no rows")
    try:
        marks, classes = labels_of(labels)
    except DataError as error:
        raise DataError(f"the column {names[label or 0]!r} of {str(path)!r}: {error}") from error
    x = np.frombuffer(values, np.float32).reshape(-1, len(columns))
    return Arrays(path.stem, f"the table {str(path)!r}", x, marks, classes, known, lambda row: f"{path.name}:{at[row]}")


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every line that is not empty."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=_delimiter(path), strict=True)
            try:
                yield from ((reader.line_num, cells) for cells in reader if cells)
            except csv.Error as error:
                raise DataError(f"line {reader.line_num} of the table {str(path)!r} cannot be read: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the table {str(path)!r} cannot be read ({error}): save it as UTF-8 text") from error


def _number(text: str) -> float | None:
    """A finite number as tables write it, or None; Python would take 1_000 as well."""
    try:
        value = float(text)
    except ValueError:
        return None
    return None if "_" in text or value - value != 0.0 else value
