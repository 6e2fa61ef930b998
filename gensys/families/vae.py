"""Variational autoencoders: prior x encoder x Gaussian posterior x decoder x observation model.

    z ~ p(z),   x ~ p(x | decoder(z));   q(z | x) = N(mean(x), exp(logvar(x)))

p(z) is N(0, I), or a normalizing flow that is learnt with the rest: it follows the latents to where they are, so that
none of its draws falls where the decoder has seen nothing, and the bound is tighter.

Kingma and Welling, 2013, "Auto-encoding variational Bayes", arXiv:1312.6114; a learnt prior: Chen et al., 2016,
"Variational lossy autoencoder", arXiv:1611.02731, section 3.2. Unlike `families.autoencoder`, whose
latents another model learns, this is a model of the data by itself: its loss is a bound on log p(x) in nats, whatever
the observation model, so figures of different ones can be held against each other where they are of the same data.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from gensys.core import Batch, Bits, Cond, Generative, Loss, Posterior
from gensys.families.flow import Flow
from gensys.likelihood import bits_per_dim, density_bits
from gensys.noise import Noise, Stream
from gensys.objectives.elbo import (
    Schedule,
    committed,
    importance_bound,
    importance_loss,
    log_ratio,
    negative_bound,
)
from gensys.objectives.observation import Observation

__all__ = ["VAE", "interpolate"]


class VAE(Generative):
    """encoder: (B, *S) -> (B, 2 Z, ...), mean and logvar along dim 1; decoder: (B, *latent) -> the observation's
    parameters.

    prior: the law of the latents, which `loss` trains too; None = N(0, I).
    beta: the weight of the KL term; schedule: what it is multiplied by at a step of training (None: 1), as validation
    always has the whole. free: nats that each latent number has for nothing. delta: nats that each has at least, as the
    variance of its posterior stays below 1, see `committed`. draws: K of the importance-weighted bound that is trained
    on; 1 is the ordinary one. noisy: whether samples are drawn from p(x | z), or are its mean. bound_draws: K of
    `log_prob`. logvar_limit: see `Autoencoder`.

    Raises ValueError if the importance-weighted bound is to have a weight, a schedule or free bits: it has no KL term;
    or if free bits or delta meet a prior that is learnt: the nats of a latent number are then not known by themselves.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent: tuple[int, ...],
        observation: Observation,
        *,
        prior: Flow | None = None,
        beta: float = 1.0,
        schedule: Schedule | None = None,
        free: float = 0.0,
        delta: float = 0.0,
        draws: int = 1,
        noisy: bool = False,
        bound_draws: int = 64,
        logvar_limit: float = 20.0,
    ) -> None:
        super().__init__()
        if min(draws, bound_draws) < 1 or min(beta, free) < 0.0:
            raise ValueError(
                f"'draws' and 'bound_draws' must be at least 1, 'beta' and 'free' not negative, got {draws}, "
                f"{bound_draws}, {beta} and {free}"
            )
        if draws > 1 and (beta != 1.0 or schedule is not None or free):
            raise ValueError(
                f"'draws' is {draws}: the importance-weighted bound has no KL term to weigh, so beta must be 1, "
                f"without annealing and free bits; or take draws=1"
            )
        if prior is not None and (free or delta):
            raise ValueError(
                f"'free' is {free:g} and 'delta' {delta:g}: they are of latents with a prior N(0, I), so leave them at "
                "0, or 'prior' out"
            )
        self.prior, self.encoder, self.decoder = prior, encoder, decoder
        self.latent, self.observation = latent, observation
        self.beta, self.schedule, self.free, self.draws = beta, schedule, free, draws
        self.noisy, self.bound_draws, self.logvar_limit = noisy, bound_draws, logvar_limit
        self.most = committed(delta) if delta else None
        if self.most is not None and self.most < -logvar_limit:
            raise ValueError(
                f"'delta' must leave the logarithm of the variance above -{logvar_limit:g}, got {delta:g}, which takes "
                f"{self.most:.3g}: a nat is much already"
            )

    def encode(self, x: Tensor) -> Posterior:
        mean, logvar = _wide(self.encoder(x)).chunk(2, dim=1)
        if self.most is not None:
            logvar = self.most - softplus(self.most - logvar)  # about the smaller of both, with a gradient everywhere
        return Posterior(mean, logvar.clamp(-self.logvar_limit, self.logvar_limit))

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x | z)."""
        return self.observation.mean(_wide(self.decoder(z)))

    def loss(self, batch: Batch, noise: Noise, player: str) -> Loss:
        x, posterior = batch.x, self.encode(batch.x)
        elements = x[0].numel()  # keeps the learning rate free of the size of the data
        eps = noise.normal((self.draws, *posterior.mean.shape[1:]), Stream.POSTERIOR)
        log_likelihood = self._log_likelihood(x, posterior, eps)
        if self.draws > 1:
            ratio = self._log_ratio(posterior, eps)
            kl = None if self.prior is None else -ratio.mean(1)
            return importance_loss(log_likelihood, ratio, posterior, kl=kl, elements=elements)
        kl = None if self.prior is None else -self._log_ratio(posterior, eps)[:, 0]
        share = self.schedule(noise.step) if self.schedule is not None and self.training else 1.0
        beta = self.beta * share
        return negative_bound(log_likelihood[:, 0], posterior, kl=kl, beta=beta, free=self.free, elements=elements)

    def _log_likelihood(self, x: Tensor, posterior: Posterior, eps: Tensor) -> Tensor:
        """log p(x | z_k), (B, K), at the latents of eps, (B, K, *Z)."""
        rows = x.repeat_interleave(eps.shape[1], 0)
        return self.observation.log_prob(_wide(self.decoder(_drawn(posterior, eps))), rows).view(eps.shape[:2])

    def _log_ratio(self, posterior: Posterior, eps: Tensor) -> Tensor:
        """log p(z_k) - log q(z_k | x), (B, K)."""
        if self.prior is None:
            return log_ratio(posterior, eps)
        return log_ratio(posterior, eps, self.prior.log_prob(_drawn(posterior, eps), {}).view(eps.shape[:2]))

    @torch.no_grad()
    def log_prob(self, x: Tensor, cond: Cond) -> Tensor:
        """A lower bound on log p(x) in nats, (B,): the importance-weighted one with `bound_draws` draws, whose mean
        over draws rises to log p(x) with their number.

        The draws are the same for every row and every call, so a row's figure is its own and comes again.
        """
        posterior = self.encode(x)
        draws = Noise(0, torch.arange(self.bound_draws, device=x.device))
        eps = draws.normal(tuple(posterior.mean.shape[1:]), Stream.POSTERIOR)
        eps = eps.expand(x.shape[0], *eps.shape)
        return importance_bound(self._log_likelihood(x, posterior, eps) + self._log_ratio(posterior, eps))

    def bits(self, x: Tensor, cond: Cond, noise: Noise, width: float | None) -> Bits | None:
        """From the bound that `log_prob` is; None where the observation model is no law of such data."""
        gives, about = self.observation.gives, f"importance-weighted bound, {self.bound_draws} draws"
        if gives == "density":
            return density_bits(lambda y: self.log_prob(y, cond), x, noise, width, about)
        if gives == "neither" or width is None:
            return None
        return Bits(bits_per_dim(self.log_prob(x, cond), x[0].numel()), about)

    @torch.no_grad()
    def sample(self, cond: Cond, noise: Noise) -> Tensor:
        """z ~ p(z), then the mean of p(x | z) or, if `noisy`, a draw of it."""
        z = noise.normal(self.latent, Stream.PRIOR) if self.prior is None else self.prior.sample({}, noise)
        parameters = _wide(self.decoder(z))
        return self.observation.sample(parameters, noise) if self.noisy else self.observation.mean(parameters)


def _drawn(posterior: Posterior, eps: Tensor) -> Tensor:
    """The latents of eps, (B, K, *Z) -> (B K, *Z)."""
    return (posterior.mean[:, None] + torch.exp(0.5 * posterior.logvar[:, None]) * eps).flatten(0, 1)


def _wide(values: Tensor) -> Tensor:
    """At least float32, which is what likelihoods need where the networks compute in less."""
    return values if values.dtype == torch.float64 else values.float()


@torch.no_grad()
def interpolate(model: VAE, first: Tensor, last: Tensor, steps: int) -> Tensor:
    """Decoded latents on the straight lines between the posterior means of two data: (B, *S) each -> (B, steps, *S).

    The ends are the reconstructions of `first` and `last`; steps >= 2.
    """
    if steps < 2:
        raise ValueError(f"'steps' must be at least 2, the two ends, got {steps}")
    if first.shape != last.shape:
        raise ValueError(f"'last' must be shaped like 'first', {tuple(first.shape)}, got {tuple(last.shape)}")
    a, b = model.encode(first).mode, model.encode(last).mode
    share = torch.linspace(0.0, 1.0, steps, device=a.device).view(1, -1, *(1,) * (a.ndim - 1))
    z = (1.0 - share) * a[:, None] + share * b[:, None]
    return model.decode(z.flatten(0, 1)).unflatten(0, (first.shape[0], steps))
