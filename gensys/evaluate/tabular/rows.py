"""Rows of a table as every metric of tables takes them: float64 (n, D), categories as the numbers of their names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gensys.columns import Column
from gensys.evaluate.checks import check_features

__all__ = ["Rows", "features", "of_categories", "of_numbers", "rows_of"]

Rows = npt.NDArray[np.float64]


def of_numbers(columns: Sequence[Column]) -> list[int]:
    """Where the columns of numbers are."""
    return [k for k, column in enumerate(columns) if not column.categories]


def of_categories(columns: Sequence[Column]) -> list[int]:
    """Where the columns of categories are."""
    return [k for k, column in enumerate(columns) if column.categories]


def rows_of(name: str, rows: Tensor, columns: Sequence[Column], least: int) -> Rows:
    """Rows (n, D) after a look at them. least: how many there must be.

    ValueError names the argument, and the column where it is one: too few rows, another number of columns, NaN or
    infinity, values that are none of the categories.
    """
    check_features(name, rows, least, "to be scored", len(columns))
    x = rows.detach().cpu().double().numpy()
    for k in of_categories(columns):
        last = len(columns[k].categories) - 1
        odd = (x[:, k] != np.round(x[:, k])) | (x[:, k] < 0) | (x[:, k] > last)
        if odd.any():
            raise ValueError(
                f"'{name}' must hold whole numbers from 0 to {last} in the column {columns[k].name!r} of categories, "
                f"got {x[odd, k][0]:g} in {int(odd.sum())} of {len(x)} rows: sample a model of categories, such as vae"
            )
    return x


def features(rows: Rows, columns: Sequence[Column]) -> Rows:
    """What a model that predicts sees: numbers as they are, categories as one-hot vectors. (n, features)."""
    parts = [
        np.eye(len(column.categories))[x.astype(np.int64)] if column.categories else x[:, None]
        for column, x in zip(columns, rows.T, strict=True)
    ]
    return np.concatenate(parts, 1)
