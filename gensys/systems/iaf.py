"""Inverse autoregressive flow: how an element of the noise is mapped is a function of the noise before it.

    x_i = z_i exp(s_i(z_1 .. z_{i-1})) + t_i(z_1 .. z_{i-1})

So a sample is one call of each network, and the density of data one call for each element: for vectors of few elements.
The paper has it as the posterior of a variational autoencoder, which scores its own samples alone.

Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, 2016, "Improving variational inference with inverse
autoregressive flow", arXiv:1606.04934, equations 9 and 10.
"""

from __future__ import annotations

import math

from gensys.bijections.actnorm import ActNorm
from gensys.bijections.autoregressive import Autoregressive
from gensys.bijections.bijection import Bijection, Chain, Flattened, Inverse
from gensys.bijections.permutation import reverse
from gensys.families.flow import Flow, of_data
from gensys.nn.made import MADE

__all__ = ["iaf"]


def iaf(
    shape: tuple[int, ...],
    *,
    classes: int = 0,
    vector: int = 0,
    width: int = 64,
    depth: int = 2,
    steps: int = 4,
    bounds: tuple[float, float] | None = None,
    temperature: float = 1.0,
) -> Flow:
    """shape: of any data, whose elements come in the order of memory. `steps` layers; samples fast, scores slowly."""
    dim = math.prod(shape)
    if steps < 1:
        raise ValueError(f"'steps' must be at least 1, got {steps}")
    parts: list[Bijection] = [ActNorm(dim)]
    for _ in range(steps):
        net = MADE(dim, 2, width=width, depth=depth, classes=classes, vector=vector)
        parts += [Inverse(Autoregressive(net)), reverse(dim), ActNorm(dim)]
    return of_data([Flattened(Chain(*parts))], shape, bounds=bounds, temperature=temperature)
