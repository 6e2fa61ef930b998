"""Dormand and Prince's Runge-Kutta pair of order 5(4), with a step size for every row.

A row's steps depend on that row alone, so its result is the same in any batch; rows that are done cost no more calls.
The seventh stage of an accepted step is the first of the next one: six evaluations a step, and one at the start, two
where the first step size is to be found.

Dormand and Prince, 1980, "A family of embedded Runge-Kutta formulae"; Hairer, Norsett and Wanner, 1993, "Solving
ordinary differential equations I", section II.4 (the first step, the norm) and table II.5.2 (coefficients).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gensys.paths import Path, expand
from gensys.solvers.euler import drift
from gensys.solvers.solver import Draw, Predict, check_times, tensors_only

__all__ = ["Solution", "by_rows", "dopri5", "integrate"]

_C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),  # the result: the last stage is evaluated there
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)  # order 5 minus order 4
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0  # the usual bounds on the change of a step


class Solution(NamedTuple):
    """x: (B, *S) at t1. evaluations, steps, rejected: (B,) int64, of every row: calls of f, steps accepted and not."""

    x: Tensor
    evaluations: Tensor
    steps: Tensor
    rejected: Tensor


def integrate(
    f: Callable[..., Tensor],
    x: Tensor,
    t0: float,
    t1: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    given: Sequence[Tensor] = (),
    first: float | None = None,
    limit: int = 10_000,
) -> Solution:
    """Solve dx/dt = f(x, t, *given) from t0 to t1, in either direction.

    x: (B, *S) floating point. f is called with b <= B rows that are still on their way, x: (b, *S), t: (b,) of x's
    dtype, and those rows of every tensor of `given`, (B, ...); it returns (b, *S), row by row.

    A step is accepted where the root mean square over a row of error / (atol + rtol |x|) is at most 1. first: the size
    of the first step, None = Hairer's estimate. limit: the most evaluations of a row.

    Gradients flow through the accepted steps, to x and whatever f uses; step sizes are constants.

    Raises: ArithmeticError where a row's step is lost in the rounding of t (f is not finite, too steep, or the
    tolerance is out of reach in this dtype), or where a row needs more than `limit` evaluations.
    """
    if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise ValueError(f"'rtol' and 'atol' must be 0 or more, one of them positive, got {rtol} and {atol}")
    if not x.is_floating_point():
        raise ValueError(f"'x' must be floating point, got {x.dtype}")
    rows = torch.arange(x.shape[0], device=x.device)
    evaluations, steps, rejected = (torch.zeros_like(rows) for _ in range(3))
    done: list[tuple[Tensor, Tensor]] = []  # rows that have arrived, and where
    if t0 == t1 or not len(rows):
        return Solution(x, evaluations, steps, rejected)

    sign = 1.0 if t1 > t0 else -1.0
    held = tuple(given)

    def slope(y: Tensor, at: Tensor) -> Tensor:
        evaluations[rows] += 1
        return f(y, at.to(y.dtype), *held)

    t = torch.full(rows.shape, float(t0), dtype=torch.float64, device=x.device)  # float32 would drift over many steps
    k1 = slope(x, t)
    h = _first_step(slope, x, t, k1, sign, rtol, atol) if first is None else torch.full_like(t, abs(first))
    while True:
        left = (t1 - t).abs()
        last = h >= left * (1.0 - 1e-10)  # no sliver of a step is left over
        h = torch.where(last, left, h)
        stuck = (t + sign * h == t) | ~h.isfinite()
        if stuck.any():
            raise _failure(f"the step size underflows, at {float(h[stuck][0]):.3g},", t, stuck, rows, rtol, atol)
        if (evaluations[rows] + len(_C) > limit).any():
            over = evaluations[rows] + len(_C) > limit
            raise _failure(f"more than 'limit' = {limit} evaluations are needed", t, over, rows, rtol, atol)

        step = expand((sign * h).to(x.dtype), x)
        stages, y = [k1], x
        for c, weights in zip(_C, _A, strict=True):
            y = x + step * _sum(weights, stages)
            stages.append(slope(y, torch.where(last, t1, t + sign * h) if c == 1.0 else t + sign * c * h))
        error = _norm(step * _sum(_ERROR, stages), x, y, rtol, atol)

        accepted = error <= 1.0  # false for a NaN
        factor = _SAFETY * error.clamp_min(1e-10) ** -0.2
        factor = torch.where(error.isfinite(), factor, 0.0).clamp(_SHRINK, _GROW)
        steps[rows] += accepted
        rejected[rows] += ~accepted
        t = torch.where(accepted, torch.where(last, t1, t + sign * h), t)
        h = h * torch.where(accepted, factor, factor.clamp_max(1.0))
        chosen = expand(accepted, x)
        x, k1 = torch.where(chosen, y, x), torch.where(chosen, stages[-1], k1)

        arrived = accepted & last
        if arrived.any():
            done.append((rows[arrived], x[arrived]))
            going = ~arrived
            rows, x, k1, t, h = rows[going], x[going], k1[going], t[going], h[going]
            held = tuple(tensor[going] for tensor in held)
            if not len(rows):
                break
    order = torch.cat([r for r, _ in done]).argsort()
    return Solution(torch.cat([y for _, y in done])[order], evaluations, steps, rejected)


def _sum(weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    first, *others = ((w, k) for w, k in zip(weights, stages, strict=True) if w)
    total = first[0] * first[1]
    for w, k in others:
        total = total + w * k
    return total


@torch.no_grad()
def _norm(error: Tensor, x: Tensor, y: Tensor, rtol: float, atol: float) -> Tensor:
    """The root mean square over each row of error / (atol + rtol max(|x|, |y|)), (B,) float64."""
    scale = atol + rtol * torch.maximum(x.abs(), y.abs())
    return (error / scale).double().flatten(1).square().mean(1).sqrt()


@torch.no_grad()
def _first_step(
    slope: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    k1: Tensor,
    sign: float,
    rtol: float,
    atol: float,
) -> Tensor:
    """Hairer, Norsett and Wanner's estimate from |x|, |x'| and |x''|, in the error's norm, for each row."""
    d0, d1 = _norm(x, x, x, rtol, atol), _norm(k1, x, x, rtol, atol)
    trial = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
    ahead = slope(x + expand((sign * trial).to(x.dtype), x) * k1, t + sign * trial)
    steepest = torch.maximum(d1, _norm(ahead - k1, x, x, rtol, atol) / trial)
    h = torch.where(steepest <= 1e-15, (1e-3 * trial).clamp_min(1e-6), (0.01 / steepest) ** 0.2)
    return torch.minimum(100.0 * trial, h)


