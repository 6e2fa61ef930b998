"""Improved DDPM: the cosine schedule, and a variance that is learned between its two bounds.

    x_s        = mean + exp((1 - mix) ln small + mix ln large)^(1/2) z        mix: C of the network's 2 C channels
    loss       = L_simple + 0.001 L_vlb, the mean detached in L_vlb

Nichol and Dhariwal, 2021, "Improved denoising diffusion probabilistic models", arXiv:2102.09672, equations 15 to 17 and
19 (fewer steps: the betas of the sub-sequence).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from gensys import targets
from gensys.denoiser import Denoiser
from gensys.families.diffusion import Diffusion, Sampler
from gensys.objectives.variational import Chain, hybrid
from gensys.objectives.weights import Weight, even
from gensys.paths import Discrete
from gensys.targets import Target
from gensys.times import on, uniform

__all__ = ["iddpm"]


def iddpm(
    net: nn.Module,
    shape: tuple[int, ...],
    *,
    path: Discrete,
    target: Target = targets.noise,
    weight: Weight = even,
    share: float = 0.001,
    width: float | None = None,
    dropout: float = 0.0,
    sampler: Sampler = Sampler(),  # noqa: B008 - a frozen value
) -> Diffusion:
    """A model of data of `shape`, by a net(x_t, t, cond) with twice its channels.

    share: of the bound in the loss. width: of the bins of the data, see `objectives.variational.decoder`; None =
    continuous. dropout: the probability that a row is trained without its label. A sampler whose solver is `ancestral`
    with the variance "learned" uses what is learned; others work too, by the mean alone.

    Raises: ValueError as `ddpm`; also where the schedule's last step is pure noise and the target is the noise, since
    the bound needs the data there.
    """
    chain = Chain(path, tuple(on(path, uniform(len(path.alpha_bar)))))
    weight(path(torch.tensor(chain.times[:-1], dtype=torch.float64, device="cpu")), target)  # it raises
    if target is targets.noise and path.alpha_bar[-1] == 0:
        raise ValueError(
            "'target' noise does not tell the data at the last step of 'path', which is pure noise: use targets.v"
        )
    objective = partial(hybrid, chain=chain, weight=weight, share=share, width=width, dropout=dropout)
    denoiser = Denoiser(net, path, target, learned_variance=True, unlabelled=dropout > 0.0)
    return Diffusion(denoiser, shape, objective=objective, sampler=sampler)
