"""Squeezing: 2 x 2 pixels become four channels, so that a flow sees images at half the resolution.

Dinh, Sohl-Dickstein and Bengio, 2017, "Density estimation using Real NVP", arXiv:1605.08803, section 3.6.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from gensys.bijections.bijection import Bijection
from gensys.core import Cond

__all__ = ["Squeezed"]


class Squeezed(Bijection):
    """inner, a map of (B, 4 C, H/2, W/2), on images (B, C, H, W) of even sides; the result is laid out as the images.

    Only the order of the elements changes, so that the log-determinant is inner's.
    """

    def __init__(self, inner: Bijection) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        _check(x)
        z, logdet = self.inner(pixel_unshuffle(x, 2), cond)
        return pixel_shuffle(z, 2), logdet

    def inverse(self, z: Tensor, cond: Cond) -> Tensor:
        _check(z)
        return pixel_shuffle(self.inner.inverse(pixel_unshuffle(z, 2), cond), 2)


def _check(x: Tensor) -> None:
    if x.ndim != 4 or x.shape[2] % 2 or x.shape[3] % 2:
        raise ValueError(f"squeezing needs images (B, C, H, W) of even sides, got {tuple(x.shape)}: use fewer levels")
