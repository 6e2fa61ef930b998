"""ActNorm: a scale and a shift for each channel, set so that the first batch leaves with mean 0 and variance 1.

Kingma and Dhariwal, 2018, "Glow: generative flow with invertible 1x1 convolutions", arXiv:1807.03039, section 3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gensys.bijections.bijection import Bijection
from gensys.core import Cond

__all__ = ["ActNorm"]


class ActNorm(Bijection):
    """z = (x - shift) exp(log_scale), one pair for each channel of (B, C, *S).

    The first batch of more than one row that is seen in training mode sets both; from then on they are parameters as
    others are. `seen` is a buffer, so that a resumed run does not set them again. floor: the smallest standard
    deviation that is taken from data: a channel that is constant in the first batch would get an infinite scale.
    """

    seen: Tensor

    def __init__(self, channels: int, *, floor: float = 1e-3) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.floor = floor
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        if self.training and not self.seen and x.shape[0] > 1:
            self._look(x)
        places = x[0, 0].numel()
        logdet = (self.log_scale.sum() * places).expand(x.shape[0])
        return (x - self._of(self.shift, x)) * self._of(self.log_scale, x).exp(), logdet

    def inverse(self, z: Tensor, cond: Cond) -> Tensor:
        return z * (-self._of(self.log_scale, z)).exp() + self._of(self.shift, z)

    @torch.no_grad()
    def _look(self, x: Tensor) -> None:
        values = x.transpose(0, 1).flatten(1)
        self.shift.copy_(values.mean(1))
        self.log_scale.copy_(-values.std(1, correction=0).clamp(min=self.floor).log())
        self.seen.fill_(True)

    @staticmethod
    def _of(values: Tensor, x: Tensor) -> Tensor:
        """(C,) -> (1, C, 1, ...), to go with x."""
        return values.view(1, -1, *[1] * (x.ndim - 2))
