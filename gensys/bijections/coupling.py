"""The affine coupling: one half of the channels says how the other half is scaled and shifted.

Dinh, Sohl-Dickstein and Bengio, 2017, "Density estimation using Real NVP", arXiv:1605.08803, equations 7 and 8
Kingma and Dhariwal, 2018, "Glow: generative flow with invertible 1x1 convolutions", arXiv:1807.03039, section 3.3
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gensys.kernels.affine_coupling import affine_coupling

__all__ = ["AffineCoupling"]


class AffineCoupling(nn.Module):
    """(a, b) -> (a, b exp(log_scale(a)) + t(a)), with log_scale = bound tanh(s / bound) and s, t = net(a).

    a is the first half of the channels of (B, C, *S), rounded down; with `flip` a is the other one, so that two layers
    change everything. net: from a to (B, 2 C_b, *S), C_b the channels of b: first s, then t. It need not be invertible.
    If its last layer starts at zero, as Glow's does, the map starts as the identity. bound: see `affine_coupling`.
    """

    def __init__(self, net: nn.Module, *, bound: float = 2.0, flip: bool = False) -> None:
        super().__init__()
        self.net, self.bound, self.flip = net, bound, flip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(y, logdet); x, y: (B, C, *S), logdet: (B,)."""
        return self._map(x, inverse=False)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(x, logdet) with forward(x) = y; logdet is exactly the negative of forward's."""
        return self._map(y, inverse=True)

    def _map(self, x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        if x.ndim < 2 or x.shape[1] < 2:
            raise ValueError(f"a coupling needs (B, C, *S) with two channels at least, got {tuple(x.shape)}")
        half = x.shape[1] // 2
        a, b = x[:, :half], x[:, half:]
        if self.flip:
            a, b = b, a
        parameters = self.net(a)
        wanted = (b.shape[0], 2 * b.shape[1], *b.shape[2:])
        if parameters.shape != wanted:
            raise ValueError(f"'net' must make {wanted}, s and t, of {tuple(a.shape)}, got {tuple(parameters.shape)}")
        s, t = parameters.to(x.dtype).chunk(2, dim=1)  # autocast lets a network answer in another dtype
        b, logdet = affine_coupling(b, s, t, bound=self.bound, inverse=inverse)
        return torch.cat((b, a) if self.flip else (a, b), dim=1), logdet
