"""Autoregressive maps: how an element is mapped is a function of those before it.

    z_i = transform(x_i; net(x_1 .. x_{i-1}))           log |det| = sum over i of log |dz_i / dx_i|

forward is one call of the network, inverse one for each element. A masked autoregressive flow is made of these, which
score fast; an inverse autoregressive flow of their inverses, which sample fast.

Papamakarios, Pavlakou and Murray, 2017, "Masked autoregressive flow for density estimation", arXiv:1705.07057,
section 3; Kingma et al., 2016, "Improving variational inference with inverse autoregressive flow", arXiv:1606.04934,
section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gensys.bijections.bijection import Bijection
from gensys.bijections.transforms import Affine, Transform
from gensys.core import Cond

__all__ = ["Autoregressive"]


class Autoregressive(Bijection):
    """Of vectors (B, D). net: (B, D) -> (B, count D), first the first parameter of all elements, where those of element
    i depend on elements before i alone: `gensys.nn.made.MADE`."""

    def __init__(self, net: nn.Module, transform: Transform = Affine()) -> None:  # noqa: B008 - a frozen value
        super().__init__()
        self.net, self.transform = net, transform

    def _told(self, x: Tensor, cond: Cond) -> Tensor:
        if x.ndim != 2:
            raise ValueError(f"an autoregressive map needs vectors (B, D), got {tuple(x.shape)}: use Flattened")
        found, count = self.net(x, cond), self.transform.count
        if found.shape != (x.shape[0], count * x.shape[1]):
            raise ValueError(f"'net' must make {(x.shape[0], count * x.shape[1])}, got {tuple(found.shape)}")
        return found.to(x.dtype).unflatten(1, (count, x.shape[1]))

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        return self.transform(x, self._told(x, cond))

    def inverse(self, z: Tensor, cond: Cond) -> Tensor:
        x = torch.zeros_like(z)
        for i in range(z.shape[1]):  # what is known are elements before i, and the parameters of i need no others
            parameters = self._told(x, cond)
            one, _ = self.transform(z[:, i : i + 1], parameters[:, :, i : i + 1], inverse=True)
            x = torch.cat([x[:, :i], one, x[:, i + 1 :]], 1)  # not in place: gradients go through the earlier x
        return x
