"""DDPM: a chain of T Gaussian steps, trained by the simple loss, sampled backwards step by step.

    q(x_t | x) = N(sqrt(alpha_bar) x, 1 - alpha_bar)
    loss       = E w(k) |output - target|^2,  k uniform on 1, ..., T;  the noise and w = 1: L_simple

Ho, Jain and Abbeel, 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239, equation 14 and algorithms 1
and 2. Since then other schedules, targets and weights have been put in its place: v, Salimans and Ho, 2022,
arXiv:2202.00512; min-SNR, Hang et al., 2023, arXiv:2303.09556; a schedule that ends in pure noise, Lin et al., 2023,
arXiv:2305.08891.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from gensys import targets
from gensys.denoiser import Denoiser
from gensys.families.diffusion import Diffusion, Sampler
from gensys.objectives.denoise import denoise
from gensys.objectives.weights import Weight, even
from gensys.paths import Discrete
from gensys.targets import Target
from gensys.times import Steps

__all__ = ["ddpm"]


def ddpm(
    net: nn.Module,
    shape: tuple[int, ...],
    *,
    path: Discrete,
    target: Target = targets.noise,
    weight: Weight = even,
    dropout: float = 0.0,
    sampler: Sampler = Sampler(),  # noqa: B008 - a frozen value
) -> Diffusion:
    """A model of data of `shape`, by a net(x_t, t, cond). dropout: probability that a row is trained without its label.

    Raises: ValueError where the weight has no value at a step that is trained, or the sampler calls the network at a
    time where the target cannot be inverted: the noise at the end of a schedule that ends in pure noise.
    """
    steps = len(path.alpha_bar)
    weight(path(torch.arange(1, steps + 1, dtype=torch.float64, device="cpu") / steps), target)  # it raises
    objective = partial(denoise, law=Steps(steps), weight=weight, dropout=dropout)
    return Diffusion(Denoiser(net, path, target, unlabelled=dropout > 0.0), shape, objective=objective, sampler=sampler)
