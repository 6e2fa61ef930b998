"""Paths from data to noise: x_t = alpha(t) x + sigma(t) eps, with eps ~ N(0, I).

One time convention holds in all of gensys: t grows from data to noise. `span` gives the two ends of a path's clock.

A path is a function of t that returns `Coefs`. It takes a Python float (a solver's grid, in double precision) or a
tensor (a training batch) and answers in kind.

    Linear       alpha = 1 - t             sigma = t                        flow matching, rectified flow
    Cosine       alpha = cos(pi t / 2)     sigma = sin(pi t / 2)            GVP, TrigFlow, DDPM's cosine in the limit
    VP           alpha = exp(-B(t) / 2)    sigma^2 = 1 - alpha^2            score SDE, DDPM in the limit
    SubVP        alpha = exp(-B(t) / 2)    sigma = 1 - alpha^2
    VE           alpha = 1                 sigma^2 = s^2 (r^(2 t) - 1)      score SDE
    EDM          alpha = 1                 sigma = t
    Discrete     cos and sin of an angle   that is given at t = k / T       DDPM's schedules of T steps
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = [
    "EDM",
    "VE",
    "VP",
    "Coefs",
    "Cosine",
    "Discrete",
    "Linear",
    "Path",
    "SubVP",
    "at_ratio",
    "cosine_schedule",
    "expand",
    "linear_schedule",
    "scaled_linear_schedule",
    "zero_terminal_snr",
]

Scalar = Any
"""A float or a tensor: the mathematics of paths and targets is written once for both."""


class Coefs(NamedTuple):
    """alpha(t), sigma(t) and their derivatives in t."""

    alpha: Scalar
    sigma: Scalar
    d_alpha: Scalar
    d_sigma: Scalar


class Path(Protocol):
    """A Gaussian path. span: (data end, noise end) of t."""

    @property
    def span(self) -> tuple[float, float]: ...

    def __call__(self, t: Scalar) -> Coefs: ...


def _of(function: str, x: Scalar) -> Scalar:
    """A function of that name in torch for a tensor, in math for a float."""
    return getattr(torch if isinstance(x, Tensor) else math, function)(x)


def _over(a: Scalar, b: Scalar) -> Scalar:
    """a / b, infinite where a float b is 0, as it is for tensors."""
    return a / b if isinstance(b, Tensor) or b else math.inf


@dataclass(frozen=True)
class Linear:
    """alpha = 1 - t, sigma = t on (0, 1).

    Liu, Gong and Liu, 2022, "Flow straight and fast: learning to generate and transfer data with rectified flow",
    arXiv:2209.03003; Lipman et al., 2022, "Flow matching for generative modeling", arXiv:2210.02747 (sigma_min = 0).
    """

    span: tuple[float, float] = (0.0, 1.0)

    def __call__(self, t: Scalar) -> Coefs:
        one = t * 0.0 + 1.0  # of the shape of t
        return Coefs(one - t, t, -one, one)


@dataclass(frozen=True)
class Cosine:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2) on (0, 1): the variance-preserving path of constant angular speed.

    Nichol and Dhariwal, 2021, "Improved denoising diffusion probabilistic models", arXiv:2102.09672 (offset s = 0);
    the "GVP" interpolant of Ma et al., 2024, "SiT", arXiv:2401.08740; TrigFlow of Lu and Song, 2024, "Simplifying,
    stabilizing and scaling continuous-time consistency models", arXiv:2410.11081, whose clock is the angle pi t / 2.
    """

    span: tuple[float, float] = (0.0, 1.0)

    def __call__(self, t: Scalar) -> Coefs:
        h = math.pi / 2
        cos, sin = _of("sin", h * (1.0 - t)), _of("sin", h * t)  # a cosine that is 0, not 6e-17, at t = 1
        return Coefs(cos, sin, -h * sin, h * cos)


@dataclass(frozen=True)
class VP:
    """dx = -beta(t) / 2 x dt + sqrt(beta(t)) dw with beta from `low` to `high`, on (0, 1): alpha^2 + sigma^2 = 1.

    Song et al., 2020, "Score-based generative modeling through stochastic differential equations", arXiv:2011.13456,
    equations 32 and 33.
    """

    low: float = 0.1
    high: float = 20.0
    span: tuple[float, float] = (0.0, 1.0)

    def exponent(self, t: Scalar) -> tuple[Scalar, Scalar]:
        """B(t), the integral of beta from 0 to t, and beta(t)."""
        slope = self.high - self.low
        return t * (self.low + 0.5 * slope * t), self.low + slope * t

    def __call__(self, t: Scalar) -> Coefs:
        big, beta = self.exponent(t)
        alpha, variance = _of("exp", -0.5 * big), -_of("expm1", -big)  # 1 - alpha^2 without cancellation near the data
        sigma, d_alpha = variance**0.5, -0.5 * beta * alpha
        return Coefs(alpha, sigma, d_alpha, _over(-alpha * d_alpha, sigma))


