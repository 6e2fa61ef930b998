"""The evidence lower bound of a latent-variable model with a diagonal Gaussian posterior, and its relatives.

    log p(x) >= E_q [log p(x | z)] - beta KL(q(z | x) || p(z))            beta = 1: the bound
    log p(x) >= E [log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x)]          the importance-weighted bound, tighter with K

p(z) is N(0, I), for which the KL term has a closed form, or any law with a density, for which it is estimated.
Kingma and Welling, 2013, "Auto-encoding variational Bayes", arXiv:1312.6114, equation 3; beta: Higgins et al., 2017,
"beta-VAE". A codec for latent diffusion takes a very small beta (Rombach et al., 2021, arXiv:2112.10752, appendix G).
Second line: Burda, Grosse and Salakhutdinov, 2015, "Importance weighted autoencoders", arXiv:1509.00519, equation 8.

A posterior collapses where z says nothing about x. The usual cures are a beta that grows during training (`linear`,
`cyclic`), `free_bits`, and posteriors that cannot be the prior (`committed`); `active_units` and `kl_per_dimension`
show it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gensys.core import Loss, Posterior

__all__ = [
    "ACTIVE",
    "Schedule",
    "active_units",
    "committed",
    "cyclic",
    "elbo",
    "free_bits",
    "importance_bound",
    "importance_loss",
    "kl_per_dimension",
    "linear",
    "log_ratio",
    "negative_bound",
]

Schedule = Callable[[int], float]
"""The step of the training, from 0 -> what beta is multiplied by, in [0, 1]."""

ACTIVE = 0.01
"""The variance of a posterior mean over data above which a latent counts as used (Burda et al., section 5.2)."""


def elbo(reconstruction: Tensor, posterior: Posterior, beta: float) -> Loss:
    """The negative bound per element of x. reconstruction: (B, *S), the terms of -log p(x | z); the KL in nats.

    Dividing by the number of elements keeps the learning rate free of the size of the data.
    """
    error = reconstruction.mean()
    kl = posterior.kl().mean()
    total = error + beta * kl / reconstruction[0].numel()
    return Loss(total, {"loss": total.detach(), "reconstruction": error.detach(), "kl": kl.detach()})


def linear(steps: int) -> Schedule:
    """0 at the first step, 1 from step `steps` on (Bowman et al., 2016, "Generating sentences from a continuous space",
    arXiv:1511.06349, section 3.1)."""
    if steps < 1:
        raise ValueError(f"'steps' must be at least 1, got {steps}: for no annealing leave the schedule out")
    return lambda step: min(1.0, step / steps)


def cyclic(period: int, ramp: float = 0.5) -> Schedule:
    """From 0 to 1 in the first part `ramp` of every `period` steps, then 1 (Fu et al., 2019, "Cyclical annealing
    schedule", arXiv:1903.10145, equation 6; ramp = 0.5 there)."""
    if period < 1 or not 0.0 < ramp <= 1.0:
        raise ValueError(f"'period' must be at least 1 and 'ramp' lie in (0, 1], got {period} and {ramp}")
    return lambda step: min(1.0, (step % period) / (period * ramp))


def kl_per_dimension(posterior: Posterior) -> Tensor:
    """KL(q(z_j | x) || N(0, 1)) in nats of every latent number, (B, Z); its sum over j is `Posterior.kl`."""
    nats = 0.5 * (posterior.mean.square() + posterior.logvar.exp() - 1.0 - posterior.logvar)
    return nats.flatten(1)


def free_bits(kl: Tensor, least: float) -> Tensor:
    """sum_j max(least, mean over rows of KL_j), (): below `least` nats a latent is not pressed further.

    kl: (B, Z). Kingma et al., 2016, "Improving variational inference with inverse autoregressive flow",
    arXiv:1606.04934, equation 15. The mean is over the rows that are computed together.
    """
    return kl.mean(0).clamp(min=least).sum()


def committed(delta: float) -> float:
    """The largest logvar of a posterior whose KL from N(0, 1) is at least `delta` nats, whatever its mean.

    KL = (mean^2 + v - ln v - 1) / 2 falls in v = exp(logvar) up to v = 1: the root of (v - ln v - 1) / 2 = delta with
    v < 1. Raises ValueError for a negative delta.

    Razavi, van den Oord, Poole and Vinyals, 2019, "Preventing posterior collapse with delta-VAEs", arXiv:1901.03416,
    section 2, for a prior of independent numbers.
    """
    if not 0.0 <= delta < math.inf:
        raise ValueError(f"'delta' must be 0 or more nats and finite, got {delta}")
    low, high = -2.0 * delta - 1.0, 0.0  # at low, -ln v - 1 alone is 2 delta
    for _ in range(60):  # halvings: more than a float64 holds
        middle = 0.5 * (low + high)
        low, high = (middle, high) if math.expm1(middle) - middle > 2.0 * delta else (low, middle)
    return low


def active_units(posterior: Posterior) -> Tensor:
    """How many latent numbers vary with x: those whose posterior mean has a variance above `ACTIVE` over the rows."""
    mean = posterior.mean.detach().flatten(1)
    return (mean.var(0, correction=0) > ACTIVE).sum().float()


def negative_bound(
    log_likelihood: Tensor,
    posterior: Posterior,
    *,
    kl: Tensor | None = None,
    beta: float = 1.0,
    free: float = 0.0,
    elements: int = 1,
) -> Loss:
    """-E_q [log p(x | z)] + beta KL, in nats per datum over `elements`.

    log_likelihood: log p(x | z) at one draw of z, (B,). kl: the KL term or an estimate, (B,) or (B, Z) in parts; None =
    from N(0, I). free: nats that every part has for nothing, see `free_bits`. The terms of the log are nats per datum,
    but for the loss, and free of beta and free bits.
    """
    kl = kl_per_dimension(posterior) if kl is None else kl
    parts = kl.view(kl.shape[0], -1)
    price = free_bits(parts, free) if free > 0.0 else parts.sum(1).mean()
    nll = -log_likelihood.mean()
    return Loss(total := (nll + beta * price) / elements, {"loss": total.detach(), **_terms(nll, kl, posterior)})


def importance_bound(weights: Tensor) -> Tensor:
    """log 1/K sum_k exp(weights_k), (B,). weights: (B, K), log p(x | z_k) + log p(z_k) - log q(z_k | x)."""
    return torch.logsumexp(weights, 1) - math.log(weights.shape[1])


def log_ratio(posterior: Posterior, eps: Tensor, log_prior: Tensor | None = None) -> Tensor:
    """log p(z_k) - log q(z_k | x) at z_k = mean + exp(logvar / 2) eps_k, (B, K): an estimate of minus the KL term.

    eps: (B, K, *Z). log_prior: log p(z_k), (B, K); None = of N(0, I).
    """
    mean, logvar = posterior.mean[:, None], posterior.logvar[:, None]
    if log_prior is None:  # the constants of the two are the same
        z = mean + torch.exp(0.5 * logvar) * eps
        return 0.5 * (eps.square() + logvar - z.square()).flatten(2).sum(2)
    return log_prior + 0.5 * (eps.square() + logvar + math.log(2.0 * math.pi)).flatten(2).sum(2)


def importance_loss(
    log_likelihood: Tensor, ratio: Tensor, posterior: Posterior, *, kl: Tensor | None = None, elements: int = 1
) -> Loss:
    """The negative importance-weighted bound over `elements`, and the terms of `negative_bound`.

    log_likelihood: log p(x | z_k), (B, K). ratio: `log_ratio`, (B, K). kl: as there, for the log alone.
    """
    total = -importance_bound(log_likelihood + ratio).mean() / elements
    kl = kl_per_dimension(posterior) if kl is None else kl
    return Loss(total, {"loss": total.detach(), **_terms(-log_likelihood.mean(), kl, posterior)})


def _terms(nll: Tensor, kl: Tensor, posterior: Posterior) -> dict[str, Tensor]:
    each = kl.detach().mean(0)
    parts = {"kl_least": each.min(), "kl_most": each.max()} if each.ndim else {}  # averaged over the rows
    return {"reconstruction": nll.detach(), "kl": each.sum(), **parts, "active_units": active_units(posterior)}
