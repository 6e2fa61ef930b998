"""Authenticity: the share of samples that are no noisy copies of a training row.

For a sample x, let y be the nearest training row. x is authentic if some other training row is nearer to y than x is:

    min over training rows z != y of |y - z|  <  |x - y|

so a copy is never authentic, and no scale has to be chosen: the training rows around y set it.

Alaa, van Breugel, Saveliev and van der Schaar, 2022, "How faithful is your synthetic data?", arXiv:2102.08921,
in whatever features are given.

Real rows are not all authentic either: of a uniform density 1/3 are in one dimension, 0.378 in two, 1/2 in many (one
less the share of rows whose nearest neighbour has them as its own: Clark and Evans, 1955, "On some aspects of spatial
pattern in biological populations", Science 121), and more where a few rows are everybody's nearest. So read it beside
the share of real rows that the model never saw.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gensys.evaluate.checks import check_features
from gensys.evaluate.prdc import nearest

__all__ = ["Authenticity", "authenticity"]


@dataclass(frozen=True)
class Authenticity:
    """share: in [0, 1]. authentic: (n,) bool. nearest: (n,) int64, each sample's nearest training row."""

    share: float
    authentic: Tensor
    nearest: Tensor


def authenticity(samples: Tensor, train: Tensor) -> Authenticity:
    """Of (n, d) sample features and (m, d) training features, m >= 2.

    A tie is not authentic. A training row that is there twice makes every sample nearest to it authentic, unless that
    is a copy. Time O(n m d), memory O(n + m).
    ValueError for too few rows, non-finite features or widths that differ.
    """
    check_features("samples", samples, 1, "to be scored")
    check_features("train", train, 2, "for a neighbour", samples.shape[1])
    fake, real = samples.double(), train.double()
    distance, found = nearest(fake, real)
    rows, which = found[:, 0].unique(return_inverse=True)
    # The row itself is at distance 0; where it is there twice, so is its neighbour.
    neighbours = nearest(real[rows], real, 2)[0][:, 1]
    authentic = neighbours[which] < distance[:, 0]
    return Authenticity(float(authentic.double().mean()), authentic, found[:, 0])
