"""Pairs of columns: do they go together among the samples as they do among real rows?

    numbers              1 - |r_samples - r_real| / 2, r: Pearson's correlation, or Spearman's, that of the ranks
    categories           1 - 1/2 sum over pairs of values |p_samples - p_real|, the total variation of the pair's table
    one of each          the same, with the number in ten bins of equal width between the least and the largest real one

each averaged over all such pairs. These are the scores CorrelationSimilarity and ContingencySimilarity of the package
sdmetrics (SDMetrics, MIT Data to AI Lab), which sees marginals as well: a pair's table also differs where a single
column does. Of the dependence alone are the differences |V_samples - V_real| and |eta_samples - eta_real|:

    Cramer's V           sqrt(chi^2 / n / (min(rows, columns) - 1))   of two categories, 0 = independent, 1 = a function
    correlation ratio    sqrt(variance between categories / variance) of a number and a category, 0 to 1

Cramer, 1946, "Mathematical methods of statistics", chapter 21; Pearson, 1905, "On the general theory of skew
correlation". Both are biased upwards in small sets, so only sets of one size compare, as the floors do.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from gensys.evaluate.tabular.rows import Rows

__all__ = ["BINS", "binned", "contingency", "correlation_ratio", "correlations", "cramers_v", "off_diagonal", "tables"]

BINS = 10
"""Of a number that is put into a table with a category."""


def correlations(x: Rows, ranks: bool = False) -> Rows:
    """(n, k) -> (k, k). ranks: Spearman's. 0 for a column whose values are all the same: it goes with nothing."""
    x = rankdata(x, axis=0) if ranks else x
    centred = x - x.mean(0)
    norms = np.sqrt(np.square(centred).sum(0))
    norms[np.ptp(x, axis=0) == 0.0] = np.inf  # of a constant column rounding may leave something
    return (centred / norms).T @ (centred / norms)


def off_diagonal(x: Rows) -> Rows:
    """The entries of a symmetric (k, k) matrix above its diagonal."""
    return x[np.triu_indices(len(x), 1)]


def contingency(a: Rows, b: Rows, values: tuple[int, int]) -> Rows:
    """The shares (values[0], values[1]) of the pairs of two columns (n,) of whole numbers."""
    index = a.astype(np.int64) * values[1] + b.astype(np.int64)
    return np.bincount(index, minlength=values[0] * values[1]).reshape(values) / len(a)


def tables(x: Rows, values: list[int]) -> list[Rows]:
    """The shares of all pairs of columns (n, k) of whole numbers; values: how many each column has."""
    pairs = itertools.combinations(range(len(values)), 2)
    return [contingency(x[:, i], x[:, j], (values[i], values[j])) for i, j in pairs]


def binned(x: Rows, real: Rows) -> npt.NDArray[np.float64]:
    """Numbers (n,) as the numbers, 0 to 9, of bins of equal width from the least to the largest of `real`."""
    edges = np.histogram_bin_edges(real, BINS)[1:-1]  # what lies beyond is in the outermost
    return np.digitize(x, edges).astype(np.float64)


def cramers_v(shares: Rows) -> float:
    """Of a table of shares. Values that no row has do not count. 0 where only one is left."""
    shares = shares[shares.sum(1) > 0][:, shares.sum(0) > 0]
    if min(shares.shape) < 2:
        return 0.0
    independent = shares.sum(1, keepdims=True) * shares.sum(0, keepdims=True)
    phi = float((np.square(shares - independent) / independent).sum())
    return float(np.sqrt(phi / (min(shares.shape) - 1)))


def correlation_ratio(numbers: Rows, category: Rows, values: int) -> float:
    """Of a number (n,) and a category (n,) of whole numbers below `values`. 0 where the number is always the same."""
    kind = category.astype(np.int64)
    centred = numbers - numbers.mean()
    if np.ptp(numbers) == 0.0:
        return 0.0
    counts, sums = np.bincount(kind, minlength=values), np.bincount(kind, centred, minlength=values)
    between = np.square(sums[counts > 0]) / counts[counts > 0]
    return float(np.sqrt(between.sum() / np.square(centred).sum()))
