"""Glow: steps of ActNorm, an invertible 1x1 convolution and an affine coupling, on several scales.

    scale    squeeze, `steps` steps, then half of the channels is finished, with a prior learnt from the other half

The prior of what is finished is an affine coupling: z = (x_b - mean(x_a)) / std(x_a) ~ N(0, I).

Kingma and Dhariwal, 2018, "Glow: generative flow with invertible 1x1 convolutions", arXiv:1807.03039, section 3 and
figure 2.
"""

from __future__ import annotations

from gensys.bijections.actnorm import ActNorm
from gensys.bijections.bijection import Bijection, Chain, OnHalf
from gensys.bijections.coupling import Coupling
from gensys.bijections.mixing import Mixing
from gensys.bijections.squeeze import Squeezed
from gensys.bijections.transforms import Additive, Affine
from gensys.families.flow import Flow, of_data
from gensys.nn.conditioner import Convolutions
from gensys.systems.realnvp import require_halves

__all__ = ["glow"]


def glow(
    shape: tuple[int, ...],
    *,
    classes: int = 0,
    vector: int = 0,
    width: int = 64,
    depth: int = 1,
    levels: int = 3,
    steps: int = 4,
    additive: bool = False,
    bounds: tuple[float, float] | None = None,
    temperature: float = 1.0,
) -> Flow:
    """shape: (C, H, W), with sides that halve `levels` times. additive: couplings that only shift."""

    def coupling(c: int, affine: bool) -> Coupling:
        transform = Affine() if affine else Additive()
        half, outputs = c // 2, transform.count * (c - c // 2)
        net = Convolutions(half, outputs, width=width, depth=depth, classes=classes, vector=vector)
        return Coupling(net, transform)

    def scale(c: int, level: int) -> Bijection:
        parts: list[Bijection] = []
        for k in range(steps):
            parts += [ActNorm(4 * c), Mixing(4 * c, seed=level * steps + k), coupling(4 * c, not additive)]
        if level < levels:
            parts += [coupling(4 * c, True), OnHalf(scale(2 * c, level + 1))]
        return Squeezed(Chain(*parts))

    c, _, _ = require_halves(shape, levels)
    return of_data([scale(c, 1)], shape, bounds=bounds, temperature=temperature)
