"""Neural spline flows: couplings or autoregressive maps whose elements go through rational-quadratic splines.

    RQ-NSF (C)     z_b = spline(x_b; net(x_a)),  z_a = x_a        scores and samples in one call a layer
    RQ-NSF (AR)    z_i = spline(x_i; net(x_1 .. x_{i-1}))         samples in one call for each element

Durkan, Bekasov, Murray and Papamakarios, 2019, "Neural spline flows", arXiv:1906.04032, section 3; the mixing matrices
of its couplings are LU-decomposed, as its appendix B.1 has them.
"""

from __future__ import annotations

import math

from gensys.bijections.actnorm import ActNorm
from gensys.bijections.bijection import Bijection, Chain, Flattened
from gensys.bijections.coupling import Coupling
from gensys.bijections.mixing import Mixing
from gensys.bijections.spline import Spline
from gensys.families.flow import Flow, of_data
from gensys.nn.conditioner import Perceptron
from gensys.systems.maf import autoregressive

__all__ = ["nsf"]


def nsf(
    shape: tuple[int, ...],
    *,
    coupling: bool = False,
    classes: int = 0,
    vector: int = 0,
    width: int = 64,
    depth: int = 2,
    steps: int = 3,
    bins: int = 8,
    bound: float = 3.0,
    bounds: tuple[float, float] | None = None,
    temperature: float = 1.0,
) -> Flow:
    """shape: of any data, taken as vectors. coupling: the first form, else the second. bins, bound: of the splines,
    which lie behind an ActNorm, so that [-3, 3] are three standard deviations: wider, and fewer pieces are where the
    data are."""
    dim, transform = math.prod(shape), Spline(bins, bound)
    if not coupling:
        parts = autoregressive(dim, transform, steps, width=width, depth=depth, classes=classes, vector=vector)
        return of_data([Flattened(Chain(*parts))], shape, bounds=bounds, temperature=temperature)
    if dim < 2:
        raise ValueError(f"a coupling needs vectors of two elements at least, got {shape}: take coupling=false")
    half = dim // 2
    layers: list[Bijection] = [ActNorm(dim)]
    for k in range(steps):
        a, b = (dim - half, half) if k % 2 else (half, dim - half)
        net = Perceptron(a, transform.count * b, width=width, depth=depth, classes=classes, vector=vector)
        layers += [Mixing(dim, seed=k), Coupling(net, transform, flip=bool(k % 2))]
    return of_data([Flattened(Chain(*layers))], shape, bounds=bounds, temperature=temperature)
