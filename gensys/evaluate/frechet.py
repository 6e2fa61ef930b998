"""The Frechet distance between the Gaussians of two sets of features.

    d^2 = |m1 - m2|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)        means m1, m2; covariances A, B

Dowson and Landau, 1982, "The Frechet distance between multivariate normal distributions", J. Multivariate Analysis 12;
as a metric of generated images Heusel et al., 2017, arXiv:1706.08500. The name "FID" belongs to the features of one
Inception network; distances in any other features are named after those.

The estimate from n rows is biased upwards, by about a constant over n: compare only at the same n, and beside the
distance of real images from real images at that n.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gensys.evaluate.checks import check_features

__all__ = ["Moments", "frechet", "frechet_distance"]

_CHUNK = 4096  # rows that are converted to float64 at a time: memory stays flat


@dataclass(frozen=True)
class Moments:
    """Streaming moments in float64.

    n: rows seen. mean: (d,). scatter: (d, d), the sum of (x - mean)(x - mean)^T; covariance = scatter / (n - 1).
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Moments of (n, d) rows, n >= 1, in chunks of a fixed size and order: the same rows give the same bits."""
        check_features("features", features, 1, "to have moments")
        return cls.fold(cls._whole(part) for part in features.split(_CHUNK))

    @classmethod
    def _whole(cls, features: Tensor) -> Moments:
        rows = features.double()
        mean = rows.mean(0)
        rows = rows - mean  # centred first: E[x x^T] - m m^T would lose the digits that a large mean takes
        return cls(rows.shape[0], mean, rows.T @ rows)

    @classmethod
    def fold(cls, parts: Iterable[Moments]) -> Moments:
        """Merge neighbours along a binary tree, ((1 + 2) + (3 + 4)) + ...; the last may be alone.

        Addition of floats is not associative, so the tree is part of the answer: it depends on the order given, and
        so not on who made which part when. About as many are held as the tree is deep.
        """
        pending: list[tuple[int, Moments]] = []  # (height, moments) of the subtrees that wait for a right neighbour
        for part in parts:
            height = 0
            while pending and pending[-1][0] == height:
                part = pending.pop()[1].merge(part)
                height += 1
            pending.append((height, part))
        if not pending:
            raise ValueError("'parts' must hold at least one Moments, got none")
        total = pending.pop()[1]
        while pending:
            total = pending.pop()[1].merge(total)
        return total

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of rows (Chan, Golub and LeVeque, 1983, "Algorithms for computing the sample variance").

        scatter = S1 + S2 + (m2 - m1)(m2 - m1)^T n1 n2 / (n1 + n2)
        """
        if other.mean.shape != self.mean.shape:
            raise ValueError(f"'other' must have {self.mean.shape[0]} features, got {other.mean.shape[0]}")
        n = self.n + other.n
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.n / n)
        scatter = self.scatter + other.scatter + torch.outer(delta, delta) * (self.n * (other.n / n))
        return Moments(n, mean, scatter)

    def covariance(self) -> Tensor:
        """The unbiased covariance, (d, d); n >= 2."""
        if self.n < 2:
            raise ValueError(f"'n' must be at least 2 for a covariance, got {self.n}; pass more samples")
        return self.scatter / (self.n - 1)


def _root_factor(covariance: Tensor) -> Tensor:
    """F (d, r) with F F^T = covariance and r its numerical rank: eigenvectors times roots of their eigenvalues.

    Eigenvalues below d eps times the largest are rounding noise around zero (fewer rows than features make many). They
    go: their roots would be 1e-8, not 1e-16, of the largest root, and negative ones would be NaN.
    """
    values, vectors = torch.linalg.eigh((covariance + covariance.T) * 0.5)  # eigh reads one triangle: make both equal
    keep = values > values[-1].clamp_min(0.0) * (values.shape[0] * torch.finfo(values.dtype).eps)
    return vectors[:, keep] * values[keep].sqrt()


def frechet(a: Moments, b: Moments) -> float:
    """The (squared) Frechet distance d^2 >= 0 of two sets of moments, symmetric; each from at least 2 rows.

    With A = F F^T and B = G G^T, tr (A^1/2 B A^1/2)^1/2 is the sum of the singular values of F^T G: the roots of
    the eigenvalues of the symmetric product, without squaring and so without losing half of the digits.
    Any rank is fine. ValueError if the widths differ or a set has fewer than 2 rows.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"'b' must have {a.mean.shape[0]} features as 'a' has, got {b.mean.shape[0]}")
    first, second = a.covariance(), b.covariance()
    product = _root_factor(first).T @ _root_factor(second)
    # A set of equal rows has rank 0, and an empty product no singular values.
    overlap = torch.linalg.svdvals(product).sum() if product.numel() else product.new_zeros(())
    distance = (a.mean - b.mean).square().sum() + first.trace() + second.trace() - 2.0 * overlap
    return max(0.0, float(distance))  # exact arithmetic gives >= 0; rounding may give -1e-15


def frechet_distance(samples: Tensor, reference: Tensor) -> float:
    """`frechet` of (n, d) and (m, d) features; n and m at least 2. Covariances of fewer than d rows are singular and
    their distance is far above that of the distributions, though well defined."""
    check_features("samples", samples, 2, "for a covariance")
    check_features("reference", reference, 2, "for a covariance", samples.shape[1])
    return frechet(Moments.of(samples), Moments.of(reference))
