"""The variational bound of a diffusion model of T steps, term by term.

The model is a Markov chain from t_T, the noisy end, to t_0, the data; q is the path. In nats, for one datum x,

    -log p(x) <= L_T + sum over k > 1 of L_{k-1} + L_0
    L_T       = KL(q(x_T | x) || p(x_T))                         `prior_kl`
    L_{k-1}   = E KL(q(x_{k-1} | x_k, x) || p(x_{k-1} | x_k))    `term`
    L_0       = E -log p(x | x_1)                                `term` at k = 1

With t = t_k, s = t_{k-1} and kept = (sigma_s / alpha_s) / (sigma_t / alpha_t), all on any Gaussian path,

    q(x_s | x_t, x) = N(alpha_s (1 - kept^2) x + kept sigma_s / sigma_t x_t,  small)     small = sigma_s^2 (1 - kept^2)
    p(x_s | x_t)    = the same mean at the predicted x,  small^(1 - mix) large^mix       large = sigma_t^2 (1 - kept^2)

mix is 0 or 1 where the variance is fixed, and what the network says where it is learned. At k = 1 q is a point, small
would be 0; there small is that of k = 2, as in the papers.

Ho, Jain and Abbeel, 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239, equations 5 to 8 and 13;
Nichol and Dhariwal, 2021, "Improved denoising diffusion probabilistic models", arXiv:2102.09672, equations 4, 5, 15,
16. That small / large is (sigma_s / sigma_t)^2 makes the interpolation simple; fewer times give the respaced schedule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from gensys.core import Batch, Loss
from gensys.denoiser import Denoiser
from gensys.guidance import drop
from gensys.noise import Noise, Stream
from gensys.objectives.weights import Weight, even
from gensys.paths import Coefs, Path, expand
from gensys.targets import recover

__all__ = ["Chain", "Step", "decoder", "gaussian_kl", "hybrid", "posterior", "prior_kl", "step_of", "term"]


class Step(NamedTuple):
    """The step from x_t to x_s, k of a chain; float64, one number for each row, or shaped to multiply x.

    t, alpha, sigma: of x_t. data, state: the mean of x_s is data x + state x_t. small, large: logarithms of the
    standard deviations of the posterior and of the step forward.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    data: Tensor
    state: Tensor
    small: Tensor
    large: Tensor


@dataclass(frozen=True)
class Chain:
    """A path on the times t_T > ... > t_1 > t_0 of a model of T steps, `times`, on the path's clock; t_0: the data.

    The times of a schedule of T steps are those of `times.uniform(T)`; fewer make a respaced one.
    """

    path: Path
    times: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.times) < 2 or any(s >= t for t, s in pairwise(self.times)):
            raise ValueError(f"'times' must be two or more decreasing values, noise first, got {self.times[:6]}")
        if self.path(self.times[-1]).sigma != 0:
            raise ValueError(f"'times' must end at the data, where sigma = 0, got {self.times[-1]:g} at the end")

    @property
    def length(self) -> int:
        """T."""
        return len(self.times) - 1

    @cached_property
    def _table(self) -> Tensor:
        """(7, T), float64: `Step` by k - 1."""
        rows: list[list[float]] = []
        for k, (s, t) in enumerate(pairwise(reversed(self.times)), 1):
            now, then = self.path(t), self.path(s)
            kept = now.alpha * then.sigma / (then.alpha * now.sigma)
            fresh = 1.0 - kept**2
            if not fresh > 0:
                raise ValueError(
                    f"'times' must differ in their noise, got {t:g} and {s:g}, which do not on {self.path}"
                )
            small, large = (math.log(c.sigma * math.sqrt(fresh)) if c.sigma else math.nan for c in (then, now))
            data, state = then.alpha * fresh, kept * then.sigma / now.sigma
            rows.append([t, now.alpha, now.sigma, data, state, small, large])
            if k == 2:
                rows[0][5] = small
        if len(rows) == 1:
            rows[0][5] = rows[0][6]  # a chain of one step knows the step forward alone
        return torch.tensor(rows, dtype=torch.float64, device="cpu").T

    def at(self, k: Tensor) -> Step:
        """The steps number k, (B,) int64 from 1 (to the data) to T; every field (B,)."""
        return Step(*self._table.to(k.device)[:, k - 1])


def step_of(chain: Chain, k: Tensor, like: Tensor) -> Step:
    """`chain.at(k)` in the dtype of `like`, (B, *S), and shaped to multiply it; t stays (B,)."""
    step = chain.at(k)
    return Step(step.t.to(like.dtype), *(expand(value, like).to(like.dtype) for value in step[1:]))


def posterior(chain: Chain, k: Tensor, x: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, variance) of q(x_s | x_t, x): (B, *S) and (B, 1, ..., 1). Ho et al., equations 6 and 7; k: 2 and more."""
    step = step_of(chain, k, x)
    return step.data * x + step.state * x_t, torch.exp(2.0 * step.small)


def gaussian_kl(difference: Tensor, log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(N(m, q^2) || N(m + difference, p^2)) in nats, element by element, from the logarithms of q and p."""
    return log_p - log_q + 0.5 * (torch.exp(2.0 * (log_q - log_p)) + (difference * torch.exp(-log_p)).square() - 1.0)


