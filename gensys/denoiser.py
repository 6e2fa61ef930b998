"""A denoiser: a network, the path it was trained on and the target it outputs, seen as one function to (x, eps)."""

from __future__ import annotations

from torch import Tensor, nn

from gensys.core import Cond
from gensys.paths import Path, expand
from gensys.targets import Target

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

    def along(self, x: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_t, the target of the network) for data, noise and times (B,)."""
        c = self.path(expand(t, x))
        a, b = self.target(c)
        return c.alpha * x + c.sigma * eps, a * x + b * eps
