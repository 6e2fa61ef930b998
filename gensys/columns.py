"""What the columns of a table are: numbers, or categories that are stored as the numbers of their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["MOST_CATEGORIES", "Column", "cells", "most_likely", "one_hot", "rounded", "widths"]

MOST_CATEGORIES = 1_000
"""A column with more different words than this names its rows: it says nothing that another row could have."""


@dataclass(frozen=True)
class Column:
    """categories: the names that the values 0, 1, ... stand for; () = the values are numbers. decimals: of the numbers,
    0 for whole ones; None = any."""

    name: str
    categories: tuple[str, ...] = ()
    decimals: int | None = None


def widths(counts: Sequence[int]) -> list[int]:
    """How many numbers each column is as `one_hot`. counts: how many categories a column has, 0 = it is of numbers."""
    return [count or 1 for count in counts]


def one_hot(counts: Sequence[int], x: Tensor) -> Tensor:
    """Rows (n, D) with each category as a vector of zeros and a one, numbers as they are: (n, sum of `widths`)."""
    parts = [
        torch.nn.functional.one_hot(x[:, k].round().long().clamp(0, count - 1), count).to(x.dtype)
        if count
        else x[:, k : k + 1]
        for k, count in enumerate(counts)
    ]
    return torch.cat(parts, 1)


def most_likely(counts: Sequence[int], x: Tensor) -> Tensor:
    """Rows (n, D) from what `one_hot` made, or a model's idea of it: the category whose number is the largest."""
    parts = x.split(widths(counts), 1)
    return torch.stack(
        [part.argmax(1).to(x) if count else part[:, 0] for count, part in zip(counts, parts, strict=True)], 1
    )


def rounded(columns: Sequence[Column], x: Tensor) -> Tensor:
    """Rows (n, D) whose numbers have no more decimals than their columns: an age is a whole number of years."""
    found = [
        x[:, k] if column.decimals is None else torch.round(x[:, k], decimals=column.decimals)
        for k, column in enumerate(columns)
    ]
    return torch.stack(found, 1) if found else x


def cells(columns: Sequence[Column], x: npt.NDArray[np.floating]) -> list[list[str]]:
    """Rows (n, D) as the words of a table: the names of categories, and numbers with as many digits as tell them from
    their neighbours in x's precision. Raises ValueError for a value that is none of its column's categories."""
    if x.ndim != 2 or x.shape[1] != len(columns):
        raise ValueError(f"'x' must be (n, {len(columns)}), a value for each column, got {x.shape}")
    found = []
    for column, values in zip(columns, x.T, strict=True):
        if not column.categories:
            words = values.astype(str).tolist()
            whole = (values == np.trunc(values)) if column.decimals == 0 else np.zeros(len(words), bool)
            found.append([f"{v + 0.0:.0f}" if w else word for v, w, word in zip(values, whole, words, strict=True)])
            continue
        known = np.isin(values, np.arange(len(column.categories)))
        if not known.all():
            raise ValueError(
                f"'x' holds {values[~known][0]:g} in the column {column.name!r}, whose values are 0 to "
                f"{len(column.categories) - 1}"
            )
        found.append([column.categories[int(value)] for value in values])
    return [list(row) for row in zip(*found, strict=True)]
