"""Synthesis networks of StyleGAN 1 and 2: a learned constant grows to an image, each layer following a style.

Version 1 sets the statistics of every feature map (AdaIN), version 2 the weights that make it:

    AdaIN     y_i = (1 + a_i) (x_i - mean(x_i)) / std(x_i) + b_i
    modulate  W' = s_i W_oik / sqrt(sum over i, k of (s_i W_oik)^2 + 1e-8)

Version 1: Karras, Laine and Aila, 2018, "A style-based generator architecture for generative adversarial networks",
arXiv:1812.04948, section 2 (here all resolutions are trained at once). Version 2: Karras et al., 2019, "Analyzing and
improving the image quality of StyleGAN", arXiv:1912.04958, sections 2 and 4.1 (skip generator).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gensys.nn.equalised import GAIN, EqualLinear, rectified
from gensys.nn.fir import BINOMIAL, Resample

__all__ = [
    "AdaptiveLayer",
    "Constant",
    "ModulatedLayer",
    "StyleSynthesis",
    "ToImage",
    "levels_of",
    "modulated",
    "pyramid",
]

START = 4  # side of the learned constant


def levels_of(shape: Sequence[int]) -> int:
    """How often 4 x 4 is doubled to the image's side. Raises ValueError where it never comes there."""
    side = shape[-1]
    levels = round(math.log2(side / START)) if side >= START else -1
    if len(shape) != 3 or shape[1] != side or levels < 0 or START * 2**levels != side:
        raise ValueError(f"'shape' must be (C, side, side), side = 4, 8, 16, ..., got {tuple(shape)}")
    return levels


def pyramid(shape: Sequence[int], finest: int, most: int) -> tuple[int, ...]:
    """Channels at each resolution from 4 x 4 on: `finest` at the image's, doubled at each half, `most` at most."""
    levels = levels_of(shape)
    return tuple(min(finest * 2 ** (levels - k), most) for k in range(levels + 1))


def modulated(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool = True,
    up: bool = False,
    padding: int | None = None,
    gain: float | Tensor = 1.0,
) -> Tensor:
    """Convolve every row with weights of its own, style_i W_oik: (B, I, H, W) -> (B, O, H', W').

    weight: (O, I, k, k). style: (B, I). Instead of B convolutions the input is scaled by the style and, with
    `demodulate`, the output by 1 / sqrt(sum of squares of its weights): the same product. up: a transposed convolution
    of stride 2, without padding: 2 H + 1. gain: of demodulated outputs, a number.
    """
    padding = weight.shape[-1] // 2 if padding is None else padding
    x = x * style[:, :, None, None]
    x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2) if up else F.conv2d(x, weight, padding=padding)
    if not demodulate:
        return x
    power = style.square() @ weight.square().sum((2, 3)).T
    return x * (gain * (power + 1e-8).rsqrt())[:, :, None, None]


class _Styled(nn.Module):
    """What the layers of both versions have: doubling with a blur, noise of a learned strength, bias, rectifier."""

    def __init__(self, inputs: int, outputs: int, side: int, *, up: bool, texture: bool) -> None:
        super().__init__()
        self.up, self.side = up, side
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.strength = nn.Parameter(torch.zeros(1)) if texture else None
        # the transposed convolution gives side + 1; a gain of 2 an axis makes up for the zeros that stride 2 puts in
        self.blur = Resample(side + 1, 2.0 * BINOMIAL, padding=(1, 1)) if up else None

    def _finish(self, x: Tensor, eps: Tensor | None) -> Tensor:
        """x: with the rectifier's gain."""
        x = x if self.blur is None else self.blur(x)
        if eps is not None and self.strength is not None:
            x = x + (GAIN * self.strength) * eps.view(-1, 1, self.side, self.side)
        return rectified(x + (GAIN * self.bias)[:, None, None])


class ModulatedLayer(_Styled):
    """Version 2. (B, inputs, h, h) -> (B, outputs, side, side), h = side or half of it (`up`)."""

    def __init__(self, inputs: int, outputs: int, side: int, width: int, *, up: bool, texture: bool = True) -> None:
        super().__init__(inputs, outputs, side, up=up, texture=texture)
        self.affine = EqualLinear(width, inputs, bias=1.0)

    def forward(self, x: Tensor, w: Tensor, eps: Tensor | None) -> Tensor:
        return self._finish(modulated(x, self.weight, self.affine(w), up=self.up, gain=GAIN), eps)


