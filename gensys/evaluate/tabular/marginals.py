"""Column by column: is each value as frequent among the samples as among real rows?

    KS complement   1 - max_v |F_samples(v) - F_real(v)|             of numbers; F: the share of values up to v
    TV complement   1 - 1/2 sum_v |p_samples(v) - p_real(v)|         of categories
    Wasserstein-1   integral of |F_samples - F_real| over sigma      of numbers; sigma: their standard deviation

The first two are the scores of these names of the package sdmetrics (SDMetrics, MIT Data to AI Lab), and 1 minus the
Kolmogorov-Smirnov statistic and the total variation. The third is how far, in standard deviations, values have to move
on average; unlike the first it grows with the distance of an outlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import ks_2samp, wasserstein_distance

from gensys.columns import Column
from gensys.evaluate.tabular.rows import Rows

__all__ = ["LEVELS", "described", "ks_complement", "tv_complement", "wasserstein"]

LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Of the table of quantiles."""


def ks_complement(samples: Rows, real: Rows) -> float:
    """In [0, 1], 1 = the same distribution. samples (n,), real (m,)."""
    found = ks_2samp(real, samples, method="asymp")  # how its p-value is found, which is not used
    return 1.0 - float(found.statistic)  # pyright: ignore[reportAttributeAccessIssue] - lost behind its decorators


def tv_complement(samples: Rows, real: Rows, values: int) -> float:
    """In [0, 1], 1 = the same shares. samples (n,), real (m,): whole numbers below `values`."""
    return 1.0 - 0.5 * float(np.abs(_shares(samples, values) - _shares(real, values)).sum())


def wasserstein(samples: Rows, real: Rows) -> float:
    """In standard deviations of `real`, 0 = the same distribution. samples (n,), real (m,), not all the same."""
    return float(wasserstein_distance(samples, real) / real.std())


def described(samples: Rows, real: Rows, columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Each column for a person: its scores, and quantiles of numbers or shares of categories, of samples and real rows.

    samples: (n, D), real: (m, D). Values that JSON can hold.
    """
    return [_described(column, samples[:, k], real[:, k], len(column.categories)) for k, column in enumerate(columns)]


def _described(column: Column, samples: Rows, real: Rows, values: int) -> dict[str, Any]:
    if values:
        pairs = zip(column.categories, _shares(samples, values), _shares(real, values), strict=True)
        return {
            "column": column.name,
            "tv_complement": tv_complement(samples, real, values),
            "shares": {name: {"samples": float(p), "real": float(q)} for name, p, q in pairs},
        }
    found = zip(LEVELS, np.quantile(samples, LEVELS), np.quantile(real, LEVELS), strict=True)
    return {
        "column": column.name,
        "ks_complement": ks_complement(samples, real),
        "wasserstein_1": wasserstein(samples, real),
        "quantiles": {f"{level:g}": {"samples": float(p), "real": float(q)} for level, p, q in found},
    }


def _shares(x: Rows, values: int) -> npt.NDArray[np.float64]:
    return np.bincount(x.astype(np.int64), minlength=values) / len(x)
