"""Convolutional encoder and decoder: residual stages that halve or double the resolution.

The shape of Rombach et al., 2021, "High-resolution image synthesis with latent diffusion models", arXiv:2112.10752,
appendix G, without attention.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from gensys.nn.linear import Linear

__all__ = ["Decoder", "Encoder", "Perceptron", "WithScale", "flat_codec"]


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


class Perceptron(nn.Module):
    """(B, inputs) -> (B, outputs): `depth` hidden layers of `width`, SiLU; depth = 0 is a linear map."""

    def __init__(self, inputs: int, outputs: int, *, width: int = 128, depth: int = 2) -> None:
        super().__init__()
        sizes = [inputs, *[width] * depth, outputs]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [Linear(before, after), nn.SiLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class WithScale(nn.Module):
    """A decoder's output, and behind it along dim 1 the logarithm of one learnt scale for all elements."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        mean = self.decoder(z)
        return torch.cat([mean, self.log_scale.to(mean.dtype).expand_as(mean)], 1)


def flat_codec(
    shape: tuple[int, int, int],
    *,
    codes: int,
    latent: int,
    outputs: int,
    widths: tuple[int, ...],
    patch: int,
    channels: int = 8,
) -> tuple[nn.Module, nn.Module]:
    """Encoder (B, C, H, W) -> (B, codes), decoder (B, latent) -> (B, outputs, H, W), with flat latents.

    channels: of the grid of features that a linear layer turns into a vector, and back.
    """
    image, height, width = shape
    factor = patch * 2 ** (len(widths) - 1)
    if height % factor or width % factor:
        raise ValueError(f"'shape' must have sides that are multiples of {factor}, got {shape}")
    grid = (channels, height // factor, width // factor)
    numbers = math.prod(grid)
    encoder = nn.Sequential(Encoder(image, channels, widths, patch), nn.Flatten(), Linear(numbers, codes))
    decoder = nn.Sequential(Linear(latent, numbers), nn.Unflatten(1, grid), Decoder(outputs, channels, widths, patch))
    return encoder, decoder
