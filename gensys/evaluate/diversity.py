"""How different the images of one class are: a model that draws one image a class has none, whatever its distances say.

    diversity of a class = mean of compare(x_i, x_j) over pairs of its images,   i != j

with a similarity (MS-SSIM: lower is more diverse) or a distance (of features: higher is more diverse). A mean over the
classes gives each the same weight. Odena, Olah and Shlens, 2017, "Conditional image synthesis with auxiliary classifier
GANs", arXiv:1610.09585, compare the mean MS-SSIM of 100 pairs of samples a class with that of real images.
The figure says nothing alone: real classes differ as well, so `beside_real` takes both under one protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gensys.evaluate.ssim import ms_ssim
from gensys.noise import Noise, Stream

__all__ = ["Compare", "Diversity", "beside_real", "diversity", "feature_distance", "similarity"]

Compare = Callable[[Tensor, Tensor], Tensor]
"""(p, ...) and (p, ...) rows of pairs -> (p,)."""

_SEED = 0x64_69_76  # of the pairs: fixed, so that equal images have equal figures
_PAIRS = 64  # compared at a time: images of pairs are copies


@dataclass(frozen=True)
class Diversity:
    """mean: over the classes. classes: those with two rows or more. per_class: (classes,) float64, in their order.
    pairs: how many were compared, in all."""

    mean: float
    classes: tuple[int, ...]
    per_class: Tensor
    pairs: int


def similarity(scales: int, *, low: float = -1.0, high: float = 1.0) -> Compare:
    """Compare images (n, C, H, W) by MS-SSIM of so many scales, see `ms_ssim`."""
    return lambda a, b: ms_ssim(a, b, low=low, high=high, scales=scales).values


def feature_distance(a: Tensor, b: Tensor) -> Tensor:
    """Compare features (n, d) by their Euclidean distance."""
    return torch.linalg.vector_norm(a.double() - b.double(), dim=1)


def _pairs(m: int, most: int, seed: int, label: int) -> tuple[Tensor, Tensor]:
    """All pairs i < j of m rows if there are no more than `most`, else `most` drawn pairs i != j, with replacement."""
    if m * (m - 1) // 2 <= most:
        i, j = torch.triu_indices(m, m, 1)
        return i, j
    # (seed, class, number of the pair) decides, so a class has the same pairs whatever other classes there are
    draws = Noise(seed, torch.arange(most), label).uniform((2,), Stream.PRIOR).double()
    i, j = (draws[:, 0] * m).long(), (draws[:, 1] * (m - 1)).long()
    return i, j + (j >= i)  # every row but i


def diversity(
    rows: Tensor, labels: Tensor | None, compare: Compare, *, pairs: int = 100, seed: int = _SEED
) -> Diversity:
    """Of rows (n, ...), images or features, within the classes that labels (n,) int64, 0 or more, make.

    labels: None = one class of all rows. pairs: of a class, at most. A class of one row has no pair, and is left out.
    ValueError for labels that do not fit, pairs < 1, or no class with two rows.
    """
    if pairs < 1:
        raise ValueError(f"'pairs' must be at least 1, got {pairs}")
    n = rows.shape[0]
    if labels is None:
        labels = torch.zeros(n, dtype=torch.int64)
    if labels.shape != (n,) or labels.dtype != torch.int64 or (n and int(labels.min()) < 0):
        raise ValueError(f"'labels' must be ({n},) int64, 0 or more, got {tuple(labels.shape)} of {labels.dtype}")
    classes, means, compared = [], [], 0
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().flatten().to(rows.device)
        if own.shape[0] < 2:
            continue
        i, j = (own[k.to(own.device)] for k in _pairs(own.shape[0], pairs, seed, label))
        values = torch.cat(
            [compare(rows[a], rows[b]).double() for a, b in zip(i.split(_PAIRS), j.split(_PAIRS), strict=True)]
        )
        classes.append(label)
        means.append(float(values.mean()))
        compared += values.shape[0]
    if not classes:
        raise ValueError(f"'rows' must have two of one class, to be compared, got {n} rows and none; draw more samples")
    per_class = torch.tensor(means, dtype=torch.float64)
    return Diversity(float(per_class.mean()), tuple(classes), per_class, compared)


def beside_real(
    samples: Tensor,
    labels: Tensor | None,
    real: Tensor,
    real_labels: Tensor | None,
    compare: Compare,
    *,
    pairs: int = 100,
    seed: int = _SEED,
) -> tuple[Diversity, Diversity]:
    """`diversity` of samples and of real rows, over the classes that both have.

    labels and real_labels are both given or both None. ValueError otherwise, or if there is no such class.
    """
    if (labels is None) != (real_labels is None):
        raise ValueError("'labels' and 'real_labels' must both be given or both be None: classes are compared")
    found = diversity(samples, labels, compare, pairs=pairs, seed=seed)
    wanted = diversity(real, real_labels, compare, pairs=pairs, seed=seed)
    shared = set(found.classes) & set(wanted.classes)
    if not shared:
        raise ValueError(f"'real_labels' must share a class with 'labels', got {wanted.classes} and {found.classes}")
    return _only(found, shared), _only(wanted, shared)


def _only(of: Diversity, classes: set[int]) -> Diversity:
    keep = [at for at, label in enumerate(of.classes) if label in classes]
    per_class = of.per_class[keep]
    return Diversity(float(per_class.mean()), tuple(of.classes[at] for at in keep), per_class, of.pairs)
