"""Latent diffusion: a U-Net that denoises the latents of a frozen autoencoder.

    z = normalised latent of an image        z_t = sqrt(alpha_bar_t) z + sqrt(1 - alpha_bar_t) eps
    loss: |net(z_t, t, label) - eps|^2, t uniform on T steps, betas whose square roots grow linearly

Rombach, Blattmann, Lorenz, Esser and Ommer, 2021, "High-resolution image synthesis with latent diffusion models",
arXiv:2112.10752, sections 3.2 and 3.3; the schedule is that of their code.
"""

from __future__ import annotations

from torch import nn

from gensys import targets
from gensys.families.diffusion import Diffusion, Sampler
from gensys.paths import Discrete, scaled_linear_schedule
from gensys.systems.ddpm import ddpm
from gensys.targets import Target

__all__ = ["PATH", "latent_diffusion"]

PATH = Discrete(scaled_linear_schedule(1000))


def latent_diffusion(
    net: nn.Module,
    shape: tuple[int, ...],
    *,
    path: Discrete = PATH,
    target: Target = targets.noise,
    dropout: float = 0.1,
    sampler: Sampler = Sampler(),  # noqa: B008 - a frozen value
) -> Diffusion:
    """net: a backbone for latents of `shape`, of unit variance. target: the noise, as published,
    or another. dropout: of the condition, for guidance."""
    return ddpm(net, shape, path=path, target=target, dropout=dropout, sampler=sampler)
