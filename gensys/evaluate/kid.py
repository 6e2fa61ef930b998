"""The kernel inception distance: how far two sets of features are apart, without assuming a distribution, or a bias.

    MMD^2 = sum_{i != j} [k(x_i, x_j) + k(y_i, y_j)] / (m (m - 1)) - 2 sum_{i, j} k(x_i, y_j) / m^2
    k(x, y) = (x . y / d + 1)^3

Binkowski, Sutherland, Arbel and Gretton, 2018, "Demystifying MMD GANs", arXiv:1801.01401; after
Gretton et al., 2012, "A kernel two-sample test", J. Machine Learning Research 13.

Its expectation is that of infinitely many rows, whatever their number, and 0 for equal distributions: an estimate may
be below 0. The name belongs to the features of one Inception network; in any others it is a kernel distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gensys.evaluate.checks import check_features
from gensys.noise import Noise, Stream

__all__ = ["KernelDistance", "kernel_distance", "squared_mmd", "subset_rows"]

_SEED = 0x6B_69_64  # of the subsets: fixed, so that equal features have equal distances


@dataclass(frozen=True)
class KernelDistance:
    """mean: over the subsets. spread: their standard deviation, with the divisor `subsets`, as is the custom, None of
    one subset. size: rows of a subset. values: (subsets,) float64.

    The spread is that of an estimate from `size` rows, an upper bound for that of the mean: the subsets share rows.
    """

    mean: float
    spread: float | None
    subsets: int
    size: int
    values: Tensor


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return ((x @ y.T) / x.shape[1] + 1.0) ** 3


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """The unbiased estimate of MMD^2 from (m, d) and (m, d) rows, m >= 2, in float64."""
    check_features("x", x, 2, "for pairs of different rows")
    check_features("y", y, x.shape[0], "as 'x' has", x.shape[1])
    if y.shape[0] != x.shape[0]:
        raise ValueError(f"'y' must have {x.shape[0]} rows as 'x' has, got {y.shape[0]}; take a subset")
    x, y, m = x.double(), y.double(), x.shape[0]
    within = sum(k.sum() - k.trace() for k in (_kernel(x, x), _kernel(y, y)))
    return float(within / (m * (m - 1)) - 2.0 * _kernel(x, y).sum() / m**2)


def subset_rows(n: int, size: int, seed: int, subset: int, which: int) -> Tensor:
    """`size` of n rows without replacement: (size,) int64, those with the smallest keys.

    The key of a row is counter-based noise of (seed, subset, row, which), so a subset depends on nothing else.
    which: 0 or 1, the set of rows; equal subsets of both would be a pairing.
    """
    keys = Noise(seed, torch.arange(n), subset).uniform((2,), Stream.PRIOR)[:, which]
    return keys.argsort(stable=True)[:size]  # stable: 23-bit keys do tie now and then


def kernel_distance(
    samples: Tensor, reference: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = _SEED
) -> KernelDistance:
    """MMD^2 of (n, d) sample features and (m, d) real features, on average over subsets of `size` rows of both.

    size: at most; capped by n and m. Where both sets have no more rows than that, there is one subset only, all rows,
    and no spread. Time O(subsets size^2 d), memory O(size^2).
    ValueError for fewer than 2 rows, non-finite features, widths that differ, subsets < 1 or size < 2.
    """
    check_features("samples", samples, 2, "for pairs of different rows")
    check_features("reference", reference, 2, "for pairs of different rows", samples.shape[1])
    if subsets < 1 or size < 2:
        raise ValueError(f"'subsets' must be at least 1 and 'size' at least 2, got {subsets} and {size}")
    n, m = samples.shape[0], reference.shape[0]
    size = min(size, n, m)
    if size == max(n, m):
        subsets = 1  # every other one would be the same rows in another order
    values = []
    for subset in range(subsets):
        x = samples[subset_rows(n, size, seed, subset, 0).to(samples.device)]
        y = reference[subset_rows(m, size, seed, subset, 1).to(reference.device)]
        values.append(squared_mmd(x, y))
    found = torch.tensor(values, dtype=torch.float64)
    spread = float(found.std(correction=0)) if subsets > 1 else None
    return KernelDistance(float(found.mean()), spread, subsets, size, found)
