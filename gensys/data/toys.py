"""Densities in the plane: toys by name, and laws of noise for flows between two of them.

    8gaussians     eight normals of standard deviation 0.1^(1/4) = 0.562 on a circle of radius 5
    25gaussians    25 normals of standard deviation 0.05 on a grid of 5 x 5 with a spacing of 2
    moons          two half circles that interlock, with noise of 0.2, scaled by 3 and moved by -1
    checkerboard   uniform on every second square of a board of 4 x 4, of [-4, 4]^2
    spirals        two arms of one and a half turns, with noise of 0.1

Row i of a toy is a function of i alone. A law draws points for the ids of a noise, so it serves as the base of a
denoiser too: `eight_gaussians` to the moons, in these sizes, is a task of Tong et al., 2023, "Improving and
generalizing flow-based generative models with minibatch optimal transport", arXiv:2302.00482.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from gensys.data.arrays import Arrays
from gensys.noise import Noise, Stream

__all__ = [
    "TOYS",
    "Law",
    "checkerboard",
    "count_grid_gaussians",
    "eight_gaussians",
    "grid_gaussians",
    "log_eight_gaussians",
    "moons",
    "spirals",
    "toy",
]

Law = Callable[[Noise, tuple[int, ...], Stream], Tensor]
"""(noise, (2,), stream) -> a point for each id, (B, 2) float32."""

_ROWS = 50_000
_SEED = 0x70E5  # of the data, never of a run
_RADIUS, _SPREAD = 5.0, 0.1**0.25
_NARROW = 0.05  # standard deviation of each of the 25


def _draws(noise: Noise, shape: tuple[int, ...], stream: Stream) -> tuple[Tensor, Tensor]:
    """(B, 2) uniforms and (B, 2) normals, float64: a function's last bit may depend on a row's place in float32.

    Numbers of one counter share its four words, so the normals are those of the next counter.
    """
    if shape != (2,):
        raise ValueError(
            f"'shape' must be (2,), a law of the plane gives points, got {shape}: choose data in the plane"
        )
    return noise.uniform((2,), stream).double(), noise.normal((6,), stream)[:, 4:].double()


def _centres() -> Tensor:
    """(8, 2) float64."""
    angles = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    return _RADIUS * torch.stack([angles.cos(), angles.sin()], 1)


def eight_gaussians(noise: Noise, shape: tuple[int, ...], stream: Stream) -> Tensor:
    """Eight equal normals on a circle."""
    u, z = _draws(noise, shape, stream)
    centres = _centres().to(u.device)
    return (centres[(8.0 * u[:, 0]).long()] + _SPREAD * z).float()


def log_eight_gaussians(x: Tensor) -> Tensor:
    """log p(x) of `eight_gaussians` in nats, (B,), for x: (B, 2)."""
    distances = (x[:, None] - _centres().to(x)).square().sum(2)
    normal = -distances / (2.0 * _SPREAD**2) - math.log(2.0 * math.pi * _SPREAD**2)
    return normal.logsumexp(1) - math.log(8.0)


def grid_gaussians(noise: Noise, shape: tuple[int, ...], stream: Stream) -> Tensor:
    """Twenty-five equal, narrow normals far apart: a model that forgets some of them shows it."""
    u, z = _draws(noise, shape, stream)
    return (2.0 * (5.0 * u).floor() - 4.0 + _NARROW * z).float()


def count_grid_gaussians(x: Tensor, within: float = 3.0) -> Tensor:
    """How many of the points x, (B, 2), lie at each of the 25 modes of `grid_gaussians`: (25,) int64.

    within: standard deviations from a mode's centre up to which a point is one of its. Of the law itself 98.9 % are
    within 3, 1 - exp(-9 / 2).
    """
    place = (x.double() / 2.0 + 2.0).round().clamp(0.0, 4.0)  # of the nearest centre, which lie at -4, -2, 0, 2, 4
    near = (x - (2.0 * place - 4.0)).norm(dim=1) <= within * _NARROW
    return torch.bincount((5 * place[:, 0] + place[:, 1]).long()[near], minlength=25)


def moons(noise: Noise, shape: tuple[int, ...], stream: Stream) -> Tensor:
    """Two half circles."""
    u, z = _draws(noise, shape, stream)
    angle, upper = math.pi * u[:, 0], u[:, 1] < 0.5
    x = torch.where(upper, angle.cos(), 1.0 - angle.cos())
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
    return (3.0 * (torch.stack([x, y], 1) + 0.2 * z) - 1.0).float()


def checkerboard(noise: Noise, shape: tuple[int, ...], stream: Stream) -> Tensor:
    """The squares whose column and row are both even or both odd."""
    u, _ = _draws(noise, shape, stream)
    x = 8.0 * u[:, 0] - 4.0
    column = (4.0 * u[:, 0]).floor()
    row = 2.0 * u[:, 1]  # which of the column's two squares, and where in it
    y = 2.0 * (2.0 * row.floor() + column.remainder(2.0) + row.remainder(1.0)) - 4.0
    return torch.stack([x, y], 1).float()


def spirals(noise: Noise, shape: tuple[int, ...], stream: Stream) -> Tensor:
    """Two arms, evenly along the root of the angle: about as dense everywhere."""
    u, z = _draws(noise, shape, stream)
    angle = 3.0 * math.pi * u[:, 0].sqrt()
    arm = torch.where(u[:, 1] < 0.5, 1.0, -1.0)
    radius = arm * angle / math.pi
    return (torch.stack([radius * angle.cos(), radius * angle.sin()], 1) + 0.1 * z).float()


@cache
def toy(name: str, law: Law) -> Arrays:
    """50,000 points of a law as a source of vectors (2,) without classes."""
    noise = Noise(_SEED, torch.arange(_ROWS))
    x: np.ndarray = law(noise, (2,), Stream.PRIOR).numpy()
    none = torch.full((_ROWS,), -1)
    return Arrays(name, f"the toy {name!r}", x, none, (), {}, f"{name}:{{}}".format)


LAWS: Mapping[str, Law] = {
    "8gaussians": eight_gaussians,
    "25gaussians": grid_gaussians,
    "moons": moons,
    "checkerboard": checkerboard,
    "spirals": spirals,
}
TOYS: Mapping[str, Callable[[], Arrays]] = {name: partial(toy, name, law) for name, law in LAWS.items()}
