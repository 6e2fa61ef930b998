"""Precision, recall, density and coverage: fidelity and diversity, told apart by nearest neighbours.

B(y) is the ball around y whose radius is the distance to y's k-th nearest neighbour in its own set:

    precision  fraction of samples that lie in the ball of some real image           Kynkaanniemi et al., 2019,
    recall     fraction of real images that lie in the ball of some sample           arXiv:1904.06991
    density    number of real balls that a sample lies in, over k, on average        Naeem et al., 2020,
    coverage   fraction of real images whose ball has a sample in it                 arXiv:2002.09797

A point on the sphere is outside (<, as in the authors' package `prdc`, whose numbers these are); so an image that is
repeated more than k times in its set has an empty ball.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gensys.evaluate.checks import check_features

__all__ = ["PRDC", "neighbour_radii", "prdc"]

_BLOCK = 1 << 20  # distances held at a time: 8 MiB of float64, whatever the number of images


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
    """Euclidean distances (n, m) of float64 rows, by differences: |a|^2 + |b|^2 - 2ab would put equal rows 1e-7 apart,
    on the wrong side of a comparison with a radius of zero."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _rows_at_once(columns: int) -> int:
    return max(1, _BLOCK // columns)


def neighbour_radii(features: Tensor, k: int = 5) -> Tensor:
    """Distance of each of (n, d) rows to its k-th nearest other row, (n,) float64; n > k."""
    if k < 1:
        raise ValueError(f"'k' must be at least 1, got {k}")
    check_features("features", features, k + 1, f"to have {k} neighbours each")
    rows = features.double()
    # The row itself is at distance 0 and the nearest of all, hence k + 1.
    parts = rows.split(_rows_at_once(rows.shape[0]))
    return torch.cat([_distances(part, rows).kthvalue(k + 1, dim=1).values for part in parts])


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
    balls = torch.zeros(fake.shape[0], dtype=torch.int64, device=fake.device)
    recalled, covered = [], []
    step = _rows_at_once(fake.shape[0])
    for part, radii in zip(real.split(step), real_radii.split(step), strict=True):
        distances = _distances(part, fake)  # (real rows of this part, all samples)
        balls += (distances < radii[:, None]).sum(0)  # counted in integers: no order of summation
        recalled.append((distances < fake_radii).any(1))
        covered.append(distances.amin(1) < radii)
    density = balls.double() / k
    return PRDC(
        precision=float((balls > 0).double().mean()),
        recall=float(torch.cat(recalled).double().mean()),
        density=float(density.mean()),
        coverage=float(torch.cat(covered).double().mean()),
        balls=density,
    )
