"""Parquet tables of numbers and categories as a source of vectors, as `table` has those of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gensys.columns import Column
from gensys.data.arrays import Arrays
from gensys.data.source import labels_of
from gensys.data.table import MOST_DECIMALS, check_words, label_of
from gensys.errors import DataError

__all__ = ["is_table", "open_parquet_table"]


def is_table(schema: pa.Schema) -> bool:
    """Whether all columns are of numbers, truths or words."""
    return all(_is_number(kind) or _is_word(kind) for kind in schema.types)


def open_parquet_table(paths: Sequence[Path]) -> Arrays:
    """Tables one after another, whose columns are the elements of vectors (D,) float32: numbers as they are.

    A column of words, or of true and false, holds categories, numbered in the sorted order of their words. A column
    "label" or "class" is that: whole numbers from 0 or words, missing = none. A row with a value that is missing cannot
    be read. Numbers have the most decimals that any of their column needs; any, if that is more than six. Raises
    DataError for a damaged file, for files with other columns than the first, and if there is no row.
    """
    tables = list[pa.Table]()
    for path in paths:
        try:
            tables.append(pq.read_table(path))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{str(path)!r} is damaged: {error}") from error
        first, own = tables[0].schema, tables[-1].schema
        if (own.names, own.types) != (first.names, first.types):
            raise DataError(f"{str(path)!r} has other columns than {str(paths[0])!r}: give tables with the same ones")
    table = pa.concat_tables(tables)
    place = f"the table {str(paths[0])!r}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    if not len(table):
        raise DataError(f"{place} has no rows")
    at = label_of(table.column_names, place)
    label = None if at is None else table.column_names[at]
    columns, values, known = list[Column](), list[npt.NDArray[np.float32]](), dict[int, str]()
    for name in table.column_names:
        if name == label:
            continue
        cells = table.column(name)
        for row in np.flatnonzero(cells.is_null().to_numpy()).tolist():
            known.setdefault(row, f"{name} is missing")
        column, x = _numbers(name, cells) if _is_number(cells.type) else _words(name, cells, place)
        columns.append(column)
        values.append(x)
    if not columns:
        raise DataError(f"{place} has the column {label!r} alone: columns of numbers or categories are wanted")
    try:
        marks, classes = labels_of(_labels(table.column(label)) if label else [None] * len(table))
    except DataError as error:
        raise DataError(f"the column {label!r} of {place}: {error}") from error
    ends = np.cumsum([len(found) for found in tables])

    def title(row: int) -> str:
        k = int(np.searchsorted(ends, row, side="right"))
        return f"{paths[k].name}:{row - int(ends[k]) + len(tables[k])}"

    x = np.stack(values, 1)
    return Arrays(paths[0].stem, place, x, marks, classes, known, title, columns=tuple(columns))


def _labels(cells: pa.ChunkedArray) -> list[int | str | None]:
    """Whole numbers, as which pandas writes 1.0 where others are missing, or words. Raises DataError for others."""
    if _is_number(cells.type):
        values = [None if value is None or value != value else value for value in cells.to_pylist()]
        if odd := [value for value in values if value is not None and value != int(value)]:
            raise DataError(f"it holds {odd[0]}, and whole numbers or words are wanted")
        return [None if value is None else int(value) for value in values]
    return cells.cast(pa.string()).to_pylist()


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _is_word(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind)


def _numbers(name: str, cells: pa.ChunkedArray) -> tuple[Column, npt.NDArray[np.float32]]:
    kind = cells.type if pa.types.is_float32(cells.type) else pa.float64()
    x = cells.cast(kind, safe=False).fill_null(0.0).to_numpy()
    finite = x[np.isfinite(x)]  # rows with others cannot be read: `Arrays` sees to that
    decimals = next((k for k in range(MOST_DECIMALS + 1) if bool((np.round(finite, k) == finite).all())), None)
    with np.errstate(over="ignore"):
        return Column(name, decimals=decimals), x.astype(np.float32)


def _words(name: str, cells: pa.ChunkedArray, place: str) -> tuple[Column, npt.NDArray[np.float32]]:
    encoded = pa.concat_arrays(cells.cast(pa.string()).chunks).dictionary_encode()
    words = encoded.dictionary.to_pylist()
    check_words(name, place, len(words))
    order = {word: k for k, word in enumerate(sorted(words))}
    x = np.array([order[word] for word in words] or [0], np.float32)[encoded.indices.fill_null(0).to_numpy()]
    return Column(name, tuple(order)), x
