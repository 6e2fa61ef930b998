"""The likelihood of a path model: the change of density along its probability-flow ODE.

    log p(x) = log N(x_T; 0, sigma_T^2) + the integral of div f(x_t, t) dt from 0 to T,     dx_t/dt = f,  x_0 = x

f = alpha' E[x | x_t] + sigma' E[eps | x_t]. It is the density of what the flow makes of the noise that samples start
from, so it is exact where a sampler of this flow is, and is the data's where the network and the prior at T are.

The divergence is the trace of df/dx: exact, by one backward pass for each dimension, or Hutchinson's estimate, the mean
over K probes v of v . (df/dx) v, by one backward pass for each probe, with v of independent +-1 (Rademacher; the lower
variance) or normal elements.

Chen, Rubanova, Bettencourt and Duvenaud, 2018, "Neural ordinary differential equations", arXiv:1806.07366, theorem 1;
Grathwohl et al., 2018, "FFJORD", arXiv:1810.01367, section 3; Song et al., 2020, "Score-based generative modeling
through stochastic differential equations", arXiv:2011.13456, appendix D.2; Hutchinson, 1989, "A stochastic estimator of
the trace of the influence matrix".

Images are integers and have no density. `dequantise` gives every value its bin, over which the model's density is
integrated: log P(k) >= E log p(x + u) + D ln(bin), u uniform on the bin (Theis, van den Oord and Bethge, 2015, "A note
on the evaluation of generative models", arXiv:1511.01844, section 3.1). `bits_per_dim` keeps these books. Any other
law q(u | x) on the bin bounds it too, log P(k) >= E [log p(x + u) - log q(u | x)] + D ln(bin), the tighter the closer q
is to p(x + u) / P(k): variational dequantisation (Ho et al., 2019, "Flow++: improving flow-based generative models with
variational dequantization and architecture design", arXiv:1902.00275, equation 12).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from gensys.core import Bits, Cond
from gensys.denoiser import Denoiser, require_density
from gensys.noise import Noise, Stream
from gensys.paths import expand
from gensys.solvers.dopri5 import integrate
from gensys.targets import recover, require_well_posed

__all__ = [
    "Dequantiser",
    "Hutchinson",
    "Likelihood",
    "bin_width",
    "bits_per_dim",
    "density_bits",
    "dequantise",
    "log_prob",
    "spread",
    "uniform_in_bin",
]


@dataclass(frozen=True)
class Hutchinson:
    """The divergence by `probes` random probes of each row, drawn for the ids of `noise`."""

    noise: Noise
    probes: int = 1
    law: Literal["rademacher", "gaussian"] = "rademacher"

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise ValueError(f"'probes' must be at least 1, got {self.probes}")
        if self.law not in ("rademacher", "gaussian"):
            raise ValueError(f"'law' must be 'rademacher' or 'gaussian', got {self.law!r}")

    def draw(self, x: Tensor) -> Tensor:
        """(B, K, D), for x: (B, *S)."""
        if self.noise.ids.shape != x.shape[:1]:
            raise ValueError(f"'noise' must have an id for each of {x.shape[0]} rows, got {len(self.noise.ids)}")
        shape = (self.probes, x[0].numel())
        if self.law == "gaussian":
            return self.noise.normal(shape, Stream.PROBE).to(x.dtype)
        return (self.noise.uniform(shape, Stream.PROBE) < 0.5).to(x.dtype) * 2.0 - 1.0


class Likelihood(NamedTuple):
    """log_prob: (B,) nats. error: (B,), its standard error over the probes; 0 where the divergence is exact, NaN for a
    single probe. latent: (B, *S), x_T. evaluations: (B,) int64, network calls."""

    log_prob: Tensor
    error: Tensor
    latent: Tensor
    evaluations: Tensor


def log_prob(
    denoiser: Denoiser,
    x: Tensor,
    cond: Cond,
    *,
    divergence: Hutchinson | None = None,
    start: float = 0.0,
    end: float = 1.0,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    differentiable: bool = False,
) -> Likelihood:
    """The log-density of x: (B, *S), floating point, under the probability flow of the denoiser.

    divergence: None = exact, D backward passes an evaluation for data of D elements. start, end: the fractions of the
    path's span between which the flow runs. x is taken for x_t at `start`: more than 0 for a path whose slope is
    infinite at the data (VP, sub-VP, VE; Song et al. take 1e-5). differentiable: keep what a gradient to x and to the
    parameters needs; else the result has none.

    Raises: ValueError where the denoiser's target has no inverse at an end, or as `require_density`; ArithmeticError as
    `integrate`.
    """
    path = denoiser.path
    low, high = path.span
    t0, t1 = (low + (high - low) * fraction for fraction in (start, end))
    require_density(denoiser)
    require_well_posed(path, denoiser.target, [t0, t1])
    if not all(map(math.isfinite, path(t0))):
        raise ValueError(f"'start' must be above 0 for {path}: its slope is infinite at t = {t0:g}; 1e-5 is usual")
    names, shape, size = list(cond), x.shape[1:], x[0].numel()
    probes = None if divergence is None else divergence.draw(x)
    count = 1 if probes is None else probes.shape[1]

    def field(flat: Tensor, t: Tensor, values: Sequence[Tensor]) -> Tensor:
        x_t = flat.unflatten(1, shape)
        c = path(expand(t, x_t))
        p = recover(c, denoiser.target, x_t, denoiser(x_t, t, dict(zip(names, values, strict=True))))
        return (c.d_alpha * p.x + c.d_sigma * p.eps).flatten(1)

    def both(state: Tensor, t: Tensor, *given: Tensor) -> Tensor:
        """The slope of x, and of the K estimates of the change of log-density, one after the other: (b, D + K)."""
        values, directions = (given, None) if probes is None else (given[:-1], given[-1])
        with torch.enable_grad():
            flat = state[:, :size]
            flat = flat if flat.requires_grad else flat.detach().requires_grad_()
            slope = field(flat, t, values)
            traces = _traces(slope, flat, directions, differentiable)
        out = torch.cat([slope, traces], 1)
        return out if differentiable else out.detach()

    given = [*cond.values(), *([] if probes is None else [probes])]
    with torch.set_grad_enabled(differentiable):
        state = torch.cat([x.flatten(1), x.new_zeros(x.shape[0], count)], 1)
        solution = integrate(both, state, t0, t1, rtol=rtol, atol=atol, given=given)
        latent, changes = solution.x[:, :size], solution.x[:, size:]
        sigma = path(t1).sigma
        prior = -0.5 * (latent / sigma).square().sum(1) - size * (math.log(sigma) + 0.5 * math.log(2.0 * math.pi))
        error = torch.full_like(prior, 0.0 if probes is None else math.nan)
        if count > 1:
            error = changes.detach().std(1) / count**0.5
        return Likelihood(prior + changes.mean(1), error, latent.unflatten(1, shape), solution.evaluations)


def _traces(slope: Tensor, flat: Tensor, probes: Tensor | None, differentiable: bool) -> Tensor:
    """(b, 1): the trace of d slope / d flat; or (b, K): v . (d slope / d flat) v for the probes v: (b, K, D)."""

    def pulled(cotangent: Tensor, last: bool) -> Tensor:
        kept = differentiable or not last
        (back,) = torch.autograd.grad(slope, flat, cotangent, retain_graph=kept, create_graph=differentiable)
        return back

    if probes is not None:
        count = probes.shape[1]
        return torch.stack([(pulled(v, k == count - 1) * v).sum(1) for k, v in enumerate(probes.unbind(1))], 1)
    size = slope.shape[1]
    units = torch.eye(size, dtype=slope.dtype, device=slope.device)
    diagonal = [pulled(units[i].expand_as(slope), i == size - 1)[:, i] for i in range(size)]
    return torch.stack(diagonal, 1).sum(1, keepdim=True)


def bin_width(levels: int = 256, low: float = -1.0, high: float = 1.0) -> float:
    """The distance between two of `levels` values that lie evenly from `low` to `high`."""
    if levels < 2:
        raise ValueError(f"'levels' must be at least 2, got {levels}")
    return (high - low) / (levels - 1)


class Dequantiser(Protocol):
    """A law q(u | x) of where in its bin a value lies: (x (B, *S), noise) -> (u in (0, 1), log q(u | x)).

    u: (B, *S), by `noise` alone (its stream DEQUANTISE), differentiable in the law's parameters if they are trained.
    log q: (B,) nats, a density of u; so q does not know how wide a bin is.
    """

    def __call__(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]: ...


def uniform_in_bin(x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """u ~ U(0, 1) for every element; log q = 0."""
    return noise.uniform(tuple(x.shape[1:]), Stream.DEQUANTISE).to(x.dtype), x.new_zeros(x.shape[0])


def spread(x: Tensor, noise: Noise, width: float, law: Dequantiser = uniform_in_bin) -> tuple[Tensor, Tensor]:
    """(x + width (u - 1/2), log q(u | x)): data on a grid of this width within their bins, and what q says of it.

    Both go into the books: bits_per_dim(log_prob(y), D, width, log_q). Raises ValueError if u leaves the bin, since
    what it would bound is then nothing.
    """
    u, log_q = law(x, noise)
    if u.shape != x.shape or log_q.shape != x.shape[:1]:
        raise ValueError(
            f"'law' must return u {tuple(x.shape)} and log q {tuple(x.shape[:1])}, got {tuple(u.shape)} and "
            f"{tuple(log_q.shape)}"
        )
    if not ((u >= 0) & (u <= 1)).all():
        raise ValueError(
            f"'law' must return u in (0, 1), got {float(u.detach().min()):g} to {float(u.detach().max()):g}"
        )
    return x + width * (u - 0.5), log_q


def dequantise(x: Tensor, noise: Noise, width: float) -> Tensor:
    """`spread` with u ~ U(0, 1), for which log q is 0: data on a grid of this width, spread over their bins."""
    return spread(x, noise, width)[0]


def bits_per_dim(log_prob: Tensor, size: int, width: float = 1.0, log_q: Tensor | None = None) -> Tensor:
    """-(log p - log q + D ln(width)) / (D ln 2): bits for each of D = `size` elements of discrete data.

    log_prob: of dequantised data, in nats, (B,). width: of a bin, in the units that the density is of; so scaling data
    changes nothing. 1 = the density of continuous data, or log_prob is the probability of the discrete data itself.
    log_q: of where in their bins they were put, (B,), from `spread`; None = uniformly. It is an upper bound, in
    expectation.
    """
    if size < 1 or not width > 0:
        raise ValueError(f"'size' must be at least 1 and 'width' positive, got {size} and {width}")
    if log_q is not None:
        if log_q.shape != log_prob.shape:
            raise ValueError(f"'log_q' must be {tuple(log_prob.shape)} as 'log_prob', got {tuple(log_q.shape)}")
        log_prob = log_prob - log_q
    return -(log_prob / size + math.log(width)) / math.log(2.0)


def density_bits(
    log_prob: Callable[[Tensor], Tensor], x: Tensor, noise: Noise, width: float | None, about: str
) -> Bits:
    """`Bits` by a density, (B, *S) -> (B,) nats: of x spread over its bins of this width, or if None of x itself."""
    if width is None:
        return Bits(bits_per_dim(log_prob(x), x[0].numel()), about)
    log_p = log_prob(dequantise(x, noise, width))
    return Bits(bits_per_dim(log_p, x[0].numel(), width), f"{about}, uniform dequantisation")
