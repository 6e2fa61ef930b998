"""MADE: a perceptron whose weights are masked so that output i depends on inputs before i alone.

Every unit has a degree; the degree of input i is i = 1 .. D. A hidden unit sees units of at most its own degree, an
output of degree i units of a smaller one.

Germain, Gregor, Murray and Larochelle, 2015, "MADE: masked autoencoder for distribution estimation", arXiv:1502.03509,
equations 8 and 9.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from gensys.core import Cond
from gensys.kernels.linear import linear
from gensys.nn.conditioner import context

__all__ = ["MADE"]


class _Masked(nn.Linear):
    """x (mask W)^T + b. mask: (out, in)."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask, persistent=False)  # a function of the sizes

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight * self.mask, self.bias)


def _degrees(lowest: int, highest: int, width: int) -> Tensor:
    """The degrees of a layer's units, (width,), evenly from `lowest` to `highest`: by turns; in equal steps if units
    are fewer than degrees, or only the first elements of long rows would ever be looked at."""
    count = highest - lowest + 1
    if width >= count:
        return lowest + torch.arange(width) % count
    return torch.linspace(lowest, highest, width).round().long()


class MADE(nn.Module):
    """(B, dim) -> (B, count dim): count parameters for each element, first the first one of all of them.

    The condition is added to the first hidden layer. A hidden unit of degree 0 sees it and no element; there are such
    units if there is a condition, as the first element has nothing else to go by. The last layer starts at zero.
    """

    def __init__(
        self, dim: int, count: int, *, width: int = 64, depth: int = 2, classes: int = 0, vector: int = 0
    ) -> None:
        super().__init__()
        self.context = context(width, classes=classes, vector=vector)
        lowest = 0 if self.context is not None or dim == 1 else 1
        inputs = torch.arange(1, dim + 1)
        hidden = _degrees(lowest, dim - 1, width)  # dim - 1 is the largest that is of use
        outputs = inputs.repeat(count)
        self.first = _Masked(hidden[:, None] >= inputs)
        self.hidden = nn.ModuleList(_Masked(hidden[:, None] >= hidden) for _ in range(depth - 1))
        self.last = _Masked(outputs[:, None] > hidden)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        x = self.first(x)
        if self.context is not None:
            x = x + self.context(cond, x.shape[0])
        for layer in self.hidden:
            x = layer(relu(x))
        return self.last(relu(x))
