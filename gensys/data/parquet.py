"""Parquet tables of encoded images, such as Hugging Face's: a column of bytes, or of structs {bytes, path}."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from gensys.data.decode import DamagedError
from gensys.data.images import Images
from gensys.data.source import labels_of
from gensys.errors import DataError

__all__ = ["open_parquet", "schema_of"]

_LABELS = ("label", "labels", "class", "cls")
_CAPTIONS = ("caption", "text")
_KEPT_GROUPS = 2  # row groups in memory: rows are read in order, by two threads or so


def open_parquet(paths: Sequence[Path], size: int = 32) -> Images:
    """Tables as a source, one after another in the given order; all have the same columns.

    The images: the column "image" or "img", or the only one of bytes (or of structs with a field "bytes"). Labels and
    captions: the first column of `_LABELS` and of `_CAPTIONS` that is there; a label is a whole number or a word, and
    numbers take their names from Hugging Face's metadata if those are there. A row without an image cannot be read.

    Row groups are read when one of their rows is asked for. So rows are read fast in order, and slowly in a random one,
    unless all decoded images fit into memory. Raises DataError if a file is damaged or lacks such columns.
    """
    schema = schema_of(paths[0])
    image, label, caption = _columns(paths[0], schema)
    groups: list[_Group] = []
    wanted = [name for name in (label, caption) if name]
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    for path in paths:
        if (other := schema_of(path)).names != schema.names or other.types != schema.types:
            raise DataError(
                f"{str(path)!r} has the columns {_told(other)}, and {str(paths[0])!r} has {_told(schema)}: give tables "
                f"with the same columns"
            )
        try:
            with pq.ParquetFile(path) as file:
                groups += [_Group(path, i, file.metadata.row_group(i).num_rows) for i in range(file.num_row_groups)]
                table = file.read(columns=wanted)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{str(path)!r} is damaged: {error}") from error
        for name, values in columns.items():
            values += table.column(name).to_pylist()
    n = sum(group.rows for group in groups)
    if not n:
        raise DataError(f"{str(paths[0])!r}{' and the others' if len(paths) > 1 else ''} have no rows")
    labels, captions = columns.get(label, [None] * n), columns.get(caption)
    for name, values, kinds in ((label, labels, (int, str)), (caption, captions or [], (str,))):
        odd = next((v for v in values if v is not None and (not isinstance(v, kinds) or isinstance(v, bool))), None)
        if odd is not None:
            words = "whole numbers or words" if int in kinds else "words"
            raise DataError(f"the column {name!r} of {str(paths[0])!r} holds {odd!r}: {words} are wanted")
    try:
        numbers, classes = labels_of(labels, _names(schema, label))
    except DataError as error:
        raise DataError(f"the column {label!r} of {str(paths[0])!r}: {error}") from error
    texts = None if captions is None else [text or "" for text in captions]
    return Images.of(_Tables(tuple(paths), tuple(groups), image, classes, numbers, texts), size)


@dataclass(frozen=True)
class _Group:
    """A row group. number: within its file."""

    path: Path
    number: int
    rows: int


@dataclass(frozen=True)
class _Tables:
    """Rows of tables. See `images.Items`."""

    paths: tuple[Path, ...]
    groups: tuple[_Group, ...]
    column: str
    classes: tuple[str, ...]
    labels: Tensor
    captions: list[str] | None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _cache: OrderedDict[int, pa.ChunkedArray] = field(default_factory=OrderedDict)

    @property
    def place(self) -> str:
        if len(self.paths) == 1:
            return f"the table {str(self.paths[0])!r}"
        return f"{len(self.paths)} tables in {str(self.paths[0].parent)!r}"

    @property
    def name(self) -> str:
        return self.paths[0].stem if len(self.paths) == 1 else self.paths[0].resolve().parent.name

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        return np.array(list(accumulate(group.rows for group in self.groups)))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _place(self, row: int) -> tuple[int, int]:
        """(the number of its group among all, the row in it)."""
        at = int(np.searchsorted(self._ends, row, side="right"))
        return at, row - int(self._ends[at]) + self.groups[at].rows

    def title(self, row: int) -> str:
        at, inside = self._place(row)
        group = self.groups[at]
        before = sum(other.rows for other in self.groups[at - group.number : at])
        return f"{group.path.name}:{before + inside}"

    def read(self, row: int, limit: int = -1) -> bytes:
        at, inside = self._place(row)
        with self._lock:
            value = self._column(at)[inside].as_py()
        if isinstance(value, dict):
            value = value["bytes"]
        if value is None:
            raise DamagedError("it has no bytes")
        return value

    def _column(self, at: int) -> pa.ChunkedArray:
        """The images of a row group."""
        if at not in self._cache:
            group = self.groups[at]
            try:
                with pq.ParquetFile(group.path) as file:
                    table = file.read_row_group(group.number, columns=[self.column])
            except (pa.ArrowException, OSError) as error:
                raise DamagedError(f"its row group is damaged: {error}") from error
            while len(self._cache) >= _KEPT_GROUPS:
                self._cache.popitem(last=False)
            self._cache[at] = table.column(0)
        self._cache.move_to_end(at)
        return self._cache[at]


def schema_of(path: Path) -> pa.Schema:
    """The columns of a table. Raises DataError if it is none."""
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{str(path)!r} is no Parquet table, or a damaged one: {error}") from error


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _columns(path: Path, schema: pa.Schema) -> tuple[str, str, str]:
    """The names of the columns of images, labels and captions; "" = there is none of the latter two."""

    def holds_images(column: pa.Field) -> bool:
        kind = column.type
        return _is_bytes(kind) or (
            pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type)
        )

    able = [column.name for column in schema if holds_images(column)]
    named = [name for name in ("image", "img") if name in able]
    if not named and len(able) != 1:
        raise DataError(
            f"the table {str(path)!r} has the columns {_told(schema)}: one of them must hold images as bytes, or as "
            f'structs with a field "bytes"; name it "image"' + (f" ({', '.join(able)} could be it)" if able else "")
        )
    label, caption = (next((name for name in names if name in schema.names), "") for names in (_LABELS, _CAPTIONS))
    return (named or able)[0], label, caption


def _names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """The names of the classes in Hugging Face's metadata, or ()."""
    try:
        found: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = found.get("info", {}).get("features", {}).get(column, {}).get("names", [])
        return tuple(str(name) for name in names)
    except (ValueError, AttributeError, TypeError):
        return ()  # metadata of another kind: the numbers are the names


def _told(schema: pa.Schema) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in zip(schema.names, schema.types, strict=True))
