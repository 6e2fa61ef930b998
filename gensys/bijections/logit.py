"""The logit of data in an interval: bounded data have the whole line to lie on, and samples stay in the interval.

Dinh, Sohl-Dickstein and Bengio, 2017, "Density estimation using Real NVP", arXiv:1605.08803, section 4.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gensys.bijections.bijection import Bijection
from gensys.core import Cond

__all__ = ["Logit"]


class Logit(Bijection):
    """z = logit(p), p = margin + (1 - 2 margin) (x - low) / (high - low), element by element.

    low, high: of the data. margin: how far p stays from 0 and 1, so that no value is mapped far out; 0.05 as in the
    paper. Samples may leave [low, high] by margin / (1 - 2 margin) of its length; x beyond that has no image.
    """

    def __init__(self, low: float, high: float, *, margin: float = 0.05) -> None:
        super().__init__()
        if not low < high or not 0 < margin < 0.5:
            raise ValueError(f"'low' must be below 'high' and 'margin' lie in (0, 0.5), got {low}, {high} and {margin}")
        self.low, self.slope, self.margin = low, (1.0 - 2.0 * margin) / (high - low), margin

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        z = torch.logit(self.margin + self.slope * (x - self.low))
        # dz/dx = slope / (p (1 - p)), and log p(1 - p) = logsigmoid(z) + logsigmoid(-z)
        logdet = math.log(self.slope) - logsigmoid(z) - logsigmoid(-z)
        return z, logdet.flatten(1).sum(1)

    def inverse(self, z: Tensor, cond: Cond) -> Tensor:
        return self.low + (torch.sigmoid(z) - self.margin) / self.slope
