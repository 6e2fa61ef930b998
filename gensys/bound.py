"""The likelihood of a diffusion model of T steps: its variational bound, with every term.

It bounds what the model with these steps assigns to data: of images with `width`, the probability of their integers,
with no dequantisation; otherwise a density. `likelihood.log_prob` is the exact density of the same network's
probability flow, another model.

Ho, Jain and Abbeel, 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239, section 4.3 (table 1); Nichol
and Dhariwal, 2021, "Improved denoising diffusion probabilistic models", arXiv:2102.09672, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gensys.core import Cond
from gensys.denoiser import Denoiser, require_density
from gensys.noise import Noise, Stream
from gensys.objectives.variational import Chain, prior_kl, step_of, term
from gensys.paths import Coefs, expand
from gensys.targets import recover, require_well_posed

__all__ = ["Bound", "variational_bound"]


class Bound(NamedTuple):
    """All in nats, (B,). log_prob = -(prior + transitions + decoder), a lower bound of log p(x) in expectation.

    error: the standard error of log_prob, over which steps were drawn and the noise of their x_t; NaN where all were,
    each with one x_t, which does not tell it. prior: L_T. transitions: the sum (or its estimate) of L_1, ..., L_{T-1}.
    decoder: L_0. terms: (B, K) L_{k-1} of the steps `numbers`, (B, K) int64, from T down (from each stratum two, in the
    order in which they were drawn); the decoder is not among them.
    """

    log_prob: Tensor
    error: Tensor
    prior: Tensor
    transitions: Tensor
    decoder: Tensor
    terms: Tensor
    numbers: Tensor


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    x: Tensor,
    cond: Cond,
    noise: Noise,
    chain: Chain,
    *,
    variance: Literal["small", "large", "learned"] = "small",
    width: float | None = None,
    clip: tuple[float, float] | None = None,
    strata: int | None = None,
) -> Bound:
    """The bound of log p(x | cond) for x: (B, *S). One call of the network for every step, x_t drawn anew in each.

    variance: of the steps back, as `ancestral` has it. width: of the bins of data in [-1, 1], 2 / 255 for images of 8
    bits: then `bits_per_dim(log_prob, D)` are bits. None: the data are continuous, log_prob is a density. clip: (low,
    high), to which the predicted data are clipped, if the sampler does so.

    strata: None = all T steps. n: the steps 2, ..., T are cut into n runs of about equal length and two different steps
    are drawn from each, for every row its own, so 2 n + 1 calls; a mean over rows is unbiased, and `error` is right
    because each stratum has two. The decoder is always evaluated.

    Raises: ValueError for settings that do not fit, or a target that does not tell the data at a step of the chain; as
    `require_density`.
    """
    if noise.ids.shape != x.shape[:1]:
        raise ValueError(f"'noise' must have an id for each of {x.shape[0]} rows, got {len(noise.ids)}")
    if variance not in ("small", "large", "learned"):
        raise ValueError(f"'variance' must be 'small', 'large' or 'learned', got {variance!r}")
    if variance == "learned" and not denoiser.learned_variance:
        raise ValueError("'variance' is 'learned', and the network learns none: use 'small' or 'large'")
    require_density(denoiser)
    limit = 1e4 if clip is None else 1e6  # as for a sampler
    require_well_posed(denoiser.path, denoiser.target, chain.times[:-1], limit)

    def one(k: Tensor, draw: int) -> Tensor:
        """L_{k-1}, (B,), at noise of its own."""
        step = step_of(chain, k, x)
        eps = denoiser.base(noise.at(draw), tuple(x.shape[1:]), Stream.EPS).to(x.dtype)
        x_t = step.alpha * x + step.sigma * eps
        output, mix = denoiser.split(denoiser.whole(x_t, step.t, cond))
        c = Coefs(*(expand(value, x) for value in denoiser.path(step.t)))
        predicted = recover(c, denoiser.target, x_t, output).x
        if clip is not None:
            predicted = predicted.clamp(*clip)
        share = {"small": 0.0, "large": 1.0, "learned": mix}[variance]
        assert share is not None
        return term(chain, k, x, predicted, share, width)

    numbers, total = _steps(chain.length, strata, noise)
    terms = [one(k, draw) for draw, k in enumerate(numbers.unbind(1), 1)]
    end = one(torch.ones_like(noise.ids), 0)
    stacked = torch.stack(terms, 1) if terms else x.new_zeros(x.shape[0], 0)
    transitions, error = total(stacked)
    top = chain.path(chain.times[0])
    prior = prior_kl(top, x, top.sigma)  # p(x_T) is what samples start from
    return Bound(-(prior + transitions + end), error, prior, transitions, end, stacked, numbers)


def _steps(length: int, strata: int | None, noise: Noise) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """The steps to evaluate, (B, K), from the noisy end, and how the sum over all of them comes of their terms."""
    ids = noise.ids
    if strata is None:
        every = torch.arange(length, 1, -1, device=ids.device).expand(len(ids), -1)
        return every, lambda terms: (terms.sum(1), torch.full_like(terms.sum(1), math.nan))
    if not 1 <= strata <= (length - 1) // 2:
        raise ValueError(
            f"'strata' must be 1 to {(length - 1) // 2}, so that each has two of the {length - 1} steps, got {strata}; "
            f"None takes all"
        )
    edges = torch.tensor([2 + (length - 1) * i // strata for i in range(strata + 1)], device=ids.device)
    low, size = edges[:-1], edges[1:] - edges[:-1]
    u = noise.uniform((strata, 2), Stream.TIME).double()
    first = (u[..., 0] * size).long()
    second = (u[..., 1] * (size - 1)).long()
    second = second + (second >= first)  # another step than the first
    numbers = (low[:, None] + torch.stack([first, second], 2)).flip(1)

    def total(terms: Tensor) -> tuple[Tensor, Tensor]:
        """Each stratum's size times its mean, and the error of that by the difference of its two.

        No correction for a small stratum: it would hold for what steps differ in, not for the noise of x_t.
        """
        pairs, count = terms.unflatten(1, (strata, 2)), size.flip(0).to(terms.dtype)
        variance = (0.5 * count * (pairs[..., 0] - pairs[..., 1])).square()
        return (count * pairs.mean(2)).sum(1), variance.sum(1).sqrt()

    return numbers.flatten(1), total
