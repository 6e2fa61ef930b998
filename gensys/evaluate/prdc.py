"""Precision, recall, density and coverage: fidelity and diversity, told apart by nearest neighbours.

B(y) is the ball around y whose radius is the distance to y's k-th nearest neighbour in its own set:

    precision  fraction of samples that lie in the ball of some real image           Kynkaanniemi et al., 2019,
    recall     fraction of real images that lie in the ball of some sample           arXiv:1904.06991
    density    number of real balls that a sample lies in, over k, on average        Naeem et al., 2020,
    coverage   fraction of real images whose ball has a sample in it                 arXiv:2002.09797

A point on the sphere is outside (<, as in the authors' package `prdc`, whose numbers these are); so an image that is
repeated more than k times in its set has an empty ball.

Distances by differences, |a - b|, are exact where it matters, but take twenty times as long as the product
|a|^2 + |b|^2 - 2ab, which puts equal rows 1e-7 apart, on the wrong side of a radius of zero. So the product searches,
with a bound on its rounding, and whatever that bound leaves open is measured by differences: the answer is theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gensys.evaluate.checks import check_features

__all__ = ["PRDC", "nearest", "neighbour_radii", "prdc"]

_BLOCK = 1 << 22  # distances held at a time: 16 MiB of float32, whatever the number of images
_SPARE = 4  # more candidates than neighbours, so that ties among the nearest are seldom left open
_PAIRS = 1 << 14  # pairs that are measured by differences at a time: 32 MiB at 256 features


@dataclass(frozen=True)
class PRDC:
    """precision, recall, coverage in [0, 1]; density >= 0, near 1 for samples of the real distribution.

    balls: (n,) float64, the number of real balls that each sample is in, over k: its mean is `density`.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    balls: Tensor


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (..., n, m) of float64 rows, by differences; the bits of a pair depend on that pair alone."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _pair_distances(a: Tensor, i: Tensor, b: Tensor, j: Tensor) -> Tensor:
    """Distances by differences of the pairs a[i], b[j] of float64 rows: (p,) for (p,) indices."""
    parts = zip(i.split(_PAIRS), j.split(_PAIRS), strict=True)
    found = [_distances(a[s][:, None], b[t][:, None])[:, 0, 0] for s, t in parts]
    return torch.cat(found) if found else a.new_empty(0)


