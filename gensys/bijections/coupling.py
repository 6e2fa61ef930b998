"""Couplings: one part of an element says how the other part is mapped, number by number.

Dinh, Sohl-Dickstein and Bengio, 2017, "Density estimation using Real NVP", arXiv:1605.08803, equations 4 to 9
Kingma and Dhariwal, 2018, "Glow: generative flow with invertible 1x1 convolutions", arXiv:1807.03039, section 3.3
Durkan et al., 2019, "Neural spline flows", arXiv:1906.04032, section 3.2
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gensys.bijections.bijection import Bijection
from gensys.bijections.transforms import Affine, Transform
from gensys.core import Cond

__all__ = ["Coupling", "MaskedCoupling", "checkerboard"]


class Coupling(Bijection):
    """(a, b) -> (a, transform(b; net(a, cond))).

    a is the first half of the channels of (B, C, *S), rounded down; with `flip` a is the other one, so that two layers
    change everything. net: from a to (B, count C_b, *S), C_b the channels of b: first the first parameter of all of
    them. It need not be invertible. If its last layer starts at zero, as Glow's does, the map starts as the identity.
    """

    def __init__(self, net: nn.Module, transform: Transform = Affine(), *, flip: bool = False) -> None:  # noqa: B008
        super().__init__()
        self.net, self.transform, self.flip = net, transform, flip

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        return self._map(x, cond, inverse=False)

    def inverse(self, z: Tensor, cond: Cond) -> Tensor:
        return self._map(z, cond, inverse=True)[0]

    def _map(self, x: Tensor, cond: Cond, inverse: bool) -> tuple[Tensor, Tensor]:
        if x.ndim < 2 or x.shape[1] < 2:
            raise ValueError(f"a coupling needs (B, C, *S) with two channels at least, got {tuple(x.shape)}")
        half = x.shape[1] // 2
        a, b = x[:, :half], x[:, half:]
        if self.flip:
            a, b = b, a
        b, logdet = self.transform(b, _parameters(self.net(a, cond), b, self.transform.count), inverse)
        return torch.cat((b, a) if self.flip else (a, b), dim=1), logdet


class MaskedCoupling(Bijection):
    """x -> where(mask, x, transform(x; net(mask x, cond))): a coupling of parts that are no halves of the channels.

    mask: (*S), bool, true where x is left as it is and may be looked at. net: (B, C, *S) -> (B, count C, *S).
    """

    mask: Tensor

    def __init__(self, net: nn.Module, mask: Tensor, transform: Transform = Affine()) -> None:  # noqa: B008
        super().__init__()
        if mask.dtype != torch.bool or mask.all() or not mask.any():
            raise ValueError(f"'mask' must be bool, true somewhere and false somewhere, got {mask.dtype} {mask}")
        self.net, self.transform = net, transform
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        return self._map(x, cond, inverse=False)

    def inverse(self, z: Tensor, cond: Cond) -> Tensor:
        return self._map(z, cond, inverse=True)[0]

    def _map(self, x: Tensor, cond: Cond, inverse: bool) -> tuple[Tensor, Tensor]:
        if x.shape[1:] != self.mask.shape:
            raise ValueError(f"'x' must be (B, *{tuple(self.mask.shape)}), the mask's shape, got {tuple(x.shape)}")
        parameters = _parameters(self.net(x * self.mask, cond), x, self.transform.count)
        z, logdet = self.transform(x, parameters * ~self.mask, inverse)  # zeros: the identity, logdet 0
        return torch.where(self.mask, x, z), logdet  # the identity without its rounding


def checkerboard(shape: tuple[int, int, int], *, flip: bool = False) -> Tensor:
    """(C, H, W), bool: true where row + column is even; with `flip` where it is odd."""
    _, height, width = shape
    even = (torch.arange(height)[:, None] + torch.arange(width)) % 2 == 0
    return (~even if flip else even).expand(shape).clone()


def _parameters(found: Tensor, x: Tensor, count: int) -> Tensor:
    """A network's (B, count C, *S) as (B, count, C, *S), in the dtype of x: autocast lets it answer in another."""
    wanted = (x.shape[0], count * x.shape[1], *x.shape[2:])
    if found.shape != wanted:
        raise ValueError(f"'net' must make {wanted}, {count} parameters an element, got {tuple(found.shape)}")
    return found.to(x.dtype).unflatten(1, (count, x.shape[1]))
