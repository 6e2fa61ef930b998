"""The reverse-time SDE: Euler-Maruyama, and the predictor-corrector with Langevin steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from gensys.paths import Coefs, Path, expand
from gensys.solvers.solver import Draw, Predict, check_times
from gensys.targets import Prediction

__all__ = ["euler_maruyama", "predictor_corrector"]


def _forward(c: Coefs) -> tuple[float, float]:
    """f and g^2 of dx = f x dt + g dw, whose marginals are the path's: f = alpha' / alpha, g^2 = 2 sigma (sigma' - f sigma)."""
    if c.alpha <= 0:
        raise ValueError("the reverse SDE has no drift at alpha = 0: start the grid below the end of the span")
    f = c.d_alpha / c.alpha
    return f, 2.0 * c.sigma * (c.d_sigma - f * c.sigma)


def _step(p: Prediction, path: Path, x: Any, t: float, s: float, z: Any) -> Any:
    c = path(t)
    f, g2 = _forward(c)
    x = x + ((s - t) * f) * x + ((s - t) * g2 / c.sigma) * p.eps
    return x if z is None else x + math.sqrt(g2 * (t - s)) * z


def euler_maruyama(predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw) -> Any:
    """x_s = x_t + (s - t) (f x_t - g^2 score) + g sqrt(t - s) z, score = -eps / sigma. No noise in the last step.

    Weak order 1. Song et al., 2020, "Score-based generative modeling through stochastic differential equations",
    arXiv:2011.13456, equation 6 and appendix D.
    """
    check_times(times)
    for k, (t, s) in enumerate(pairwise(times)):
        last = k == len(times) - 2
        x = _step(predict(x, t), path, x, t, s, None if last else draw(2 * k))
    return x


def predictor_corrector(
    predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw, snr: float = 0.16
) -> Any:
    """A Langevin step at every t, x + e score + sqrt(2 e) z, then a step of `euler_maruyama`.

    e = 2 (snr |z| / |score|)^2 with the norms of each row, so it is not linear: it runs on tensors only, and a row
    depends on itself alone (Song et al. take the batch's mean norms). snr: theirs for VE; 0.01 to 0.16 are usual.

    Song et al., 2020, arXiv:2011.13456, algorithms 1 to 5.
    """
    check_times(times)
    for k, (t, s) in enumerate(pairwise(times)):
        if not isinstance(x, Tensor):
            raise TypeError("predictor_corrector divides by norms: it is not linear and has no table")
        p, c, z = predict(x, t), path(t), draw(2 * k + 1)
        score = p.eps * (-1.0 / c.sigma)
        size = 2.0 * (snr * z.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)).square()
        e = expand(size, x)
        x = x + e * score + (2.0 * e).sqrt() * z
        last = k == len(times) - 2
        x = _step(predict(x, t), path, x, t, s, None if last else draw(2 * k))
    return x
