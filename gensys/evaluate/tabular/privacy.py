"""Does the model give away its training rows? Distances between samples, training rows and rows that it never saw.

The distance of two rows is Gower's: the mean over the columns of |x - y| over the range among training rows, at most 1,
for numbers, and of 0 or 1, equal or not, for categories (Gower, 1971, "A general coefficient of similarity and some of
its properties", Biometrics 27). From it:

    closest record     of each sample the distance to its nearest training row, as in DCR of the package sdmetrics; the
                       median over that of held-out rows: 1 = as honest new rows, 0 = copies
    membership         an attacker who has the samples takes rows with a sample nearby for training rows; the area under
                       the ROC curve over training and held-out rows: 0.5 = it knows nothing (the attack without access
                       to the model of Chen, Yu, Zhang and Fritz, 2020, "GAN-Leaks", arXiv:1909.03935, section 4.2)
    identical rows     the share of samples that are, value by value, a training row

None of them proves that samples are private: an attacker may know more. They show copying where there is some.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gensys.columns import Column
from gensys.evaluate.tabular.rows import Rows

__all__ = ["identical", "nearest", "ranges"]

_BLOCK = 1 << 20  # distances held at a time: 8 MiB of float64, whatever the number of rows


def ranges(train: Rows, columns: Sequence[Column]) -> Rows:
    """(D,): what a difference in a column is divided by; 0 = whether values are equal is all that counts."""
    found = np.ptp(train, axis=0)
    found[[k for k, column in enumerate(columns) if column.categories]] = 0.0
    return found


def nearest(a: Rows, b: Rows, ranges: Rows) -> tuple[Rows, Rows]:
    """Gower's distances (n,) of rows a (n, D) to the nearest of b (m, D), and (m,) of b to the nearest of a."""
    of_a, of_b = np.empty(len(a)), np.full(len(b), np.inf)
    step = max(1, _BLOCK // len(b))
    for start in range(0, len(a), step):
        part = a[start : start + step]
        total = np.zeros((len(part), len(b)))
        for k, width in enumerate(ranges):
            if width:
                total += np.minimum(np.abs(part[:, k, None] - b[None, :, k]) / width, 1.0)
            else:
                total += part[:, k, None] != b[None, :, k]
        total /= len(ranges)
        of_a[start : start + step] = total.min(1)
        of_b = np.minimum(of_b, total.min(0))
    return of_a, of_b


def identical(rows: Rows, train: Rows) -> npt.NDArray[np.bool_]:
    """Which of rows (n, D) are, value by value, rows of train (m, D)."""
    known = {row.tobytes() for row in train + 0.0}  # -0.0 is 0.0
    return np.array([row.tobytes() in known for row in rows + 0.0])
