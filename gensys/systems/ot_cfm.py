"""Optimal-transport conditional flow matching: flow matching between the nearest pairs of data and noise.

Within a batch, noise is given to data so that the sum of |x - eps|^2 is least. The larger the batch, the nearer are the
pairs to the optimal transport between the two laws, along whose straight lines a single step of Euler is exact.

    x_t = (1 - t) x + t eps,   (x, eps) ~ the batch's optimal pairs        loss = E |net(x_t, t) - (eps - x)|^2

Tong, Fatras, Malkin, Huguet, Zhang, Rector-Brooks, Wolf and Bengio, 2023, "Improving and generalizing flow-based
generative models with minibatch optimal transport", arXiv:2302.00482, section 3.2, with sigma = 0; Pooladian et al.,
2023, "Multisample flow matching", arXiv:2304.14772.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from gensys import targets
from gensys.couplings import OptimalTransport
from gensys.denoiser import Base, Denoiser, gaussian
from gensys.families.diffusion import Diffusion, Sampler
from gensys.objectives.denoise import denoise
from gensys.paths import Linear
from gensys.times import TimeLaw, Uniform

__all__ = ["ot_cfm"]


def ot_cfm(
    net: nn.Module,
    shape: tuple[int, ...],
    *,
    law: TimeLaw = Uniform(),  # noqa: B008 - a frozen value
    dropout: float = 0.0,
    by_label: bool = True,
    base: Base = gaussian,
    sampler: Sampler = Sampler(),  # noqa: B008
) -> Diffusion:
    """As `flow_matching`. by_label: see `OptimalTransport`; a conditional model is biased without it."""
    objective = partial(denoise, law=law, dropout=dropout, coupling=OptimalTransport(by_label))
    denoiser = Denoiser(net, Linear(), targets.velocity, base=base, unlabelled=dropout > 0.0)
    return Diffusion(denoiser, shape, objective=objective, sampler=sampler)