class AdaptiveLayer(_Styled):
    """Version 1: convolution, noise, rectifier, then AdaIN."""

    def __init__(self, inputs: int, outputs: int, side: int, width: int, *, up: bool, texture: bool = True) -> None:
        super().__init__(inputs, outputs, side, up=up, texture=texture)
        self.affine = EqualLinear(width, 2 * outputs)
        self.scale = GAIN / math.sqrt(inputs * 9)

    def forward(self, x: Tensor, w: Tensor, eps: Tensor | None) -> Tensor:
        weight = self.weight * self.scale
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2) if self.up else F.conv2d(x, weight, padding=1)
        x = self._finish(x, eps)
        x = x - x.mean((2, 3), keepdim=True)
        x = x * (x.square().mean((2, 3), keepdim=True) + 1e-8).rsqrt()  # 1e-8: theirs
        gain, offset = self.affine(w)[:, :, None, None].chunk(2, 1)
        return (1.0 + gain) * x + offset


class ToImage(nn.Module):
    """A modulated 1 x 1 convolution to the image's channels, not demodulated: (B, inputs, H, W) -> (B, C, H, W)."""

    def __init__(self, inputs: int, channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.affine = EqualLinear(width, inputs, bias=1.0)
        self.scale = 1.0 / math.sqrt(inputs)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = modulated(x, self.weight, self.affine(w) * self.scale, demodulate=False)
        return x + self.bias[:, None, None]


class Constant(nn.Module):
    """The learned input, (B, channels, 4, 4). Moved by a shift as the periodic band-limited signal that it samples."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.randn(channels, START, START))

    def forward(self, w: Tensor, shift: Tensor | None) -> Tensor:
        if shift is None:
            return self.value.expand(w.shape[0], -1, -1, -1)
        turns = torch.fft.fftfreq(START, 1.0 / START, device=w.device)  # waves over the image
        phase_x, phase_y = (torch.exp(-2j * math.pi * part[:, None] * turns) for part in shift.unbind(1))
        moved = torch.fft.fft2(self.value)[None] * phase_y[:, None, :, None] * phase_x[:, None, None, :]
        return torch.fft.ifft2(moved).real


class StyleSynthesis(nn.Module):
    """Doubles 4 x 4 up to the image: two layers a resolution (one at 4 x 4), each with a style and noise of its own.

    channels: at each resolution from 4 x 4 on; as many as `levels_of(shape)` + 1. skip: images of all resolutions are
    made, doubled and added (version 2); else one of the last features (version 1). layer: of either version. texture:
    whether layers have noise inputs.
    input: (w of the first layer, shift) -> (B, channels[0], 4, 4); None = a learned constant.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int,
        channels: Sequence[int],
        *,
        layer: type[ModulatedLayer] | type[AdaptiveLayer] = ModulatedLayer,
        skip: bool = True,
        texture: bool = True,
        input: nn.Module | None = None,
    ) -> None:
        super().__init__()
        levels = levels_of(shape)
        if len(channels) != levels + 1:
            raise ValueError(f"'channels' must be {levels + 1} numbers, one a resolution, got {tuple(channels)}")
        self.input = Constant(channels[0]) if input is None else input
        sides = [START * 2**k for k in range(levels + 1)]
        self.body = nn.ModuleList([layer(channels[0], channels[0], START, width, up=False, texture=texture)])
        for k in range(1, levels + 1):
            self.body.append(layer(channels[k - 1], channels[k], sides[k], width, up=True, texture=texture))
            self.body.append(layer(channels[k], channels[k], sides[k], width, up=False, texture=texture))
        exits = channels if skip else channels[-1:]
        self.exits = nn.ModuleList(ToImage(inputs, shape[0], width) for inputs in exits)
        self.doubles = nn.ModuleList(
            Resample(side, BINOMIAL, up=2, padding=(2, 1)) for side in (sides[:-1] if skip else [])
        )
        self.sides = [side for k, side in enumerate(sides) for _ in range(2 if k else 1)]
        self.ends = range(0 if skip else 2 * levels, 2 * levels + 1, 2)  # the layers that an exit comes behind
        self.layers = 2 * levels + 2  # the exit of a resolution shares the style of the layer that comes next
        self.noises = sum(side**2 for side in self.sides) if texture else 0

    def forward(self, w: Tensor, eps: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        sizes = [side**2 for side in self.sides]
        noises = [None] * len(sizes) if eps is None else eps.split(sizes, 1)
        x = self.input(w[:, 0], shift)
        exits, doubles = iter(self.exits), iter(self.doubles)
        image: Tensor | None = None
        for k, (layer, noise) in enumerate(zip(self.body, noises, strict=True)):
            x = layer(x, w[:, k], noise)
            if k in self.ends:
                made = next(exits)(x, w[:, k + 1])
                image = made if image is None else next(doubles)(image) + made
        assert image is not None  # the last layer is an end
        return image
