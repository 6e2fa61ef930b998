"""EDM's stochastic sampler: add some noise, then take a Heun step that removes more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from gensys.paths import Path, at_ratio
from gensys.solvers.heun import heun
from gensys.solvers.solver import Draw, Predict, Solver, check_times

__all__ = ["churn", "on_part"]

AMOUNT = 40.0  # S_churn


def churn(
    predict: Predict,
    path: Path,
    x: Any,
    times: Sequence[float],
    draw: Draw,
    amount: float = AMOUNT,
    low: float = 0.05,
    high: float = 50.0,
    inflation: float = 1.003,
) -> Any:
    """`heun`, but where r = sigma / alpha lies in [low, high], first up to (1 + gamma) r by fresh noise.

    gamma = min(amount / steps, sqrt(2) - 1).

    amount: S_churn; 0 is `heun`. low, high: S_tmin and S_tmax. inflation: S_noise, the standard deviation of what is
    added. The defaults are those of the paper for ImageNet-64. No level is beyond the path's end.

    Karras et al., 2022, "Elucidating the design space of diffusion-based generative models", arXiv:2206.00364,
    algorithm 2, here on any path.
    """
    check_times(times)
    gamma = min(amount / (len(times) - 1), math.sqrt(2.0) - 1.0)
    for k, (t, s) in enumerate(pairwise(times)):
        now = path(t)
        if gamma > 0 and low * now.alpha <= now.sigma <= high * now.alpha:
            t = max(t, at_ratio(path, (1.0 + gamma) * now.sigma / now.alpha))  # within rounding, at the path's end
            up = path(t)
            grown = up.sigma**2 - (up.alpha / now.alpha * now.sigma) ** 2
            x = (up.alpha / now.alpha) * x + (math.sqrt(max(0.0, grown)) * inflation) * draw(k)
        x = heun(predict, path, x, [t, s], draw)
    return x


def on_part(solver: Solver, share: float) -> Solver:
    """The solver for a part of its grid, `share` of the steps: `churn` divides its amount among those that it is given,
    so that each step adds what it adds on the whole grid. All others take each step by itself already."""
    inner, options = (solver.func, solver.keywords) if isinstance(solver, partial) else (solver, {})
    if inner is not churn:
        return solver
    return partial(churn, **options | {"amount": share * options.get("amount", AMOUNT)})