def _squares(a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor, float, float]]:
    """Squared distances of float64 rows a (n, d) to all of b (m, d), by a product, for some rows of `a` at a time.

    Yields (first row, squares (p, m) in units of unit^2, bound on their error in the same, unit); the next block
    overwrites the squares.

    The bound: with |a| + |b| <= 1 and u = eps / 2, a product of d terms is off by at most d u |a||b|, so norms and
    products together by (d + 2) u, and rounding the rows by 4 u. eps for u, and 16, leave room for rounding of radii.
    """
    # float32 is twice as fast; where products may be rounded to fewer digits than that, its bound would not hold
    search = torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64
    centre = b.mean(0)  # moves no distance, but makes norms, and with them the bound, smaller
    a, b = a - centre, b - centre
    unit = float(a.norm(dim=1).amax() + b.norm(dim=1).amax()) or 1.0  # the largest norms: no square overflows
    a, b = (a / unit).to(search), (b / unit).to(search)
    a_norms, b_norms = a.square().sum(1), b.square().sum(1)
    bound = (a.shape[1] + 16) * torch.finfo(search).eps
    step = max(1, _BLOCK // b.shape[0])
    space = a.new_empty(min(step, a.shape[0]), b.shape[0])  # fresh memory for each block would take longer than sums
    for first in range(0, a.shape[0], step):
        part = a[first : first + step]
        squares = torch.addmm(b_norms, part, b.T, alpha=-2.0, out=space[: part.shape[0]])
        yield first, squares.add_(a_norms[first : first + step, None]), bound, unit


def nearest(a: Tensor, b: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k nearest of float64 rows b (m, d), k <= m, to each of a (n, d): distances, ascending, and indices, (n, k).

    Of equal distances any may come first.
    """
    candidates = min(k + _SPARE, b.shape[0])
    distances, rows = [], []
    for first, squares, bound, unit in _squares(a, b):
        part = a[first : first + squares.shape[0]]
        near = squares.topk(candidates, dim=1, largest=False)  # sorted
        exact = _distances(part[:, None], b[near.indices])[:, 0]
        found, order = exact.topk(k, dim=1, largest=False)
        where = near.indices.gather(1, order)
        if candidates < b.shape[0]:  # is every row that is no candidate certainly further away?
            least = near.values[:, -1].double() - bound
            for row in (least <= (found[:, -1] / unit).square()).nonzero().flatten():
                found[row], where[row] = _distances(part[row, None], b)[0].topk(k, largest=False)
        distances.append(found)
        rows.append(where)
    return torch.cat(distances), torch.cat(rows)


def neighbour_radii(features: Tensor, k: int = 5) -> Tensor:
    """Distance of each of (n, d) rows to its k-th nearest other row, (n,) float64; n > k."""
    if k < 1:
        raise ValueError(f"'k' must be at least 1, got {k}")
    check_features("features", features, k + 1, f"to have {k} neighbours each")
    rows = features.double()
    return nearest(rows, rows, k + 1)[0][:, k].clone()  # the row itself is at distance 0 and the nearest of all


def _inside(squares: Tensor, bound: float, unit: float, radii: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column indices of the pairs a[i], b[j] that are nearer than radii, which is (p, 1) or (1, m).

    squares (p, m), bound, unit: see `_squares`.
    """
    limit = (radii / unit).square()
    i, j = (squares < (limit + bound).to(squares.dtype)).nonzero(as_tuple=True)
    inside = squares[i, j].double() < limit.expand_as(squares)[i, j] - bound
    unsure = (~inside).nonzero().flatten()
    i_unsure, j_unsure = i[unsure], j[unsure]
    radius = radii.expand_as(squares)[i_unsure, j_unsure]
    inside[unsure] = _pair_distances(a, i_unsure, b, j_unsure) < radius
    return i[inside], j[inside]


def prdc(samples: Tensor, reference: Tensor, k: int = 5) -> PRDC:
    """The four metrics of (n, d) sample features against (m, d) real features; n, m > k.

    Time O((n + m)^2 d), memory O(n + m). Recall's radii come from the samples, so it grows with n: compare at one n.
    ValueError for too few rows, non-finite features or widths that differ.
    """
    if k < 1:
        raise ValueError(f"'k' must be at least 1, got {k}")
    why = f"for balls of {k} neighbours"
    check_features("samples", samples, k + 1, why)
    check_features("reference", reference, k + 1, why, samples.shape[1])
    fake, real = samples.double(), reference.double()
    fake_radii, real_radii = neighbour_radii(fake, k), neighbour_radii(real, k)
    n, m = fake.shape[0], real.shape[0]
    balls = torch.zeros(n, dtype=torch.int64, device=fake.device)  # counted in integers: no order of summation
    recalled = torch.zeros(m, dtype=torch.bool, device=fake.device)
    covered = torch.zeros_like(recalled)
    for first, squares, bound, unit in _squares(real, fake):
        part = slice(first, first + squares.shape[0])
        i, j = _inside(squares, bound, unit, real_radii[part, None], real[part], fake)
        balls += torch.bincount(j, minlength=n)
        covered[first + i] = True
        i, _ = _inside(squares, bound, unit, fake_radii[None], real[part], fake)
        recalled[first + i] = True
    density = balls.double() / k
    return PRDC(
        precision=float((balls > 0).double().mean()),
        recall=float(recalled.double().mean()),
        density=float(density.mean()),
        coverage=float(covered.double().mean()),
        balls=density,
    )
