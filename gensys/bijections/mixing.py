"""The invertible 1x1 convolution: a learnt matrix that mixes the channels, kept as its LU decomposition.

    W = P (L + I) (U + diag(exp(log_scale)))         log |det W| = sum of log_scale

Kingma and Dhariwal, 2018, "Glow: generative flow with invertible 1x1 convolutions", arXiv:1807.03039, equation 10.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.linalg import solve_triangular

from gensys.bijections.bijection import Bijection
from gensys.core import Cond

__all__ = ["Mixing"]


class Mixing(Bijection):
    """z = W x at every place of (B, C, *S).

    P is a random permutation, a function of `seed`; L strictly lower, U strictly upper triangular, both begin at 0, so
    that W begins as P. (Glow begins with the decomposition of a random rotation, whose P and signs would have to be
    kept with the weights; here nothing is but what is learnt, and the diagonal is positive.)
    """

    order: Tensor

    def __init__(self, channels: int, *, seed: int = 0) -> None:
        super().__init__()
        order = torch.randperm(channels, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("order", order, persistent=False)
        self.lower = nn.Parameter(torch.zeros(channels, channels))
        self.upper = nn.Parameter(torch.zeros(channels, channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def _factors(self) -> tuple[Tensor, Tensor]:
        """L + I and U + diag(exp(log_scale))."""
        unit = torch.eye(len(self.log_scale), dtype=self.lower.dtype, device=self.lower.device)
        return self.lower.tril(-1) + unit, self.upper.triu(1) + self.log_scale.exp().diag()

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        lower, upper = self._factors()
        with torch.autocast(x.device.type, enabled=False):  # a product in bfloat16 would not be undone by the inverse
            z = ((lower @ upper)[self.order] @ x.reshape(*x.shape[:2], -1)).view(x.shape)
        return z, (self.log_scale.sum() * x[0, 0].numel()).expand(x.shape[0])

    def inverse(self, z: Tensor, cond: Cond) -> Tensor:
        lower, upper = self._factors()
        y = z[:, self.order.argsort()].reshape(*z.shape[:2], -1)
        y = solve_triangular(lower, y, upper=False, unitriangular=True)
        return solve_triangular(upper, y, upper=True).view(z.shape)
