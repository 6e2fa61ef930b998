"""A small perceptron over flat vectors: for densities in the plane, tables, and tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gensys.core import Cond
from gensys.nn.embed import Condition
from gensys.nn.linear import Linear

__all__ = ["MLP"]


class MLP(nn.Module):
    """net(x_t, t, cond) on (B, dim): residual-free, SiLU, time, label and vector added to the first hidden layer.

    outputs: features that are returned, dim unless told (2 dim for a learned variance).
    """

    def __init__(
        self,
        dim: int,
        *,
        width: int = 128,
        depth: int = 3,
        classes: int = 0,
        vector: int = 0,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"'width' and 'depth' must be at least 1, got {width} and {depth}")
        self.first = Linear(dim, width)
        self.condition = Condition(width, classes=classes, vector=vector)
        self.hidden = nn.ModuleList(Linear(width, width) for _ in range(depth - 1))
        self.last = Linear(width, outputs or dim)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        x = torch.nn.functional.silu(self.first(x_t) + self.condition(t, cond))
        for layer in self.hidden:
            x = torch.nn.functional.silu(layer(x))
        return self.last(x).to(x_t.dtype)  # float32 also under autocast