@dataclass(frozen=True)
class SubVP:
    """alpha of `VP`, sigma = 1 - alpha^2: less noise than VP at every t, tighter likelihoods.

    Song et al., 2020, arXiv:2011.13456, equations 27 to 29.
    """

    low: float = 0.1
    high: float = 20.0
    span: tuple[float, float] = (0.0, 1.0)

    def __call__(self, t: Scalar) -> Coefs:
        big, beta = VP(self.low, self.high).exponent(t)
        alpha = _of("exp", -0.5 * big)
        return Coefs(alpha, -_of("expm1", -big), -0.5 * beta * alpha, beta * alpha**2)


@dataclass(frozen=True)
class VE:
    """alpha = 1, sigma^2 = low^2 ((high / low)^(2 t) - 1) on (0, 1).

    The noise that is added from t = 0 on, as the SDE dx = sqrt(d low^2 r^(2t) / dt) dw has it: sigma(0) = 0, where the
    noise level that Song et al. name is `low` (they leave it out of the marginal, and take data for x at level low).

    Song et al., 2020, arXiv:2011.13456, equations 30 and 31.
    """

    low: float = 0.01
    high: float = 50.0
    span: tuple[float, float] = (0.0, 1.0)

    def __call__(self, t: Scalar) -> Coefs:
        rate = math.log(self.high / self.low)
        grown = _of("expm1", 2.0 * rate * t)  # r^(2 t) - 1
        sigma = self.low * grown**0.5
        one = t * 0.0 + 1.0
        return Coefs(one, sigma, 0.0 * one, _over(self.low**2 * rate * (grown + 1.0), sigma))


@dataclass(frozen=True)
class EDM:
    """alpha = 1, sigma = t on (0, high): the noise level is the clock.

    Karras et al., 2022, "Elucidating the design space of diffusion-based generative models", arXiv:2206.00364.
    """

    high: float = 80.0

    @property
    def span(self) -> tuple[float, float]:
        return 0.0, self.high

    def __call__(self, t: Scalar) -> Coefs:
        one = t * 0.0 + 1.0
        return Coefs(one, t, 0.0 * one, one)


