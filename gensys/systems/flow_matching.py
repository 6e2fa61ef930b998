"""Flow matching: regress the velocity of straight lines between data and noise.

    x_t = (1 - t) x + t eps        v(x_t, t) = E[eps - x | x_t]        loss = E |net(x_t, t) - (eps - x)|^2

Lipman, Chen, Ben-Hamu, Nickel and Le, 2022, "Flow matching for generative modeling", arXiv:2210.02747, equations 14, 20
to 23 (sigma_min = 0; their t runs the other way); Esser et al., 2024, "Scaling rectified flow transformers",
arXiv:2403.03206, section 3.1, for other laws of t than the uniform one.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from gensys import targets
from gensys.denoiser import Base, Denoiser, gaussian
from gensys.families.diffusion import Diffusion, Sampler
from gensys.objectives.denoise import denoise
from gensys.paths import Linear
from gensys.times import TimeLaw, Uniform

__all__ = ["flow_matching"]


def flow_matching(
    net: nn.Module,
    shape: tuple[int, ...],
    *,
    law: TimeLaw = Uniform(),  # noqa: B008 - a frozen value
    dropout: float = 0.0,
    base: Base = gaussian,
    sampler: Sampler = Sampler(),  # noqa: B008
) -> Diffusion:
    """A model of data of `shape` (*S). net(x_t, t, cond) -> (B, *S). law: of t. dropout: the probability that a row is
    trained without its condition. base: the law of eps."""
    objective = partial(denoise, law=law, dropout=dropout)
    denoiser = Denoiser(net, Linear(), targets.velocity, base=base, unlabelled=dropout > 0.0)
    return Diffusion(denoiser, shape, objective=objective, sampler=sampler)
