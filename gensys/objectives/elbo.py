"""The evidence lower bound of a latent-variable model with a diagonal Gaussian posterior.

    log p(x) >= E_q [log p(x | z)] - beta KL(q(z | x) || N(0, I))         beta = 1: the bound

Kingma and Welling, 2013, "Auto-encoding variational Bayes", arXiv:1312.6114, equation 3; beta: Higgins et al., 2017,
"beta-VAE". A codec for latent diffusion takes a very small beta (Rombach et al., 2021, arXiv:2112.10752, appendix G).
"""

from __future__ import annotations

from torch import Tensor

from gensys.core import Loss, Posterior

__all__ = ["elbo"]


def elbo(reconstruction: Tensor, posterior: Posterior, beta: float) -> Loss:
    """The negative bound per element of x. reconstruction: (B, *S), the terms of -log p(x | z); the KL in nats.

    Dividing by the number of elements keeps the learning rate free of the size of the data.
    """
    error = reconstruction.mean()
    kl = posterior.kl().mean()
    total = error + beta * kl / reconstruction[0].numel()
    return Loss(total, {"loss": total.detach(), "reconstruction": error.detach(), "kl": kl.detach()})