@dataclass(frozen=True)
class Discrete:
    """A variance-preserving schedule of T steps, alpha_bar[k - 1] = alpha^2 at t = k / T, on (0, 1).

    alpha = cos(phi), sigma = sin(phi). Between the steps the angle phi is linear in t, so the path is defined, and
    variance preserving, everywhere, up to alpha = 0 where a schedule ends there. At a step the derivatives are those of
    the side of the noise. See `linear_schedule` and the like.

    Ho, Jain and Abbeel, 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239.
    """

    alpha_bar: tuple[float, ...]
    span: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not self.alpha_bar or any(not b < a for a, b in pairwise((1.0, *self.alpha_bar))):
            raise ValueError(f"'alpha_bar' must decrease from below 1, got {self.alpha_bar[:4]}...")
        if self.alpha_bar[-1] < 0:
            raise ValueError(f"'alpha_bar' must not be negative, got {self.alpha_bar[-1]} at the end")

    def __repr__(self) -> str:
        """Without a thousand numbers."""
        return f"Discrete({len(self.alpha_bar)} steps, alpha_bar {self.alpha_bar[0]:.6g} to {self.alpha_bar[-1]:.6g})"

    @cached_property
    def angles(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """phi and pi / 2 - phi at t = 0, 1 / T, ..., 1: both, so that neither end is the difference of two numbers."""
        pairs = [(math.sqrt(1.0 - a), math.sqrt(a)) for a in (1.0, *self.alpha_bar)]
        return tuple(math.atan2(s, a) for s, a in pairs), tuple(math.atan2(a, s) for s, a in pairs)

    def __call__(self, t: Scalar) -> Coefs:
        if isinstance(t, Tensor):
            phi, rest = self._table.to(t.device)
            slack = max(_SLACK, len(self.alpha_bar) * torch.finfo(t.dtype).eps)
            return Coefs(*(value.to(t.dtype) for value in self._at(t.double(), phi, rest, slack)))
        return self._at(t, *self.angles, _SLACK)

    @cached_property
    def _table(self) -> Tensor:
        return torch.tensor(self.angles, dtype=torch.float64, device="cpu")

    def _at(self, t: Scalar, phi: Any, rest: Any, slack: float) -> Coefs:
        steps = len(self.alpha_bar)
        place = t * steps
        if isinstance(place, Tensor):
            k = (place + slack).floor().clamp(0, steps - 1).long()
        else:
            k = min(max(math.floor(place + slack), 0), steps - 1)
        d_phi, u = phi[k + 1] - phi[k], place - k
        sigma, alpha = _of("sin", phi[k] + u * d_phi), _of("sin", rest[k] + u * (rest[k + 1] - rest[k]))
        return Coefs(alpha, sigma, -sigma * d_phi * steps, alpha * d_phi * steps)


_SLACK = 1e-9  # k / T times T may come out just below k, the further the fewer digits t has; it is still step k


def _cumulated(betas: Sequence[float]) -> tuple[float, ...]:
    """The products of 1 - beta."""
    if not all(0.0 < b < 1.0 for b in betas):
        raise ValueError(f"'first' and 'last' must give betas in (0, 1), got {min(betas):g} to {max(betas):g}")
    products, product = [], 1.0
    for beta in betas:
        product *= 1.0 - beta
        products.append(product)
    return tuple(products)


def linear_schedule(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> tuple[float, ...]:
    """alpha_bar of betas that grow linearly. Ho, Jain and Abbeel, 2020, arXiv:2006.11239, section 4.

    The two betas are those of 1,000 steps; with another number they are scaled by 1000 / steps, so that the end stays
    about where it is (Nichol and Dhariwal's code, 2021; diffusers leaves them as they are).
    """
    return _cumulated([b * 1000.0 / steps for b in _spaced(first, last, steps)])


def scaled_linear_schedule(steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> tuple[float, ...]:
    """alpha_bar of betas whose square roots grow linearly. Rombach et al., 2021, arXiv:2112.10752 (their code)."""
    return _cumulated([b * b * 1000.0 / steps for b in _spaced(first**0.5, last**0.5, steps)])


def cosine_schedule(steps: int = 1000, offset: float = 0.008, cap: float = 0.999) -> tuple[float, ...]:
    """alpha_bar = cos^2((t + s) / (1 + s) pi / 2), every beta at most `cap`.

    Nichol and Dhariwal, 2021, "Improved denoising diffusion probabilistic models", arXiv:2102.09672, equation 17.
    """

    def bar(t: float) -> float:
        return math.cos((t + offset) / (1.0 + offset) * math.pi / 2) ** 2

    return _cumulated([min(1.0 - bar(t) / bar(s), cap) for s, t in pairwise(k / steps for k in range(steps + 1))])


def _spaced(first: float, last: float, n: int) -> list[float]:
    if n < 1:
        raise ValueError(f"'steps' must be at least 1, got {n}")
    return [first + (last - first) * k / max(1, n - 1) for k in range(n)]


def zero_terminal_snr(alpha_bar: Sequence[float]) -> tuple[float, ...]:
    """The schedule with its square roots shifted and scaled so that it ends at pure noise and starts where it did.

    Lin, Liu, Li and Yang, 2023, "Common diffusion noise schedules and sample steps are flawed", arXiv:2305.08891,
    algorithm 1.
    """
    roots = [math.sqrt(a) for a in alpha_bar]
    first, last = roots[0], roots[-1]
    if not first > last:
        raise ValueError(f"'alpha_bar' must decrease over two or more steps, got {first**2:g} to {last**2:g}")
    return tuple(((r - last) * first / (first - last)) ** 2 for r in roots)


def at_ratio(path: Path, ratio: Scalar) -> Scalar:
    """The time at which sigma / alpha has this value: the inverse of a path's noise level, which grows with t.

    A level below the path's is answered by its first time, one above it by its last. By bisection in float64, so it
    holds for every path; a tensor is answered element by element.
    """
    if not isinstance(ratio, Tensor):
        return float(at_ratio(path, torch.tensor(ratio, dtype=torch.float64)))
    wanted = ratio.double()
    lower, upper = (torch.full_like(wanted, end) for end in path.span)
    for _ in range(80):  # 53 bits of a float64, and some more for times near 0
        middle = 0.5 * (lower + upper)
        c = path(middle)
        below = c.sigma < wanted * c.alpha
        lower, upper = torch.where(below, middle, lower), torch.where(below, upper, middle)
    return (0.5 * (lower + upper)).to(ratio.dtype)


def expand(t: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1), to multiply a tensor of shape (B, *S) row by row."""
    return t.reshape(-1, *[1] * (like.ndim - 1))
