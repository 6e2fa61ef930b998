"""Monotone maps of single numbers, whose parameters a network gives: what couplings and autoregressive maps apply.

    additive   z = x + t                        NICE: Dinh, Krueger and Bengio, 2014, arXiv:1410.8516, section 3.2
    affine     z = x exp(log_scale) + t         Real NVP: Dinh et al., 2017, arXiv:1605.08803, equation 7
    spline     gensys/bijections/spline.py

Parameters of zero make the identity, so that a network whose last layer begins at zero begins as the identity, and what
a mask leaves as it is has its parameters set to zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from gensys.kernels.affine_coupling import affine_coupling

__all__ = ["Additive", "Affine", "Transform"]


class Transform(Protocol):
    """x: (B, *S), parameters: (B, count, *S) -> (z, log |dz/dx| summed over each row, (B,)); inverse: the way back."""

    @property
    def count(self) -> int:
        """How many parameters an element has."""
        ...

    def __call__(self, x: Tensor, parameters: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Additive:
    """z = x + t: volume is kept."""

    count: int = 1

    def __call__(self, x: Tensor, parameters: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        t = parameters[:, 0]
        return (x - t if inverse else x + t), x.new_zeros(x.shape[0])


@dataclass(frozen=True)
class Affine:
    """z = x exp(bound tanh(s / bound)) + t, parameters (s, t), by the fused kernel."""

    bound: float = 2.0
    count: int = 2

    def __call__(self, x: Tensor, parameters: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        s, t = parameters.unbind(1)
        return affine_coupling(x, s, t, bound=self.bound, inverse=inverse)
