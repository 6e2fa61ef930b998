"""What a network is trained to output: a(t) x + b(t) eps, one pair (a, b) per parametrisation.

    data      (1, 0)
    noise     (0, 1)
    velocity  (alpha', sigma')                       the derivative of x_t along its path
    v         (-sigma, alpha)
    score     (0, -1 / sigma)                        the gradient of log p(x_t | x)
    edm       ((1 - c_skip alpha) / c_out, -c_skip sigma / c_out)
    consistency, landing: the same with c_skip = 1 / alpha and c_out = 0 at the end of the path that is jumped to

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
from typing import Any, NamedTuple, Protocol, runtime_checkable

from gensys.paths import Coefs, Path, Scalar

__all__ = [
    "EDM",
    "Boundary",
    "Consistency",
    "Landing",
    "Prediction",
    "Target",
    "data",
    "noise",
    "recover",
    "require_well_posed",
    "score",
    "v",
    "velocity",
]

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
        return _preconditioned(c, c_skip, c_out)


def _preconditioned(c: Coefs, c_skip: Scalar, c_out: Scalar) -> tuple[Scalar, Scalar]:
    """The target whose `recover` is x = c_skip x_t + c_out output."""
    return (1.0 - c_skip * c.alpha) / c_out, -c_skip * c.sigma / c_out


@runtime_checkable
class Boundary(Protocol):
    """A target of consistency models, whose x is the end of the trajectory through x_t and not the mean of the data.

    f(x_t, t) = c_skip x_t + c_out output is x_start / alpha_start, and exactly what it is given where t is the start.
    """

    def __call__(self, c: Coefs) -> tuple[Scalar, Scalar]:
        """As a target; it has no inverse at the start itself, where no solver asks for it."""
        ...

    def weights(self, c: Coefs) -> tuple[Scalar, Scalar]:
        """(c_skip, c_out), which hold at the start too."""
        ...


@dataclass(frozen=True)
class Consistency:
    """EDM's target moved so that its noise level counts from that of `start` (the paper's epsilon), on any path.

    c_skip = s^2 alpha / (d^2 + s^2 alpha^2), c_out = s d / sqrt(s^2 alpha^2 + sigma^2), d = sigma - alpha level,
    s = sigma_data, level = sigma / alpha of the start. alpha = 1: Song, Dhariwal, Chen and Sutskever, 2023,
    "Consistency models", arXiv:2303.01469, equation 25.
    """

    start: Coefs
    sigma_data: float = 0.5

    def weights(self, c: Coefs) -> tuple[Scalar, Scalar]:
        away = c.sigma - c.alpha * (self.start.sigma / self.start.alpha)
        data = self.sigma_data * c.alpha
        skip = self.sigma_data**2 * c.alpha / (away * away + data * data)
        return skip, self.sigma_data * away / (data * data + c.sigma * c.sigma) ** 0.5

    def __call__(self, c: Coefs) -> tuple[Scalar, Scalar]:
        return _preconditioned(c, *self.weights(c))


@dataclass(frozen=True)
class Landing:
    """What a network of `target` says, carried along to `start` in one DDIM step: f = x + (sigma / alpha of start) eps.

    A network that was trained as a denoiser is a consistency model with it, if a poor one, so a student starts from its
    teacher's weights. The boundary holds by the algebra: alpha x + sigma eps = x_t for every target. From start = the
    data, f is x itself: x_t - t output for the velocity on the linear path, cos x_t - sin output for v on the cosine
    path, which is the parametrisation of Lu and Song, 2024, arXiv:2410.11081, section 3.1.
    """

    target: Target
    start: Coefs

    def weights(self, c: Coefs) -> tuple[Scalar, Scalar]:
        a, b = self.target(c)
        level, det = self.start.sigma / self.start.alpha, c.alpha * b - c.sigma * a
        return (b - level * a) / det, (level * c.alpha - c.sigma) / det

    def __call__(self, c: Coefs) -> tuple[Scalar, Scalar]:
        return _preconditioned(c, *self.weights(c))


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
