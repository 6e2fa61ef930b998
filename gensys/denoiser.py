"""A denoiser: a network, the path it was trained on and the target it outputs, seen as one function to (x, eps)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gensys.core import Cond
from gensys.paths import Path, expand
from gensys.targets import Prediction, Target, recover

__all__ = ["Denoiser"]


class Denoiser(nn.Module):
    """net(x_t, t, cond) -> a(t) x + b(t) eps, of the shape of x_t. x_t: (B, *S); t: (B,), on the path's clock."""

    def __init__(self, net: nn.Module, path: Path, target: Target) -> None:
        super().__init__()
        self.net = net
        self.path = path
        self.target = target

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The raw output of the network, (B, *S)."""
        return self.net(x_t, t, cond)

    def predict(self, x_t: Tensor, t: float, cond: Cond) -> Prediction:
        """(x, eps) at one time for all rows, (B, *S) each."""
        times = torch.full((x_t.shape[0],), t, dtype=x_t.dtype, device=x_t.device)
        return recover(self.path(t), self.target, x_t, self(x_t, times, cond))

    def along(self, x: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_t, the target of the network) for data, noise and times (B,)."""
        c = self.path(expand(t, x))
        a, b = self.target(c)
        return c.alpha * x + c.sigma * eps, a * x + b * eps
