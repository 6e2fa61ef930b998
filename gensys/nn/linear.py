"""The linear layer of all networks: torch's, with the product of gensys/kernels/linear.py."""

from __future__ import annotations

from torch import Tensor, nn

from gensys.kernels.linear import linear, linear_gelu

__all__ = ["Linear", "LinearGelu"]


class Linear(nn.Linear):
    """x W^T + b. (*, in) -> (*, out)"""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class LinearGelu(nn.Linear):
    """gelu(x W^T + b), the tanh form. (*, in) -> (*, out)"""

    def forward(self, input: Tensor) -> Tensor:
        return linear_gelu(input, self.weight, self.bias)
