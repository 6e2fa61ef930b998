"""The reverse-time SDE: Euler-Maruyama, and the predictor-corrector with Langevin steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gensys.paths import Coefs, Path, expand
from gensys.solvers.solver import Draw, Predict, check_times, tensors_only
from gensys.targets import Prediction

__all__ = ["euler_maruyama", "forward_sde", "predictor_corrector"]


def forward_sde(c: Coefs) -> tuple[float, float]:
    """f and g^2 of dx = f x dt + g dw, whose marginals are the path's.

    f = alpha' / alpha and g^2 = 2 sigma (sigma' - f sigma). Raises: ValueError at alpha = 0, where f is infinite.
    """
    if not c.alpha > 0:
        raise ValueError("the reverse SDE has no drift at alpha = 0: start the grid below the end of the path's span")
    f = c.d_alpha / c.alpha
    return f, 2.0 * c.sigma * (c.d_sigma - f * c.sigma)


def _step(p: Prediction, c: Coefs, x: Any, h: float) -> tuple[Any, float]:
    """The mean of x after a step of size h back, and its standard deviation."""
    f, g2 = forward_sde(c)
    return (1.0 - h * f) * x - (h * g2 / c.sigma) * p.eps, math.sqrt(h * g2)


def euler_maruyama(predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw) -> Any:
    """x_s = x_t - h (f x_t - g^2 score) + g sqrt(h) z, h = t - s, score = -eps / sigma. The step to sigma = 0 takes the
    mean.

    Weak order 1. Song et al., 2020, "Score-based generative modeling through stochastic differential equations",
    arXiv:2011.13456, equation 6 and appendix D.
    """
    check_times(times)
    for k, (t, s) in enumerate(pairwise(times)):
        x, std = _step(predict(x, t), path(t), x, t - s)
        if path(s).sigma > 0:
            x = x + std * draw(k)
    return x


def predictor_corrector(
    predict: Predict, path: Path, x: Any, times: Sequence[float], draw: Draw, snr: float = 0.16
) -> Any:
    """A Langevin step at every t, x + e score + sqrt(2 e) z, then a step of `euler_maruyama`: two calls a step.

    e = 2 (snr |z| / |score|)^2 with the norms of each row, so it is not linear and runs on tensors only, and a row
    depends on itself alone (Song et al. take the batch's mean norms). snr: 0.16 is theirs for VE and images.

    Song et al., 2020, arXiv:2011.13456, algorithms 1, 2 and 4, in the order of their code: the corrector first.
    """
    check_times(times)
    forward_sde(path(times[0]))  # where a table is asked for, so before any tensor: a path that has no drift is refused
    tensors_only("predictor_corrector", "divides by norms", x)
    for k, (t, s) in enumerate(pairwise(times)):
        c, z = path(t), draw(2 * k)
        score = predict(x, t).eps / -c.sigma
        size = 2.0 * (snr * z.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)).square()
        e = expand(size, x)
        x = x + e * score + (2.0 * e).sqrt() * z
        x, std = _step(predict(x, t), c, x, t - s)
        if path(s).sigma > 0:
            x = x + std * draw(2 * k + 1)
    return x
