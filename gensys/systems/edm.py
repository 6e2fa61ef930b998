"""EDM: noise levels as the clock, a preconditioned network, and a loss that is even on its output.

    x_t = x + sigma eps       D(x_t, sigma) = c_skip x_t + c_out F(c_in x_t, c_noise)

    c_skip = s^2 / (sigma^2 + s^2)       c_out = sigma s / sqrt(sigma^2 + s^2)         s = sigma_data
    c_in = 1 / sqrt(sigma^2 + s^2)       c_noise = ln(sigma) / 4

    loss: |F - (x - c_skip x_t) / c_out|^2, ln(sigma / 2 s) ~ N(mean, std^2)

c_skip and c_out are the target `targets.EDM`, c_in and c_noise the inputs of `Denoiser`; sampling walks `times.karras`
with `heun` or, stochastically, `churn`.

Karras, Aittala, Aila and Laine, 2022, "Elucidating the design space of diffusion-based generative models",
arXiv:2206.00364, table 1, algorithms 1 and 2.
"""

from __future__ import annotations

import math
from functools import partial

from torch import nn

from gensys import targets
from gensys.denoiser import Denoiser
from gensys.families.diffusion import Diffusion, Sampler
from gensys.objectives.denoise import denoise
from gensys.paths import EDM
from gensys.times import LogNormal

__all__ = ["edm"]


def edm(
    net: nn.Module,
    shape: tuple[int, ...],
    *,
    path: EDM = EDM(),  # noqa: B008 - a frozen value
    sigma_data: float = 0.5,
    mean: float = -1.2,
    std: float = 1.2,
    dropout: float = 0.0,
    sampler: Sampler,
) -> Diffusion:
    """net: a backbone for data of `shape`. sigma_data: the standard deviation of the data.

    mean, std: of ln(sigma / (2 sigma_data)) in training: theirs are of ln(sigma), for sigma_data = 0.5; data twice as
    large want noise twice as large. dropout: of the condition.
    sampler: on a grid that `karras` made for `path`; an even one spends nearly all of its steps above any data.
    """
    return Diffusion(
        Denoiser(net, path, targets.EDM(sigma_data), sigma_data=sigma_data, unlabelled=dropout > 0.0),
        shape,
        objective=partial(denoise, law=LogNormal(path, mean + math.log(2.0 * sigma_data), std), dropout=dropout),
        sampler=sampler,
    )
