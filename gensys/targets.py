"""What a network is trained to output: a(t) x + b(t) eps, one pair (a, b) per parametrisation.

    data      (1, 0)
    noise     (0, 1)
    velocity  (alpha', sigma')                       the derivative of x_t along its path
    v         (-sigma, alpha)
    score     (0, -1 / sigma)                        the gradient of log p(x_t | x)
    edm       ((1 - c_skip alpha) / c_out, -c_skip sigma / c_out)

Because x_t = alpha x + sigma eps is the other row, (x_t, output) determines (x, eps):

    [x_t]      [alpha  sigma] [ x ]              x   = (b x_t - sigma output) / det
    [out]  =   [  a      b  ] [eps]    hence     eps = (alpha output - a x_t) / det      det = alpha b - sigma a

`recover` is that inversion. It is the only conversion between parametrisations in gensys, and |det| tells where it
is ill conditioned: `require_well_posed` refuses a pair (path, target) that a solver's grid would divide by zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gensys.paths import Coefs, Path, Scalar

__all__ = ["EDM", "Prediction", "Target", "data", "noise", "recover", "require_well_posed", "score", "v", "velocity"]

Target = Callable[[Coefs], tuple[Scalar, Scalar]]


class Prediction(NamedTuple):
    """What every solver receives: the data and the noise that the model sees in x_t. Both (B, *S).

    mix: where a reverse step's log-variance lies between that of the posterior (0) and that of the step forward (1),
    (B, *S), of a network that learns it; None of all others.
    """

    x: Any
    eps: Any
    mix: Any = None


def data(c: Coefs) -> tuple[Scalar, Scalar]:
    """The clean x (also "x0" or "sample" prediction)."""
    return 1.0, 0.0


def noise(c: Coefs) -> tuple[Scalar, Scalar]:
    """eps. Ho, Jain and Abbeel, 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239."""
    return 0.0, 1.0


def velocity(c: Coefs) -> tuple[Scalar, Scalar]:
    """dx_t/dt. Lipman et al., 2022, "Flow matching for generative modeling", arXiv:2210.02747."""
    return c.d_alpha, c.d_sigma


def v(c: Coefs) -> tuple[Scalar, Scalar]:
    """alpha eps - sigma x. Salimans and Ho, 2022, "Progressive distillation", arXiv:2202.00512, appendix D."""
    return -c.sigma, c.alpha


def score(c: Coefs) -> tuple[Scalar, Scalar]:
    """-eps / sigma. Song et al., 2020, "Score-based generative modeling through SDEs", arXiv:2011.13456."""
    return 0.0, -1.0 / c.sigma


@dataclass(frozen=True)
class EDM:
    """The preconditioned target of Karras et al., 2022, arXiv:2206.00364, table 1, for a path of any alpha.

    With sigma_data the standard deviation of the data, c_skip and c_out are those of EDM at noise level sigma / alpha.
    """

    sigma_data: float = 0.5

    def __call__(self, c: Coefs) -> tuple[Scalar, Scalar]:
        total = (self.sigma_data * c.alpha) ** 2 + c.sigma**2
        c_skip = self.sigma_data**2 * c.alpha / total
        c_out = self.sigma_data * c.sigma / total**0.5
        return (1.0 - c_skip * c.alpha) / c_out, -c_skip * c.sigma / c_out


def recover(c: Coefs, target: Target, x_t: Any, output: Any, clip: Callable[[Any], Any] | None = None) -> Prediction:
    """(x_t, network output) -> (x, eps), by the inverse of the 2 x 2 system above.

    The entries of c are floats, or tensors that broadcast against x_t.

    clip: what is done to the estimate of x, if anything (clamping to the data's range, say). eps follows it, so that
    both still make up x_t: eps = (x_t - alpha clip(x)) / sigma.
    """
    a, b = target(c)
    det = c.alpha * b - c.sigma * a
    p = Prediction(x_t * (b / det) - output * (c.sigma / det), output * (c.alpha / det) - x_t * (a / det))
    return p if clip is None else recover(c, data, x_t, clip(p.x))


def require_well_posed(path: Path, target: Target, times: Sequence[float], limit: float = 1e4) -> None:
    """Refuse a target that cannot be inverted at the times where a solver calls the network.

    The weights of x_t and of the output in `recover` are the amplification of the network's error; `limit` bounds
    them, so a pair that is merely stiff passes and a singular one does not.

    Raises: ValueError that names the time, the amplification and what to use in its place.
    """
    for t in times:
        c = path(t)
        try:
            a, b = target(c)
            det = c.alpha * b - c.sigma * a
            worst = max(abs(w / det) for w in (a, b, c.alpha, c.sigma))
        except ZeroDivisionError:
            worst = math.inf
        if not worst <= limit:
            name = getattr(target, "__name__", repr(target))
            raise ValueError(
                f"'target' {name} cannot be inverted on {path} at t = {t:g}: an error of the network grows {worst:.3g} "
                f"times (limit {limit:g}). Use targets.velocity or targets.v, which hold on the whole span, or a grid "
                f"that avoids this end."
            )
