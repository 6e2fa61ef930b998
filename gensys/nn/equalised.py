"""Layers whose weights are kept at unit variance and scaled when used, so that Adam moves all of them alike.

    y = (rate / sqrt(fan in)) W x + rate b,   W ~ N(0, 1) / rate

Activations of convolutions are large, and every pass over their memory counts: since c max(x, 0.2 x) is that of c x for
c > 0, the gain of a rectifier is had by a gain of the layer before it, of which the weights are few.

Karras, Aila, Laine and Lehtinen, 2017, "Progressive growing of GANs for improved quality, stability, and variation",
arXiv:1710.10196, section 4.1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gensys.kernels.linear import linear

__all__ = ["GAIN", "EqualConv", "EqualLinear", "leaky", "rectified"]

SLOPE = 0.2  # of the leaky rectifier below zero, in all of StyleGAN
GAIN = math.sqrt(2.0)  # about keeps the second moment of a normal input: E leaky(x)^2 = (1 + 0.2^2) / 2


def leaky(x: Tensor) -> Tensor:
    """sqrt(2) max(x, 0.2 x)."""
    return F.leaky_relu(x, SLOPE) * GAIN


def rectified(x: Tensor) -> Tensor:
    """max(x, 0.2 x), for what a layer of the gain sqrt(2) has made."""
    return F.leaky_relu(x, SLOPE)


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
    """(B, inputs, H, W) -> (B, outputs, H', W'), kernel x kernel. gain: of what comes out."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.gain, self.scale = gain, gain / math.sqrt(inputs * kernel**2)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias * self.gain
        return F.conv2d(x, self.weight * self.scale, bias, stride=self.stride, padding=self.padding)
