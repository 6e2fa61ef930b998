"""Denoising: regress a network's target a(t) x + b(t) eps from x_t = alpha(t) x + sigma(t) eps.

This is denoising score matching, the simple loss of DDPM, conditional flow matching or EDM's loss, as path, target,
law of times and weight say.
"""

from __future__ import annotations

from gensys.core import Batch, Loss
from gensys.couplings import Coupling, independent
from gensys.denoiser import Denoiser
from gensys.guidance import drop
from gensys.noise import Noise, Stream
from gensys.objectives.weights import Weight, even
from gensys.times import LogitNormal, TimeLaw

__all__ = ["denoise"]


def denoise(
    denoiser: Denoiser,
    batch: Batch,
    noise: Noise,
    *,
    law: TimeLaw = LogitNormal(),  # noqa: B008 - a frozen value
    weight: Weight = even,
    coupling: Coupling = independent,
    dropout: float = 0.0,
    pairs: int | None = None,
) -> Loss:
    """The mean over rows and elements of weight(t) |net(x_t, t, cond) - (a x + b eps)|^2.

    dropout: the probability that a row loses its condition (classifier-free guidance). t, eps and what is dropped are
    functions of (seed, id, step); a coupling rearranges eps among the rows.

    pairs: row i is a sample i, drawn with this seed, and its eps is the one that it was drawn from (reflow). Nothing
    has to be kept for it: that noise is drawn again, bit for bit.

    Ho, Jain and Abbeel, 2020, arXiv:2006.11239, equation 14; Lipman et al., 2022, arXiv:2210.02747, equation 14.
    """
    low, high = denoiser.path.span
    t = low + (high - low) * law(noise)
    drawn = (noise, Stream.EPS) if pairs is None else (Noise(pairs, noise.ids), Stream.INITIAL)
    eps = denoiser.base(drawn[0], tuple(batch.x.shape[1:]), drawn[1]).to(batch.x.dtype)
    eps = coupling(batch.x, eps, batch.cond)
    x_t, target = denoiser.along(batch.x, eps, t)
    output = denoiser(x_t, t, drop(batch.cond, noise, dropout))
    error = (output - target).square().flatten(1).mean(1)
    total = (weight(denoiser.path(t), denoiser.target) * error).mean()
    return Loss(total, {"loss": total.detach()})
