"""Does the model copy? Distances, in pixels, from samples to their nearest training images.

What is "near" is said by real images that the model never saw: they are as near to the training set as an honest new
image is. After the nearest-neighbour tests of Meehan, Chaudhuri and Dasgupta, 2020, "A non-parametric test to detect
data-copying in generative models", arXiv:2004.05675, reduced to two numbers:

    d1(x)     = min over training images y of |x - y| / sqrt(D): root mean square per pixel, in units of [-1, 1]
    ratio     = median of d1 over the samples / median of d1 over held-out images
    fraction  = fraction of samples with d1 below the 1st percentile of d1 over held-out images

Samples of the real distribution have ratio 1 and fraction 0.01. Copies have ratio 0 and fraction 1. Read the ratio
with care: smooth images are nearer to everything, so blur lowers it too, and noise raises it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gensys.evaluate.checks import check_images

__all__ = ["QUANTILE", "HeldOutIsKnown", "Memorisation", "memorisation", "nearest", "nearest_distances"]

QUANTILE = 0.01
"""Samples nearer to a training image than this share of held-out images are counted; the expected fraction."""

_LEAST_HELD = 100  # below this many, the 1st percentile is the minimum, or extrapolated
_BLOCK = 1 << 24  # products held at a time: 64 MiB of float32
_CANDIDATES = 4  # near-ties of the fast search that are measured exactly


class HeldOutIsKnown(ValueError):
    """Of the held-out images one in a hundred, or more, are training images: a copy is then no sign of anything."""


@dataclass(frozen=True)
class Memorisation:
    """See the module. threshold: the 1st percentile of the held-out d1. distances: (n,) float64, d1 of the samples.

    held_median: median d1 of the held-out images.
    """

    ratio: float
    fraction: float
    threshold: float
    held_median: float
    distances: Tensor


def nearest(images: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """d1 of each of (n, C, H, W) images to the (m, C, H, W) training images, and which it is to: (n,) float64, exact
    for exact copies, and (n,) int64.

    A float32 matrix product finds the few nearest; their distances are then taken by differences in float64, because
    |x|^2 + |y|^2 - 2xy is off by 1e-3 where it matters most, near 0.
    """
    check_images("train", train, tuple(images.shape[1:]))
    check_images("images", images, scaled=False)
    rows, targets = images.flatten(1).float(), train.flatten(1).float().to(images.device)
    centre = targets.mean(0)  # does not move any distance, but makes norms, and so the product's rounding, smaller
    centred = targets - centre
    norms = centred.square().sum(1)
    candidates = min(_CANDIDATES, targets.shape[0])
    distances, rows_of = [], []
    for part in rows.split(max(1, _BLOCK // max(targets.shape))):
        # |x|^2 is the same for all y, so it does not enter the search.
        found = torch.addmm(norms, part - centre, centred.T, alpha=-2.0).topk(candidates, dim=1, largest=False).indices
        squares = torch.stack([(part.double() - targets[c].double()).square().mean(1) for c in found.T])
        least, which = squares.min(0)
        distances.append(least.sqrt())
        rows_of.append(found.gather(1, which[:, None])[:, 0])
    return torch.cat(distances), torch.cat(rows_of)


def nearest_distances(images: Tensor, train: Tensor) -> Tensor:
    """The d1 of `nearest` alone."""
    return nearest(images, train)[0]


def memorisation(samples: Tensor, train: Tensor, held_out: Tensor) -> Memorisation:
    """Are (n, C, H, W) samples nearer to `train` than the real images `held_out`, none of which is in `train`?

    At least 100 held-out images, or their 1st percentile means nothing. ValueError otherwise, for images of other
    shapes or NaN; HeldOutIsKnown for held-out images that are training images.
    """
    check_images("held_out", held_out, tuple(train.shape[1:]), least=_LEAST_HELD)
    check_images("samples", samples, tuple(train.shape[1:]), scaled=False)
    held = nearest_distances(held_out, train)
    threshold, median = float(held.quantile(QUANTILE)), float(held.quantile(0.5))
    if threshold == 0.0:
        copies = int((held == 0).sum())
        raise HeldOutIsKnown(f"'held_out' must not be in 'train', got {copies} of {len(held)} that are; split the data")
    distances = nearest_distances(samples, train)
    return Memorisation(
        ratio=float(distances.quantile(0.5)) / median,
        fraction=float((distances < threshold).double().mean()),
        threshold=threshold,
        held_median=median,
        distances=distances,
    )
