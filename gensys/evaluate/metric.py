"""What a score is: a number with its interval, its floor and its definition.

A number alone says little: the distance of real data from real data is not zero, and no two draws of samples give the
same. So every metric carries `floor`, what other real data get under the same protocol (the value of a perfect model),
and an interval. A floor is a draw as well: of 1,000 real digits the Frechet distance varies by a quarter from one draw
to the next. So where there are enough real rows it is the mean over several sets of them, with their spread.

    proportions       Wilson's 95 % interval: sensible at 0 and 1, where a bootstrap has no width
    areas under ROC   Hanley and McNeil's
    means             mean +- 1.96 standard errors
    distances, ratios value +- 1.96 standard deviations over 20 bootstrap resamples of the samples
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from gensys.noise import Noise, Stream

__all__ = [
    "Metric",
    "Z",
    "area_interval",
    "bootstrap_half",
    "mean_metric",
    "proportion_interval",
    "share_metric",
    "with_floor",
]

Z = 1.959964
"""The 97.5 % quantile of the standard normal."""

_RESAMPLES = 20  # their standard deviation is known to 16 %, enough for an error bar
_SEED = 0x62_6F_6F_74  # of the bootstrap: fixed, so that equal samples have equal intervals


Better = Literal["higher", "lower", "nearer"]
"""Which values are the better ones; nearer: to that of real data, from either side."""


@dataclass(frozen=True)
class Metric:
    """A measured number.

    value: the estimate. floor: what real data get under the same protocol, or None where there is no such thing.
    low, high: a 95 % interval, or None. unit: "" for a pure number. better: which way is. n: rows it was measured
    on. about: its definition in a line. spread: of the floor, the standard deviation over several sets of real rows, or
    None where it was measured on one.
    """

    value: float
    floor: float | None
    low: float | None
    high: float | None
    unit: str
    better: Better
    n: int
    about: str
    spread: float | None = None

    def to_json(self) -> dict[str, float | int | str | None]:
        """A dict that strict JSON can hold. An infinite number (the PSNR of a lossless codec) becomes "inf", which
        float() reads back."""
        return {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def with_floor(metric: Metric, values: Sequence[float]) -> Metric:
    """The metric with what each of some sets of real rows gets as its floor: their mean, and their spread."""
    if not values:
        return metric
    floors = torch.tensor(values, dtype=torch.float64)
    return replace(metric, floor=float(floors.mean()), spread=float(floors.std()) if len(values) > 1 else None)


def proportion_interval(p: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion p seen on n rows (Wilson, 1927, J. Am. Stat. Assoc. 22)."""
    if n < 1 or not 0.0 <= p <= 1.0:
        raise ValueError(f"'p' must lie in [0, 1] and 'n' be at least 1, got {p} and {n}")
    shrink = 1.0 + Z**2 / n
    centre = (p + Z**2 / (2 * n)) / shrink
    half = Z / shrink * math.sqrt(p * (1.0 - p) / n + Z**2 / (4 * n * n))
    # min and max with p: at p = 0 and 1 the ends are p itself, which rounding would miss
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def area_interval(area: float, positive: int, negative: int) -> tuple[float, float]:
    """The 95 % interval of an area under the ROC curve that so many rows of both kinds gave.

    Hanley and McNeil, 1982, "The meaning and use of the area under a receiver operating characteristic (ROC) curve",
    Radiology 143, equation 2, for scores that are exponentially distributed, which is wider than what others give.
    """
    if positive < 1 or negative < 1 or not 0.0 <= area <= 1.0:
        raise ValueError(
            f"'area' must lie in [0, 1], 'positive' and 'negative' be at least 1, got {area}, {positive} and {negative}"
        )
    both, square = (
        area / (2.0 - area),
        2.0 * area**2 / (1.0 + area),
    )  # a row of one kind beats, is beaten by, two others
    variance = area * (1.0 - area) + (positive - 1) * (both - area**2) + (negative - 1) * (square - area**2)
    half = Z * math.sqrt(max(0.0, variance) / (positive * negative))
    return max(0.0, area - half), min(1.0, area + half)


def bootstrap_half(n: int, statistic: Callable[[Tensor], float]) -> float:
    """1.96 standard deviations of `statistic(rows)` over resamples of n rows with replacement.

    The spread, not the quantiles: a resample repeats rows, which biases a Frechet distance upwards once more, so its
    quantiles lie to the right of the estimate and may not even contain it.
    """
    draws = Noise(_SEED, torch.arange(_RESAMPLES)).uniform((n,), Stream.PRIOR)
    rows = (draws.double() * n).long()  # u < 1 - 2^-24, and exact in float64: always below n
    values = torch.tensor([statistic(row) for row in rows], dtype=torch.float64)
    return Z * float(values.std())


def mean_metric(
    values: Tensor, floor: float | None, unit: str, better: Better, about: str, least: float = 0.0
) -> Metric:
    """The mean of values (n,) with its interval, which ends at `least`."""
    n, mean = values.shape[0], float(values.mean())
    half = Z * float(values.std()) / math.sqrt(n) if n > 1 else None
    low, high = (None, None) if half is None else (max(least, mean - half), mean + half)
    return Metric(mean, floor, low, high, unit, better, n, about)


def share_metric(p: float, n: int, floor: float | None, better: Better, about: str) -> Metric:
    """A share p of n rows with Wilson's interval."""
    return Metric(p, floor, *proportion_interval(p, n), "", better, n, about)
