"""Layers whose weights are kept at unit variance and scaled when used, so that Adam moves all of them alike.

    y = (rate / sqrt(fan in)) W x + rate b,   W ~ N(0, 1) / rate

Karras, Aila, Laine and Lehtinen, 2017, "Progressive growing of GANs for improved quality, stability, and variation",
arXiv:1710.10196, section 4.1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gensys.kernels.linear import linear

__all__ = ["EqualConv", "EqualLinear", "leaky"]

SLOPE = 0.2  # of the leaky rectifier below zero, in all of StyleGAN
GAIN = math.sqrt(2.0)  # about keeps the second moment of a normal input: E leaky(x)^2 = (1 + 0.2^2) / 2


def leaky(x: Tensor) -> Tensor:
    """sqrt(2) max(x, 0.2 x)."""
    return F.leaky_relu(x, SLOPE) * GAIN


class EqualLinear(nn.Module):
    """(*, inputs) -> (*, outputs). rate: multiplies the layer's learning rate. bias: its first value."""

    def __init__(self, inputs: int, outputs: int, *, rate: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.rate, self.scale = rate, rate / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight * self.scale, self.bias * self.rate)


class EqualConv(nn.Module):
    """(B, inputs, H, W) -> (B, outputs, H', W'), kernel x kernel."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale, self.stride, self.padding = 1.0 / math.sqrt(inputs * kernel**2), stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, stride=self.stride, padding=self.padding)
