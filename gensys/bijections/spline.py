"""The monotone rational-quadratic spline on [-bound, bound], the identity outside.

Between two knots (x_0, y_0) and (x_1, y_1) with slopes d_0 and d_1, w = x_1 - x_0, h = y_1 - y_0, s = h / w and
r = (x - x_0) / w, the quotient of two quadratics that takes values and slopes at both ends is

    y     = y_0 + h (s r^2 + d_0 r (1 - r)) / q                      q = s + (d_0 + d_1 - 2 s) r (1 - r)
    dy/dx = s^2 (d_1 r^2 + 2 s r (1 - r) + d_0 (1 - r)^2) / q^2

and r is a root of a r^2 + b r + c for a given y, with v = y - y_0 and e = d_0 + d_1 - 2 s:

    a = h (s - d_0) + v e        b = h d_0 - v e        c = -s v        r = 2 c / (-b - sqrt(b^2 - 4 a c))

Durkan, Bekasov, Murray and Papamakarios, 2019, "Neural spline flows", arXiv:1906.04032, section 3.1 and appendix A.1;
Gregory and Delbourgo, 1982, "Piecewise rational quadratic interpolation to monotonic data".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

__all__ = ["Spline"]

# the smallest share of an interval that a bin has, and the smallest slope: both keep the inverse well-conditioned
MIN_BIN, MIN_SLOPE = 1e-3, 1e-3


@dataclass(frozen=True)
class Spline:
    """A `Transform` with `bins` pieces; 3 bins - 1 parameters: widths, heights and slopes of the knots between them.

    The slopes at both ends are 1, those of the tails. Of all-zero parameters it is the identity.
    """

    bins: int = 8
    bound: float = 5.0

    def __post_init__(self) -> None:
        if not 1 <= self.bins < 1 / MIN_BIN or not self.bound > 0:
            raise ValueError(
                f"'bins' must lie in [1, {1 / MIN_BIN:.0f}) and 'bound' be positive, got {self.bins} and {self.bound}"
            )

    @property
    def count(self) -> int:
        return 3 * self.bins - 1

    def __call__(self, x: Tensor, parameters: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """x: (B, *S), parameters: (B, count, *S) -> (z, logdet (B,)) as every transform."""
        widths, heights, slopes = parameters.movedim(1, -1).split([self.bins, self.bins, self.bins - 1], -1)
        xs, ys = self._knots(widths), self._knots(heights)
        ds = pad(MIN_SLOPE + softplus(slopes + math.log(math.expm1(1.0 - MIN_SLOPE))), (1, 1), value=1.0)
        inside = x.abs() < self.bound
        at = torch.where(inside, x, 0.0)  # what is outside must not meet the formulae, not even with a gradient of 0
        place = (at[..., None] >= (ys if inverse else xs)[..., 1:-1]).sum(-1, keepdim=True)

        def both(knots: Tensor) -> tuple[Tensor, Tensor]:
            """The values at both ends of the piece."""
            return knots.gather(-1, place).squeeze(-1), knots.gather(-1, place + 1).squeeze(-1)

        (x0, x1), (y0, y1), (d0, d1) = both(xs), both(ys), both(ds)
        w, h = x1 - x0, y1 - y0
        s = h / w
        e = d0 + d1 - 2.0 * s
        if inverse:
            v = at - y0
            a, b, c = h * (s - d0) + v * e, h * d0 - v * e, -s * v
            # rounding may take a discriminant of 0 below it
            r = 2.0 * c / (-b - (b.square() - 4.0 * a * c).clamp(min=0.0).sqrt())
            z = x0 + w * r
        else:
            r = (at - x0) / w
            z = y0 + h * (s * r.square() + d0 * r * (1.0 - r)) / (s + e * r * (1.0 - r))
        q = s + e * r * (1.0 - r)
        log = 2.0 * (s.log() - q.log()) + (d1 * r.square() + 2.0 * s * r * (1.0 - r) + d0 * (1.0 - r).square()).log()
        log = torch.where(inside, -log if inverse else log, 0.0)
        return torch.where(inside, z, x), log.flatten(1).sum(1)

    def _knots(self, logits: Tensor) -> Tensor:
        """(..., bins) -> the ends of the pieces, (..., bins + 1), from exactly -bound to exactly bound."""
        shares = MIN_BIN + (1.0 - MIN_BIN * self.bins) * torch.softmax(logits, -1)
        inner = 2.0 * self.bound * shares.cumsum(-1)[..., :-1] - self.bound
        return pad(pad(inner, (1, 0), value=-self.bound), (0, 1), value=self.bound)
