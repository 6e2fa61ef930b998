"""How far samples are from real data as distributions, in the features of an extractor: one call for four families of
scores.

    fd                  Frechet distance (frechet.py)
    kid                 kernel distance, unbiased (kid.py)
    prdc                precision, recall, density, coverage (prdc.py)
    inception_score     of the extractor's classes, if it has any (inception_score.py)

What is compared are rows of features, so that the features of many samples may be taken anywhere, by any number of
workers, and once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from gensys.evaluate.checks import one_thread
from gensys.evaluate.extractors import Extractor
from gensys.evaluate.frechet import Moments, frechet
from gensys.evaluate.inception_score import inception_score
from gensys.evaluate.kid import kernel_distance
from gensys.evaluate.metric import Metric, Z, bootstrap_half, mean_metric, share_metric, with_floor
from gensys.evaluate.prdc import prdc

__all__ = ["DISTRIBUTION", "NEIGHBOURS", "Seen", "distance", "evaluate_features", "see", "whole_sets"]

DISTRIBUTION = ("fd", "kid", "prdc", "inception_score")
"""The names of the families."""

NEIGHBOURS = 5
_SPLITS = 10
_SUBSET = 1000


@dataclass(frozen=True)
class Seen:
    """Images as an extractor sees them. features: (n, d) float64. logits: (n, classes) float64, or None."""

    features: Tensor
    logits: Tensor | None


def see(extractor: Extractor, images: Tensor) -> Seen:
    """The features of (n, C, H, W) images in [-1, 1], and their logits if there are any."""
    logits = None if extractor.classify is None else extractor.logits(images)
    return Seen(extractor.features(images), logits)


def distance(
    extractor: Extractor, fake: Moments, half: float | None, real: Moments, others: Sequence[Moments]
) -> dict[str, Metric]:
    """The Frechet distance, +- half; others: the moments of sets of as many real images, for the floor."""
    value, n = frechet(fake, real), fake.n
    low, high = (None, None) if half is None else (max(0.0, value - half), value + half)
    about = f"squared Frechet distance of {extractor.name} features, {n} samples against {real.n} real images"
    about += "" if extractor.fid else "; not an FID"
    found = Metric(value, None, low, high, "", "lower", n, about)
    return {f"{extractor.distance}_{n}": with_floor(found, [frechet(other, real) for other in others])}


def whole_sets(rows: Tensor, n: int) -> list[Tensor]:
    """As many sets of n rows as there are, in order; what is left over is left out."""
    return [rows[k * n : (k + 1) * n] for k in range(rows.shape[0] // n)]


def evaluate_features(
    extractor: Extractor, fake: Seen, real: Seen, other: Seen | None, only: Collection[str] = DISTRIBUTION
) -> dict[str, Metric]:
    """Score samples `fake` (n rows) against `real` (m rows), with every n of `other` real rows for the floors.

    n and m at least 6, as many as have 5 neighbours. only: which families.

    Returns fd_NAME_{n} (fid_{n} for the published network), kd_NAME_{n} (kid_{n}), precision, recall, density,
    coverage, and score_NAME (inception_score) where there are logits and no fewer than 10 rows; NAME: the extractor's.
    """
    n = fake.features.shape[0]
    others = [] if other is None else whole_sets(other.features, n)
    with one_thread():  # sums over rows must not be split by the number of cores
        result: dict[str, Metric] = {}
        if "fd" in only:
            result |= _frechet(extractor, fake.features, real.features, others)
        if "kid" in only:
            result |= _kernel(extractor, fake.features, real.features, others)
        if "prdc" in only:
            result |= _neighbours(fake.features, real.features, others)
        if "inception_score" in only and fake.logits is not None and n >= _SPLITS:
            classes = [] if other is None or other.logits is None else whole_sets(other.logits, n)
            result |= _score(extractor, fake.logits, classes)
        return result


def _frechet(extractor: Extractor, fake: Tensor, real: Tensor, others: Sequence[Tensor]) -> dict[str, Metric]:
    against = Moments.of(real)
    half = bootstrap_half(fake.shape[0], lambda rows: frechet(Moments.of(fake[rows]), against))
    return distance(extractor, Moments.of(fake), half, against, [Moments.of(other) for other in others])


def _kernel(extractor: Extractor, fake: Tensor, real: Tensor, others: Sequence[Tensor]) -> dict[str, Metric]:
    """Over subsets of half of the rows, or of 1,000: of s among n rows without replacement an estimate varies by
    (n - s) / s as much as that of all n does, which gives the interval. It holds for other real images too."""
    n, most = fake.shape[0], min(fake.shape[0], real.shape[0])
    size = max(2, min(_SUBSET, most // 2))
    found = kernel_distance(fake, real, size=size)
    assert found.spread is not None  # a subset has half of the rows, so there are many
    half = Z * found.spread / math.sqrt((most - size) / size)
    name = "kid" if extractor.fid else f"kd_{extractor.key}"
    about = f"unbiased kernel distance (MMD^2) of {extractor.name} features over {found.subsets} subsets of {size}"
    about += "" if extractor.fid else "; not a KID"
    metric = Metric(found.mean, None, found.mean - half, found.mean + half, "", "lower", n, about)
    return {f"{name}_{n}": with_floor(metric, [kernel_distance(other, real, size=size).mean for other in others])}


def _neighbours(fake: Tensor, real: Tensor, others: Sequence[Tensor]) -> dict[str, Metric]:
    n, m, k = fake.shape[0], real.shape[0], NEIGHBOURS
    scores, floors = prdc(fake, real, k), [prdc(other, real, k) for other in others]
    precision = share_metric(scores.precision, n, None, "higher", f"share of samples in a real image's {k}-NN ball")
    about = f"share of real images in a sample's {k}-NN ball; interval over real images"
    recall = share_metric(scores.recall, m, None, "higher", about)
    about = f"real {k}-NN balls that a sample is in, over {k}, on average"
    density = mean_metric(scores.balls, None, "", "higher", about)
    about = f"share of real images with a sample in their {k}-NN ball; interval over real images"
    coverage = share_metric(scores.coverage, m, None, "higher", about)
    return {
        "precision": with_floor(precision, [floor.precision for floor in floors]),
        "recall": with_floor(recall, [floor.recall for floor in floors]),
        "density": with_floor(density, [floor.density for floor in floors]),
        "coverage": with_floor(coverage, [floor.coverage for floor in floors]),
    }


def _score(extractor: Extractor, fake: Tensor, others: Sequence[Tensor]) -> dict[str, Metric]:
    found = inception_score(fake, splits=_SPLITS)
    assert found.spread is not None
    half = Z * found.spread / math.sqrt(_SPLITS - 1)  # the spread has the divisor 10, an error of the mean wants 9
    name = "inception_score" if extractor.fid else f"score_{extractor.key}"
    about = f"exp of how much the classes that {extractor.name} sees tell of an image, over {_SPLITS} splits, 1 to "
    about += f"{fake.shape[1]}" + ("" if extractor.fid else "; not an Inception Score")
    low, high = max(1.0, found.mean - half), min(float(fake.shape[1]), found.mean + half)
    metric = Metric(found.mean, None, low, high, "", "higher", fake.shape[0], about)
    return {name: with_floor(metric, [inception_score(other, splits=_SPLITS).mean for other in others])}
