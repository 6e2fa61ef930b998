"""Masked autoregressive flow: every element is scaled and shifted by functions of the elements before it.

    z_i = x_i exp(s_i(x_1 .. x_{i-1})) + t_i(x_1 .. x_{i-1})

The order is reversed from one layer to the next. In place of batch normalisation ActNorm follows each layer.

Papamakarios, Pavlakou and Murray, 2017, "Masked autoregressive flow for density estimation", arXiv:1705.07057,
equations 3 and 4 and section 3.
"""

from __future__ import annotations

import math

from gensys.bijections.actnorm import ActNorm
from gensys.bijections.autoregressive import Autoregressive
from gensys.bijections.bijection import Bijection, Chain, Flattened
from gensys.bijections.permutation import reverse
from gensys.bijections.transforms import Affine, Transform
from gensys.families.flow import Flow, of_data
from gensys.nn.made import MADE

__all__ = ["autoregressive", "maf"]


def maf(
    shape: tuple[int, ...],
    *,
    classes: int = 0,
    vector: int = 0,
    width: int = 64,
    depth: int = 2,
    steps: int = 5,
    bounds: tuple[float, float] | None = None,
    temperature: float = 1.0,
) -> Flow:
    """shape: of any data, whose elements come in the order of memory. `steps` layers; scores fast, samples slowly."""
    dim = math.prod(shape)
    layers = autoregressive(dim, Affine(), steps, width=width, depth=depth, classes=classes, vector=vector)
    return of_data([Flattened(Chain(*layers))], shape, bounds=bounds, temperature=temperature)


def autoregressive(
    dim: int, transform: Transform, steps: int, *, width: int, depth: int, classes: int, vector: int
) -> list[Bijection]:
    """ActNorm, and `steps` times an autoregressive map, the order reversed, ActNorm."""
    if steps < 1:
        raise ValueError(f"'steps' must be at least 1, got {steps}")
    parts: list[Bijection] = [ActNorm(dim)]
    for _ in range(steps):
        net = MADE(dim, transform.count, width=width, depth=depth, classes=classes, vector=vector)
        parts += [Autoregressive(net, transform), reverse(dim), ActNorm(dim)]
    return parts
