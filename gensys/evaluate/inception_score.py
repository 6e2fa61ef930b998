"""The inception score: are a classifier's answers sure for each image, and different between images?

    IS = exp( E_x KL( p(y | x) || p(y) ) ),    p(y) = E_x p(y | x)

Salimans, Goodfellow, Zaremba, Cheung, Radford and Chen, 2016, "Improved techniques for training GANs",
arXiv:1606.03498. Between 1 (no answer depends on the image) and the number of classes (all sure, all
classes equally often). It knows no real images: what each class looks like within, it cannot see, and copies of one
image a class have the highest score. Comparable only for one classifier and one number of images in a split.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gensys.evaluate.checks import check_features
from gensys.evaluate.kid import subset_rows

__all__ = ["InceptionScore", "inception_score"]

_SEED = 0x69_73  # of the order of the images: fixed, so that equal logits have equal scores


@dataclass(frozen=True)
class InceptionScore:
    """mean: over the splits, in [1, classes]. spread: their standard deviation, divided by `splits`; None of one.
    values: (splits,) float64."""

    mean: float
    spread: float | None
    splits: int
    values: Tensor


def inception_score(logits: Tensor, *, splits: int = 10, shuffle: bool = True, seed: int = _SEED) -> InceptionScore:
    """The score of (n, classes) logits, n >= splits, each of the `splits` parts with its own p(y).

    shuffle: take the rows in an order that is counter-based noise, as samples that are sorted by class would make
    every split a few classes only; False for rows that are in random order already.
    ValueError for fewer rows than splits, fewer than 2 classes, or logits that are not finite.
    """
    if splits < 1:
        raise ValueError(f"'splits' must be at least 1, got {splits}")
    check_features("logits", logits, splits, f"for {splits} splits")
    n, classes = logits.shape
    if classes < 2:
        raise ValueError(f"'logits' must have at least 2 columns, one a class, got {classes}")
    if shuffle:
        logits = logits[subset_rows(n, n, seed, 0, 0).to(logits.device)]
    log_p = logits.double().log_softmax(1)
    values = []
    for split in range(splits):
        part = log_p[split * n // splits : (split + 1) * n // splits]
        p = part.exp()
        # A class whose probability is 0 in float64 in every row has the logarithm -inf there, and the product is NaN:
        # its term is 0. xlogy(p, q) = p log q knows that.
        divergence = (p * part - torch.xlogy(p, p.mean(0))).sum(1)
        values.append(float(divergence.mean().exp()))
    found = torch.tensor(values, dtype=torch.float64)
    return InceptionScore(float(found.mean()), float(found.std(correction=0)) if splits > 1 else None, splits, found)
