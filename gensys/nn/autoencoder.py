"""Convolutional encoder and decoder: residual stages that halve or double the resolution.

The shape of Rombach et al., 2021, "High-resolution image synthesis with latent diffusion models", arXiv:2112.10752,
appendix G, without attention.
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

__all__ = ["Decoder", "Encoder"]


def _norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with eight groups, or the most that divide the channels if eight do not."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


class Residual(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), with a 1 x 1 convolution where the number of channels changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _norm(inputs),
            nn.SiLU(),
            nn.Conv2d(inputs, outputs, 3, padding=1),
            _norm(outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.body(x)


class Encoder(nn.Module):
    """(B, C, H, W) -> (B, outputs, H / f, W / f), f = patch 2^(len(widths) - 1): one residual block per width.

    patch: pixels are first folded into channels, patch x patch at a time. At full resolution a convolution costs
    patch^2 times as much as after the fold, and small images do not need it.
    """

    def __init__(self, channels: int, outputs: int, widths: tuple[int, ...], patch: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(patch), nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)]
        layers += [Residual(widths[0], widths[0])]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), Residual(after, after)]
        layers += [_norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], outputs, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Decoder(nn.Module):
    """The mirror image: (B, inputs, h, w) -> (B, C, f h, f w)."""

    def __init__(self, channels: int, inputs: int, widths: tuple[int, ...], patch: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(inputs, widths[-1], 3, padding=1), Residual(widths[-1], widths[-1])]
        for before, after in pairwise(reversed(widths)):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1), Residual(after, after)]
        layers += [_norm(widths[0]), nn.SiLU(), nn.Conv2d(widths[0], channels * patch**2, 3, padding=1)]
        layers += [nn.PixelShuffle(patch)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)
