"""What images are compared by in a perceptual distance: a fixed bank of wavelets, or what a trained classifier sees."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gensys.nn.lenet import LeNet

__all__ = ["TrainedFeatures", "Wavelets"]

_FREQUENCY, _SPREAD, _SLANT = 0.75 * math.pi, 0.8, 0.5  # of the wavelets, in pixels: theirs, to a few percent
_SIDE = 7  # of a filter: 3 pixels from its centre the envelope is below 0.001 along and 0.2 across
_SCALES = 3  # the coarsest wave is 11 pixels long: a third of a side of 32
_POOL = 4  # with 2 a shift by a pixel costs a quarter more of what a blur costs: docs/vae.md


class Wavelets(nn.Module):
    """Images (B, C, H, W) -> averages over 4 x 4 places of relu(+-psi_q * x), at three resolutions, halved each time.

        psi_q(u) = exp(-(u_1^2 + u_2^2 / 4) / (2 s^2)) (e^(i xi u_1) - b),     u turned by the angle of q, sum psi_q = 0

    Morlet wavelets of `angles` directions, real and imaginary parts, positive and negative responses apart: a map has
    4 C `angles` channels. The average forgets where nearby a contour lies, so a small shift changes little, while
    contours that are washed out or invented change much. Nothing is learnt. It is blind to a constant that is added,
    which a difference of pixels has to see to. The modulus of the responses, which a scattering transform has, is also
    blind to the sign of an image, and a codec that was trained by it drew strokes darker than their ground.

    The wavelets: Bruna and Mallat, 2012, "Invariant scattering convolution networks", arXiv:1203.1514, section 2.
    """

    filters: Tensor

    def __init__(self, channels: int, angles: int = 4) -> None:
        super().__init__()
        if channels < 1 or angles < 1:
            raise ValueError(f"'channels' and 'angles' must be at least 1, got {channels} and {angles}")
        self.channels, self.angles = channels, angles
        bank = torch.cat([_morlet(math.pi * k / angles) for k in range(angles)])
        self.register_buffer("filters", bank[:, None].repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for k in range(_SCALES):
            x = F.avg_pool2d(x, 2, ceil_mode=True) if k else x
            around = F.pad(x, (_SIDE // 2,) * 4, mode="replicate")  # no border is a contour
            waves = F.conv2d(around, self.filters, groups=self.channels)
            maps.append(F.avg_pool2d(torch.cat([waves.relu(), (-waves).relu()], 1), _POOL, ceil_mode=True))
        return maps


def _morlet(angle: float) -> Tensor:
    """Real and imaginary part of the wavelet, (2, side, side), of norm 1."""
    place = torch.arange(_SIDE, dtype=torch.float64, device="cpu") - _SIDE // 2
    down, right = torch.meshgrid(place, place, indexing="ij")
    along = right * math.cos(angle) + down * math.sin(angle)
    across = down * math.cos(angle) - right * math.sin(angle)
    envelope = torch.exp(-(along.square() + (_SLANT * across).square()) / (2.0 * _SPREAD**2))
    wave = torch.stack([torch.cos(_FREQUENCY * along), torch.sin(_FREQUENCY * along)]) * envelope
    wave[0] -= envelope * wave[0].sum() / envelope.sum()
    return (wave / wave.norm()).float()


class TrainedFeatures(nn.Module):
    """What the convolutions of a trained classifier make of images. It is not trained on, and checkpoints hold it."""

    def __init__(self, net: LeNet) -> None:
        super().__init__()
        self.net = net.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.net.maps(x)
