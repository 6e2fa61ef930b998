"""Denoising: regress a network's target a(t) x + b(t) eps from x_t = alpha(t) x + sigma(t) eps.

This is denoising score matching, the simple loss of DDPM, conditional flow matching or EDM's loss, as path, target,
law of times and weight say.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gensys.core import Batch, Loss
from gensys.denoiser import Denoiser
from gensys.guidance import drop
from gensys.noise import Noise, Stream
from gensys.paths import Coefs
from gensys.times import TimeLaw

__all__ = ["Weight", "denoise", "even"]

Weight = Callable[[Coefs], Tensor]
"""Coefs of (B,) tensors -> (B,) weights of the squared error."""


def even(c: Coefs) -> Tensor:
    """Every time weighs the same."""
    return c.alpha * 0.0 + 1.0


def denoise(
    denoiser: Denoiser, batch: Batch, noise: Noise, *, law: TimeLaw, weight: Weight = even, dropout: float = 0.0
) -> Loss:
    """The mean over rows and elements of weight(t) |net(x_t, t, cond) - (a x + b eps)|^2.

    dropout: the probability that a row loses its label (classifier-free guidance). t, eps and the dropped labels are
    functions of (seed, id, step).

    Ho, Jain and Abbeel, 2020, arXiv:2006.11239, equation 14; Lipman et al., 2022, arXiv:2210.02747, equation 14.
    """
    low, high = denoiser.path.span
    t = low + (high - low) * law(noise)
    eps = noise.normal(tuple(batch.x.shape[1:]), Stream.EPS).to(batch.x.dtype)
    x_t, target = denoiser.along(batch.x, eps, t)
    output = denoiser(x_t, t, drop(batch.cond, noise, dropout))
    error = (output - target).square().flatten(1).mean(1)
    total = (weight(denoiser.path(t)) * error).mean()
    return Loss(total, {"loss": total.detach()})
