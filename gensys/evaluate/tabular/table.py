"""One call that scores samples of a table, in four parts: columns, pairs of columns, what they are good for, privacy.

Floors are what other real rows get under the same protocol, which is what a perfect model would get. Intervals hold the
real rows fixed and say what other samples of this model would give, but where a metric's `about` says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits
from torch import Tensor

from gensys.columns import Column
from gensys.evaluate.metric import Metric, area_interval, bootstrap_half, share_metric
from gensys.evaluate.tabular import dependence, marginals, privacy, utility
from gensys.evaluate.tabular.rows import Rows, of_categories, of_numbers, rows_of

__all__ = ["LEAST", "LEAST_HELD", "evaluate_table"]

LEAST = 20
"""The fewest rows of a set: shares of fewer are known to no more than 0.2."""
LEAST_HELD = 20
"""The fewest held-out rows: an area under a curve over fewer is known to no more than 0.15."""

Better = Literal["higher", "lower"]
Statistic = Callable[[Rows], float]


def evaluate_table(
    samples: Tensor,
    reference: Tensor,
    floor: Tensor | None,
    train: Tensor | None,
    held_out: Tensor | None,
    columns: Sequence[Column],
    target: str | None,
) -> dict[str, Metric]:
    """Score generated rows; every number is a function of the arguments alone.

    samples: (n, D), n >= 20. reference: (m, D) real rows, m >= 20. floor: at least n other real rows, of which the
        first n are scored as if they were samples; None leaves the floors of the first two parts out.
    train: the rows that the model was trained on, in random order; held_out: at least 20 real rows that are not among
        them. None for either leaves utility and privacy out.
    columns: what the D columns are. target: the name of the one that is predicted; None leaves utility out.

    Returns ks_complement, wasserstein_1 and tv_complement; pearson_similarity, spearman_similarity,
    contingency_similarity, mixed_similarity, cramers_v_difference and correlation_ratio_difference, each where the
    columns have such pairs; c2st_auc; tstr_linear and tstr_trees; closest_record_ratio, identical_rows and
    membership_auc. ValueError names the argument that is too short, not finite or of another width, a column of numbers
    that is always the same among real rows, and a target that is not there.
    """
    fake = rows_of("samples", samples, columns, LEAST)  # first: few samples have a small reference too
    real = rows_of("reference", reference, columns, LEAST)
    for k in of_numbers(columns):
        if np.ptp(real[:, k]) == 0.0:
            raise ValueError(
                f"'reference' must have different values in the column {columns[k].name!r}, got {real[0, k]:g} in all "
                f"of {len(real)} rows: leave a constant column out of the table"
            )
    other = None if floor is None else rows_of("floor", floor, columns, len(fake))[: len(fake)]
    with threadpool_limits(1):  # sums over rows must not be split by the number of cores
        result = _columns(fake, real, other, columns) | _pairs(fake, real, other, columns)
        result |= _two_samples(fake, real, other, columns)
        if train is not None and held_out is not None:
            known, new = rows_of("train", train, columns, LEAST), rows_of("held_out", held_out, columns, LEAST_HELD)
            if target is not None:
                result |= _utility(fake, known, new, columns, target)
            result |= _privacy(fake, known, new, columns)
    return result


def _scored(statistic: Statistic, samples: Rows, other: Rows | None, better: Better, about: str) -> Metric:
    """A statistic of samples, at least 0 and, where higher is better, at most 1."""
    value, n = statistic(samples), len(samples)
    half = bootstrap_half(n, lambda rows: statistic(samples[rows.numpy()]))
    low, high = max(0.0, value - half), value + half
    high = min(1.0, high) if better == "higher" else high
    return Metric(value, None if other is None else statistic(other), low, high, "", better, n, about)


# --------------------------------------------------------------------------------------------------- columns, and pairs


def _columns(samples: Rows, real: Rows, other: Rows | None, columns: Sequence[Column]) -> dict[str, Metric]:
    numbers, categories = of_numbers(columns), of_categories(columns)
    result: dict[str, Metric] = {}

    def mean(score: Callable[[Rows, Rows], float], rows: Rows) -> float:
        return float(np.mean([score(rows[:, k], real[:, k]) for k in numbers]))

    def shares(rows: Rows) -> float:
        found = [marginals.tv_complement(rows[:, k], real[:, k], len(columns[k].categories)) for k in categories]
        return float(np.mean(found))

    if numbers:
        of = f"mean over the {len(numbers)} columns of numbers" if len(numbers) > 1 else "of the column of numbers"
        about = f"1 - the largest difference of the shares of values up to a bound, {of}"
        result["ks_complement"] = _scored(partial(mean, marginals.ks_complement), samples, other, "higher", about)
        about = f"how far values have to move, in standard deviations, {of}"
        result["wasserstein_1"] = _scored(partial(mean, marginals.wasserstein), samples, other, "lower", about)
    if categories:
        many = len(categories) > 1
        of = f"mean over the {len(categories)} columns of categories" if many else "of the column of categories"
        about = f"1 - the total variation of the shares of values, {of}"
        result["tv_complement"] = _scored(shares, samples, other, "higher", about)
    return result


def _pairs(samples: Rows, real: Rows, other: Rows | None, columns: Sequence[Column]) -> dict[str, Metric]:
    numbers, categories = of_numbers(columns), of_categories(columns)
    values = [len(columns[k].categories) for k in categories]
    result: dict[str, Metric] = {}

    def put(name: str, statistic: Statistic, better: Better, about: str) -> None:
        result[name] = _scored(statistic, samples, other, better, about)

    if len(numbers) > 1:
        of = _over(len(numbers) * (len(numbers) - 1) // 2, "numbers")
        for name, ranks in (("pearson", False), ("spearman", True)):
            similar = partial(_correlated, real=dependence.correlations(real[:, numbers], ranks), at=numbers)
            about = f"1 - half the difference of {name.title()}'s correlations, {of}"
            put(f"{name}_similarity", partial(similar, ranks=ranks), "higher", about)
    if len(categories) > 1:
        truth = dependence.tables(real[:, categories], values)
        strength = np.array([dependence.cramers_v(table) for table in truth])
        of = _over(len(truth), "categories")

        def alike(rows: Rows) -> float:
            return _overlap(dependence.tables(rows[:, categories], values), truth)

        def apart(rows: Rows) -> float:
            found = [dependence.cramers_v(table) for table in dependence.tables(rows[:, categories], values)]
            return float(np.abs(np.array(found) - strength).mean())

        put("contingency_similarity", alike, "higher", f"1 - the total variation of the tables of pairs, {of}")
        put("cramers_v_difference", apart, "lower", f"difference of Cramer's V, {of}")
    if numbers and categories:
        of = _over(len(numbers) * len(categories), "a number and a category")
        mixed = partial(_mixed, real=real, numbers=numbers, categories=categories, values=values)
        ratios = partial(_ratios, numbers=numbers, categories=categories, values=values)
        cut, strong = mixed(real), ratios(real)
        about = f"1 - the total variation of the tables of pairs, numbers in ten bins, {of}"
        put("mixed_similarity", lambda rows: _overlap(mixed(rows), cut), "higher", about)
        about = f"difference of the correlation ratios, {of}"
        put("correlation_ratio_difference", lambda rows: float(np.abs(ratios(rows) - strong).mean()), "lower", about)
    return result


def _over(pairs: int, of: str) -> str:
    return f"mean over {pairs} pairs of {of}" if pairs > 1 else f"the only pair of {of}"


def _correlated(rows: Rows, *, real: Rows, at: list[int], ranks: bool) -> float:
    difference = dependence.off_diagonal(np.abs(dependence.correlations(rows[:, at], ranks) - real))
    return float(np.mean(1.0 - difference / 2.0))


def _overlap(tables: list[Rows], real: list[Rows]) -> float:
    return float(np.mean([1.0 - 0.5 * np.abs(p - q).sum() for p, q in zip(tables, real, strict=True)]))


def _mixed(rows: Rows, *, real: Rows, numbers: list[int], categories: list[int], values: list[int]) -> list[Rows]:
    """The tables of all pairs of a number, in bins of the real ones, and a category."""
    cut = [dependence.binned(rows[:, k], real[:, k]) for k in numbers]
    kinds = list(zip(categories, values, strict=True))
    return [dependence.contingency(x, rows[:, k], (dependence.BINS, v)) for x in cut for k, v in kinds]


def _ratios(rows: Rows, *, numbers: list[int], categories: list[int], values: list[int]) -> Rows:
    kinds = list(zip(categories, values, strict=True))
    return np.array([dependence.correlation_ratio(rows[:, k], rows[:, c], v) for k in numbers for c, v in kinds])


# ---------------------------------------------------------------------------------------------------------------- uses


def _two_samples(samples: Rows, real: Rows, other: Rows | None, columns: Sequence[Column]) -> dict[str, Metric]:
    fake, scores = utility.told_apart(samples, real, columns)
    best = None if other is None else utility.area(*utility.told_apart(other, real, columns))
    about = f"area under the ROC curve of trees that tell {fake.sum()} samples from as many real rows; 0.5 = they "
    return {"c2st_auc": _area_metric(fake, scores, best, f"{about}cannot; interval over rows")}


def _area_metric(positive: npt.NDArray[np.bool_], scores: Rows, floor: float | None, about: str) -> Metric:
    """Less is better. positive: (n,), which rows are to be told from the others; scores: (n,)."""
    value, n = utility.area(positive, scores), len(scores)
    yes = int(positive.sum())
    return Metric(value, floor, *area_interval(value, yes, n - yes), "", "lower", n, about)


def _utility(samples: Rows, train: Rows, test: Rows, columns: Sequence[Column], target: str) -> dict[str, Metric]:
    names = [column.name for column in columns]
    if target not in names:
        raise ValueError(f"'target' must be one of the columns {', '.join(names)}, got {target!r}")
    if len(columns) < 2:
        raise ValueError(f"'target' is {target!r}, the only column: there is nothing to predict it from; give None")
    k = names.index(target)
    truth = test[:, k]
    if np.ptp(truth) == 0.0:
        raise ValueError(
            f"'held_out' must have different values in the column {target!r}, got the same in all of {len(test)} rows: "
            "predict another column, or hold out more rows"
        )
    real = train[: len(samples)]
    what = "area under the ROC curve" if columns[k].categories else "R^2"
    about = f"{what} of {target!r} by {{}} trained on samples, tested on {len(test)} held-out rows; real data: trained "
    about += f"on {len(real)} real rows; interval over test rows"
    result: dict[str, Metric] = {}
    for kind in ("linear", "trees"):
        fake, best = (utility.predicted(rows, test, columns, k, kind) for rows in (samples, real))
        value, half = utility.score(fake, truth), bootstrap_half(len(test), partial(_again, fake, truth))
        floor, high = utility.score(best, truth), min(1.0, value + half)
        metric = Metric(value, floor, value - half, high, "", "higher", len(test), about.format(kind))
        result[f"tstr_{kind}"] = metric
    return result


def _again(prediction: Rows, truth: Rows, drawn: Tensor) -> float:
    """The score of a resample of test rows; of one with a single value, that of all rows."""
    rows = drawn.numpy()
    rows = rows if np.ptp(truth[rows]) else np.arange(len(truth))
    return utility.score(prediction[rows], truth[rows])


# ------------------------------------------------------------------------------------------------------------- privacy


def _privacy(samples: Rows, train: Rows, held_out: Rows, columns: Sequence[Column]) -> dict[str, Metric]:
    widths = privacy.ranges(train, columns)
    of_samples, of_train = privacy.nearest(samples, train, widths)
    of_held, _ = privacy.nearest(held_out, train, widths)
    of_new, _ = privacy.nearest(held_out, samples, widths)
    n, result = len(samples), dict[str, Metric]()
    middle, half = _median(of_held)
    if middle > 0.0:  # else most rows occur again, and a copy is no sign of anything
        value, spread = _median(of_samples)
        ratio = value / middle
        half = math.hypot(spread, ratio * half) / middle  # the two medians err independently
        about = f"median distance to the nearest of {len(train)} training rows, over that of {len(held_out)} unseen "
        about += "rows; interval over both"
        low, high = max(0.0, ratio - half), ratio + half
        result["closest_record_ratio"] = Metric(ratio, 1.0, low, high, "", "higher", n, about)
    same, usual = (float(privacy.identical(rows, train).mean()) for rows in (samples, held_out))
    about = "share of samples that are a training row, value by value; real data: share of unseen rows that are"
    result["identical_rows"] = share_metric(same, n, usual, "lower", about)
    member = np.arange(len(train) + len(held_out)) < len(train)
    about = f"area under the ROC curve of telling {len(train)} training from {len(held_out)} unseen rows by how near a "
    about += "sample is; 0.5 = it cannot be told; interval over rows"
    result["membership_auc"] = _area_metric(member, -np.concatenate([of_train, of_new]), 0.5, about)
    return result


def _median(distances: Rows) -> tuple[float, float]:
    """The median of (n,), and half its interval."""
    half = bootstrap_half(len(distances), lambda rows: float(np.median(distances[rows.numpy()])))
    return float(np.median(distances)), half
