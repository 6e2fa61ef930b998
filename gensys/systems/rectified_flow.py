"""Rectified flow: flow matching, and again on the pairs of noise and sample that the flow itself makes (reflow).

    loss = E |net(x_t, t) - (eps - x)|^2        x_t = (1 - t) x + t eps,   t ~ U(0, 1)

    (x, eps) independent                        1-rectified flow
    (x, eps) = (where the flow takes eps, eps)  2-rectified flow, and so on

No round makes a convex transport cost larger (their theorem 3.5), and of K rounds the straightest flow bends by no more
than the first cost / K (theorem 3.7). Along a straight flow one step of Euler is exact; straightness.py measures it.

Liu, Gong and Liu, 2022, "Flow straight and fast: learning to generate and transfer data with rectified flow",
arXiv:2209.03003, equation 1 and algorithm 1 (their t runs from noise to data).
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

__all__ = ["rectified_flow"]


def rectified_flow(
    net: nn.Module,
    shape: tuple[int, ...],
    *,
    pairs: int | None = None,
    law: TimeLaw = Uniform(),  # noqa: B008 - a frozen value
    dropout: float = 0.0,
    base: Base = gaussian,
    sampler: Sampler = Sampler(),  # noqa: B008
) -> Diffusion:
    """As `flow_matching`. pairs: the data are samples, drawn with this seed by a flow with the same base, and datum i
    is paired with the noise that sample i began at; None = data are paired with any noise."""
    objective = partial(denoise, law=law, dropout=dropout, pairs=pairs)
    denoiser = Denoiser(net, Linear(), targets.velocity, base=base, unlabelled=dropout > 0.0)
    return Diffusion(denoiser, shape, objective=objective, sampler=sampler)
