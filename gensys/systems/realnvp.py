"""Real NVP: affine couplings, on images with checkerboards and channels by turns, on several scales.

    z_b = x_b exp(s(x_a)) + t(x_a),  z_a = x_a         log |det| = sum of s

A scale of images: three couplings with checkerboard masks, squeezing, three with halves of the channels, then half of
the channels is finished; the last scale has four checkerboards. Vectors have couplings of their halves. In place of
batch normalisation ActNorm (of Glow) follows each coupling: it keeps rows independent of their neighbours.

Dinh, Sohl-Dickstein and Bengio, 2017, "Density estimation using Real NVP", arXiv:1605.08803, equations 7 to 9 and
section 4.1.
"""

from __future__ import annotations

from gensys.bijections.actnorm import ActNorm
from gensys.bijections.bijection import Bijection, Chain, OnHalf
from gensys.bijections.coupling import Coupling, MaskedCoupling, checkerboard
from gensys.bijections.squeeze import Squeezed
from gensys.bijections.transforms import Affine
from gensys.families.flow import Flow, of_data
from gensys.nn.conditioner import Convolutions, Perceptron

__all__ = ["realnvp"]


def realnvp(
    shape: tuple[int, ...],
    *,
    classes: int = 0,
    vector: int = 0,
    width: int = 32,
    depth: int = 2,
    levels: int = 2,
    steps: int = 6,
    bounds: tuple[float, float] | None = None,
    temperature: float = 1.0,
) -> Flow:
    """shape: (C, H, W), with sides that halve levels - 1 times, or (D,), D >= 2, which `steps` couplings map."""
    if len(shape) == 1:
        dim, half = shape[0], shape[0] // 2
        if dim < 2:
            raise ValueError(f"a coupling needs vectors of two elements at least, got {shape}: take nsf or maf")
        parts: list[Bijection] = [ActNorm(dim)]
        for k in range(steps):
            a, b = (dim - half, half) if k % 2 else (half, dim - half)
            # not from zero: on a checkerboard in the plane this is worth 0.02 nats in 1,000 steps
            net = Perceptron(a, 2 * b, width=width, depth=depth, classes=classes, vector=vector, std=0.05)
            parts += [Coupling(net, Affine(), flip=bool(k % 2)), ActNorm(dim)]
        return of_data(parts, shape, bounds=bounds, temperature=temperature)

    def convolutions(inputs: int, outputs: int) -> Convolutions:
        return Convolutions(inputs, outputs, width=width, depth=depth, kernel=3, classes=classes, vector=vector)

    def checkers(c: int, h: int, w: int, count: int) -> list[Bijection]:
        parts: list[Bijection] = []
        for k in range(count):
            mask = checkerboard((c, h, w), flip=bool(k % 2))
            parts += [MaskedCoupling(convolutions(c, 2 * c), mask), ActNorm(c)]
        return parts

    def scale(c: int, h: int, w: int, level: int) -> Bijection:
        if level == levels:
            return Chain(*checkers(c, h, w, 4))
        inner: list[Bijection] = []
        for k in range(3):
            inner += [Coupling(convolutions(2 * c, 4 * c), flip=bool(k % 2)), ActNorm(4 * c)]
        inner.append(OnHalf(scale(2 * c, h // 2, w // 2, level + 1)))
        return Chain(*checkers(c, h, w, 3), Squeezed(Chain(*inner)))

    c, h, w = require_halves(shape, levels - 1)
    return of_data([ActNorm(c), scale(c, h, w, 1)], shape, bounds=bounds, temperature=temperature)


def require_halves(shape: tuple[int, ...], times: int) -> tuple[int, int, int]:
    """(C, H, W). Raises ValueError unless it is that, with sides that halve `times` times."""
    if len(shape) != 3:
        raise ValueError(f"'shape' must be (C, H, W), got {shape}")
    if times < 0 or shape[1] % 2**times or shape[2] % 2**times:
        raise ValueError(f"the sides of {shape} do not halve {times} times: take fewer levels, at least one scale")
    return shape[0], shape[1], shape[2]