def prior_kl(c: Coefs, x: Tensor, std: float = 1.0) -> Tensor:
    """L_T = KL(N(alpha x, sigma^2) || N(0, std^2)) in nats, (B,). c: floats, at the noisy end."""
    ratio = c.sigma / std
    each = 0.5 * ((c.alpha / std * x).square() + (ratio**2 - 1.0 - 2.0 * math.log(ratio)))
    return each.flatten(1).sum(1)


def decoder(x: Tensor, mean: Tensor, log_std: Tensor, width: float | None) -> Tensor:
    """-log p(x) in nats, element by element, of a Gaussian.

    width: of the bin about x over which it is integrated, for data in [-1, 1] that lie on a grid of this width (2 / 255
    for 8 bits); the bins at -1 and 1 are open, so that all of them sum to 1. None: the density, for continuous data.

    Ho et al., 2020, equation 13. The difference of two values of the cumulative distribution is taken between their
    logarithms, on the side of the mean where both are small: it has no floor, so gradients are right far off the mean.
    """
    z = (x - mean) * torch.exp(-log_std)
    if width is None:
        return 0.5 * z.square() + log_std + 0.5 * math.log(2.0 * math.pi)
    half = 0.5 * width * torch.exp(-log_std)
    upper = torch.special.log_ndtr(half - z.abs())  # of the bin's edge that is nearer to the mean
    lower = torch.special.log_ndtr(-half - z.abs())
    inside = upper + torch.log(-torch.expm1(lower - upper))
    below, above = torch.special.log_ndtr(z + half), torch.special.log_ndtr(half - z)
    edge = 0.5 * width  # half a bin from the end: between the last value and the one before it
    return -torch.where(x < edge - 1.0, below, torch.where(x > 1.0 - edge, above, inside))


def term(
    chain: Chain, k: Tensor, x: Tensor, predicted: Tensor, mix: Tensor | float, width: float | None = None
) -> Tensor:
    """L_{k-1} in nats, (B,), for a datum and what the model predicts of it at x_t; L_0 in the rows where k = 1.

    mix: (B, *S), or 0 (the posterior's variance) or 1 (the step forward's). width: see `decoder`.
    """
    step = step_of(chain, k, x)
    log_std = step.small + (step.large - step.small) * mix
    kl = gaussian_kl(step.data * (predicted - x), step.small, log_std)
    first = expand(k == 1, x)
    # where it is not wanted, the decoder sees a harmless case: the gradient of what is not taken is 0 times its own
    mean, spread = torch.where(first, predicted, x), torch.where(first, log_std, 0.0)
    return torch.where(first, decoder(x, mean, spread, width), kl).flatten(1).sum(1)


def hybrid(
    denoiser: Denoiser,
    batch: Batch,
    noise: Noise,
    *,
    chain: Chain,
    weight: Weight = even,
    share: float = 0.001,
    width: float | None = None,
    dropout: float = 0.0,
) -> Loss:
    """L_simple + share L_vlb, for a denoiser that learns its variance: the first teaches the mean, the second only mix.

    k is uniform on the steps of the chain. L_simple: the mean over rows and elements of weight(t) |output - target|^2.
    L_vlb: T times the term of the bound, in bits per element, with the predicted mean detached: an estimate of all
    terms but L_T, which has no parameters. width: see `decoder`.

    Nichol and Dhariwal, 2021, arXiv:2102.09672, equation 16 (lambda = 0.001) and section 3.1.
    """
    if not denoiser.learned_variance:
        raise ValueError("'denoiser' must learn its variance: Denoiser(net, ..., learned_variance=True)")
    k = 1 + (noise.uniform((1,), Stream.TIME)[:, 0] * chain.length).floor().clamp(max=chain.length - 1).long()
    step = step_of(chain, k, batch.x)
    eps = denoiser.base(noise, tuple(batch.x.shape[1:]), Stream.EPS).to(batch.x.dtype)
    x_t, target = denoiser.along(batch.x, eps, step.t)
    output, mix = denoiser.split(denoiser.whole(x_t, step.t, drop(batch.cond, noise, dropout)))
    assert mix is not None
    c = denoiser.path(step.t)
    simple = (weight(c, denoiser.target) * (output - target).square().flatten(1).mean(1)).mean()
    predicted = recover(Coefs(*(expand(v, x_t) for v in c)), denoiser.target, x_t, output.detach()).x
    scale = chain.length / (batch.x[0].numel() * math.log(2.0))
    bound = scale * term(chain, k, batch.x, predicted, mix, width).mean()
    total = simple + share * bound
    return Loss(total, {"loss": total.detach(), "simple": simple.detach(), "vlb": bound.detach()})