def _failure(what: str, t: Tensor, where: Tensor, rows: Tensor, rtol: float, atol: float) -> ArithmeticError:
    return ArithmeticError(
        f"dopri5: {what} in {int(where.sum())} of {len(rows)} rows, the first of them row {int(rows[where][0])} at "
        f"t = {float(t[where][0]):g} (rtol {rtol:g}, atol {atol:g}): is the slope finite there? "
        "Loosen the tolerances, end the interval before the singular point, or compute in float64"
    )


def by_rows(
    predict: Predict,
    path: Path,
    x: Tensor,
    start: float,
    end: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    limit: int = 10_000,
) -> Solution:
    """`integrate` of the probability flow from one time to another. `predict` is called with all rows, each at its own
    t: a solver's predict knows the conditions of all rows."""

    def f(y: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        whole, at = x.index_copy(0, rows, y), t.new_full(x.shape[:1], start).index_copy(0, rows, t)
        return drift(predict, path, whole, expand(at, x))[rows]

    rows = torch.arange(x.shape[0], device=x.device)
    return integrate(f, x, start, end, rtol=rtol, atol=atol, given=(rows,), limit=limit)


def dopri5(
    predict: Predict,
    path: Path,
    x: Any,
    times: Sequence[float],
    draw: Draw,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    limit: int = 10_000,
) -> Any:
    """The probability-flow ODE by `integrate`, from the first time of the grid to the last.

    If sigma = 0 there, where the slope may be infinite, the last step of the grid is Euler's, as in `heun`, and what is
    before it is integrated: [1, 0.001, 0] is a good grid. `predict` is called with all rows, each at its own t.
    """
    check_times(times)
    start, *between, end = times
    if path(end).sigma == 0:
        if not between:
            raise ValueError(
                f"'steps' must be 2 or more: the last step of the grid is Euler's, and dopri5 integrates up to where "
                f"it begins, got the times {list(times)}: give two steps or more"
            )
        end = between[-1]
    tensors_only("dopri5", "chooses its steps by the state", x)  # last: a model is told of a bad grid as it is built

    x = by_rows(predict, path, x, start, end, rtol=rtol, atol=atol, limit=limit).x
    return x if end == times[-1] else x + (times[-1] - end) * drift(predict, path, x, end)
