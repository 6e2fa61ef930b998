"""CSV tables of numbers and categories as a source of vectors."""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gensys.columns import MOST_CATEGORIES, Column, cells
from gensys.data.arrays import Arrays
from gensys.data.source import labels_of
from gensys.errors import DataError

__all__ = ["MOST_DECIMALS", "check_words", "label_of", "open_table", "write_table"]

LABELS = ("label", "class")
MOST_DECIMALS = 6  # with which numbers are written down; with more they are what a computer printed


def open_table(path: Path) -> Arrays:
    """A table (.csv; .tsv with tabs) whose columns are the elements of vectors (D,) float32: numbers as they are.

    The first line names the columns. One may be "label" or "class": whole numbers from 0 or words, empty = none. A
    column in which no cell is a number holds categories, numbered in the sorted order of their words. Numbers have the
    most decimals that any of their column needs as it is written; any, if that is more than six. A line with
    another number of cells, or with a cell that is missing, or no number in a column of numbers, is a row that cannot
    be read; empty lines are none. Rows are called by the line where they end. Raises DataError if it is no such table.
    """
    lines = _lines(path)
    number, header = next(lines, (1, []))
    names = [name.strip() for name in header]
    _check_names(path, names)
    label = label_of(names, f"the table {str(path)!r}")
    columns = [_Cells(name) for i, name in enumerate(names) if i != label]
    labels, at, known = list[int | str | None](), array("q"), dict[int, str]()
    for number, found in lines:
        row = len(at)
        at.append(number)
        labels.append(None)
        if len(found) != len(names):
            known[row] = f"{len(found)} cells instead of {len(names)}"
            for column in columns:
                column.values.append(0.0)
            continue
        if label is not None:
            word = found.pop(label).strip()
            labels[row] = int(word) if re.fullmatch(r"-?[0-9]{1,18}", word) else word or None
        missing = [column.name for column, cell in zip(columns, found, strict=True) if not column.take(row, cell)]
        if missing:
            known[row] = f"{missing[0]} is missing"
    if not at:
        raise DataError(f"the table {str(path)!r} has no rows")
    try:
        marks, classes = labels_of(labels)
    except DataError as error:
        raise DataError(f"the column {names[label or 0]!r} of {str(path)!r}: {error}") from error
    x = np.stack([column.finished(path, known) for column in columns], 1)
    kinds = tuple(Column(column.name, column.categories, column.decimals) for column in columns)
    place = f"the table {str(path)!r}"
    return Arrays(path.stem, place, x, marks, classes, known, lambda row: f"{path.name}:{at[row]}", columns=kinds)


class _Cells:
    """The cells of a column. Whether it holds numbers or categories is known at its end: words are numbered in the
    order in which they come until then."""

    def __init__(self, name: str) -> None:
        self.name, self.values = name, array("f")
        self._numbers, self._words, self._worded = 0, dict[str, int](), array("q")
        self._decimals = 0

    def take(self, row: int, cell: str) -> bool:
        """Append a cell; False if it is empty."""
        word, value = cell.strip(), _number(cell)
        if value is not None:
            self._numbers += 1
            self._decimals = max(self._decimals, _decimals(word))
        elif word:
            self._worded.append(row)
        self.values.append(self._words.setdefault(word, len(self._words)) if value is None and word else value or 0.0)
        return bool(word)

    @property
    def categories(self) -> tuple[str, ...]:
        """In their order; () for a column with a number in it, or with nothing."""
        return () if self._numbers else tuple(sorted(self._words))

    @property
    def decimals(self) -> int | None:
        """Of all numbers of the column, None = any."""
        return self._decimals if self._numbers and self._decimals <= MOST_DECIMALS else None

    def finished(self, path: Path, known: dict[int, str]) -> npt.NDArray[np.float32]:
        """The column; in one of numbers the words are put down in `known`."""
        x, words = np.frombuffer(self.values, np.float32), list(self._words)
        if self._numbers or not words:
            for row in self._worded:
                known.setdefault(row, f"{self.name} is {words[int(x[row])]!r}, no number")
                x[row] = 0.0
            return x
        check_words(self.name, repr(str(path)), len(words))
        place = {word: k for k, word in enumerate(self.categories)}
        return np.array([place[word] for word in words], np.float32)[x.astype(np.int64)]


def check_words(name: str, place: str, count: int) -> None:
    """Raise DataError for a column of more different words than can be categories."""
    if count > MOST_CATEGORIES:
        raise DataError(
            f"the column {name!r} of {place} has {count:,} different words, and at most {MOST_CATEGORIES:,} can be "
            "categories: leave it out of the table"
        )


def label_of(names: Sequence[str], place: str) -> int | None:
    """Which column holds the labels; None = there is none. Raises DataError if two could: as samples are written, there
    would be two of one name."""
    found = [k for k, name in enumerate(names) if name.lower() in LABELS]
    if len(found) > 1:
        two = " and ".join(repr(names[k]) for k in found)
        raise DataError(f"{place} has the columns {two}, each of which could hold the labels: rename all but one")
    return found[0] if found else None


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Raise DataError for a first line that does not name the columns of numbers and categories."""
    if not names:
        raise DataError(f"the table {str(path)!r} is empty")
    if all(_number(name) is not None for name in names):
        raise DataError(f"the first line of {str(path)!r} is numbers: the names of the columns belong there")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"the table {str(path)!r} has two columns {twice!r}: rename one")
    if len(names) == 1 and (names[0].lower() in LABELS or re.search(r"[;,\t|]", names[0])):
        raise DataError(
            f"the table {str(path)!r} has the column {names[0]!r} alone: its cells are divided by "
            f"{'tabs' if _delimiter(path) != ',' else 'commas'}, and columns of numbers or categories are wanted"
        )


def write_table(path: Path, columns: Sequence[Column], x: npt.NDArray[np.floating], labels: Sequence[str] = ()) -> None:
    """Rows (n, D) as a table that `open_table` reads: the header, then names of categories and numbers. labels: the
    names of the rows' classes, which go into a column "label"; () = they have none. Written beside and renamed, so that
    nobody reads half a table."""
    part = path.with_name(f"{path.name}.part")
    with open(part, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=_delimiter(path), lineterminator="\n")
        writer.writerow([column.name for column in columns] + ["label"] * bool(labels))
        rows = cells(columns, x)
        writer.writerows([[*row, label] for row, label in zip(rows, labels, strict=True)] if labels else rows)
    part.replace(path)


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


def _decimals(number: str) -> int:
    """How many a number needs as it is written, 2.50 one; in powers of ten, 1e-3, any."""
    whole, _, behind = number.partition(".")
    return len(behind.rstrip("0")) if (whole + behind).lstrip("+-").isdigit() else MOST_DECIMALS + 1


def _number(text: str) -> float | None:
    """A finite number as tables write it, or None; Python would take 1_000 as well."""
    try:
        value = float(text)
    except ValueError:
        return None
    return None if "_" in text or value - value != 0.0 else value
