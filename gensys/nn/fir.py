"""Finite impulse response filters: low-pass filters by the Kaiser window, and resampling of images with them.

A signal is put on a finer grid (zeros between its samples), filtered, and taken at every `down`-th place. Along one
axis of a given size that is a band matrix: images are resampled by two matrix products, a row and a column one.

Sources: Kaiser, 1974, "Nonrecursive digital filter design using the I0-sinh window function"; its use in generators:
Karras et al., 2021, "Alias-free generative adversarial networks", arXiv:2106.12423, section 3.2 and appendix C.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BINOMIAL", "RadialResample", "Resample", "kaiser_beta", "lowpass", "radial_lowpass"]

BINOMIAL = torch.tensor([1.0, 3.0, 3.0, 1.0], device="cpu") / 8.0  # the blur of StyleGAN 1 and 2


def kaiser_beta(taps: int, width: float) -> float:
    """The window's parameter for a filter of so many taps whose transition band is `width` wide (1 = half the rate).

    Attenuation A = 2.285 (taps - 1) pi width + 7.95 decibels, and Kaiser's empirical beta(A).
    """
    attenuation = 2.285 * (taps - 1) * math.pi * width + 7.95
    if attenuation > 50.0:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21.0:
        return 0.5842 * (attenuation - 21.0) ** 0.4 + 0.07886 * (attenuation - 21.0)
    return 0.0


def _check(taps: int, cutoff: float, width: float, rate: float) -> None:
    if taps < 2:
        raise ValueError(f"'taps' must be at least 2, got {taps}")
    if not 0.0 < cutoff < rate / 2:
        raise ValueError(f"'cutoff' must lie between 0 and half the rate ({rate / 2:g}), got {cutoff:g}")
    if not width > 0.0:
        raise ValueError(f"'width', of the transition band, must be positive, got {width:g}")


def _window(taps: int, width: float, rate: float) -> Tensor:
    beta = kaiser_beta(taps, width / (rate / 2))
    return torch.kaiser_window(taps, periodic=False, beta=beta, dtype=torch.float64, device="cpu")


def lowpass(taps: int, cutoff: float, width: float, rate: float) -> Tensor:
    """A windowed sinc of gain 1 at frequency 0, (taps,) float64. All frequencies in the unit of `rate`, the sampling
    rate. width: of the transition band, with the cutoff (amplitude 1/2) in its middle."""
    _check(taps, cutoff, width, rate)
    place = torch.arange(taps, dtype=torch.float64, device="cpu") - (taps - 1) / 2
    kernel = torch.sinc(2.0 * cutoff / rate * place) * _window(taps, width, rate)
    return kernel / kernel.sum()


def radial_lowpass(taps: int, cutoff: float, width: float, rate: float) -> Tensor:
    """The filter of two dimensions that is the same in all directions, (taps, taps) float64: a windowed jinc.

    The inverse Fourier transform of a disc of radius f_c is f_c J_1(2 pi f_c r) / r (appendix C, equation 8).
    """
    _check(taps, cutoff, width, rate)
    place = (torch.arange(taps, dtype=torch.float64, device="cpu") - (taps - 1) / 2) / rate
    radius = torch.hypot(place[:, None], place[None, :])
    disc = cutoff * torch.special.bessel_j1(2.0 * math.pi * cutoff * radius) / radius
    window = _window(taps, width, rate)
    # an odd filter has a tap in its centre, where the limit of J_1(a r) / r is a / 2
    kernel = torch.where(radius == 0.0, math.pi * cutoff**2, disc) * window[:, None] * window[None, :]
    return kernel / kernel.sum()


def _matrix(size: int, taps: Tensor, up: int, down: int, before: int, after: int) -> Tensor:
    """M[i, j] = up taps[before + j up - i down], (outputs, size): `up` keeps the signal's mean."""
    outputs = (size * up + before + after - len(taps)) // down + 1
    if outputs < 1:
        raise ValueError(f"'taps' ({len(taps)}) must fit the padded signal of {size * up + before + after} samples")
    rows, columns = (torch.arange(n, device="cpu")[:, None] for n in (outputs, size))
    place = before + columns.T * up - rows * down
    inside = (place >= 0) & (place < len(taps))
    return torch.where(inside, taps[place.clamp(0, len(taps) - 1)] * up, 0.0).float()


class Resample(nn.Module):
    """(B, C, size, size) -> zeros put in (`up`), padded, filtered by symmetric taps along both axes, every `down`-th
    sample taken. padding: samples of the fine grid before and after; negative ones are cut off."""

    def __init__(
        self, size: int, taps: Tensor, *, up: int = 1, down: int = 1, padding: tuple[int, int] = (0, 0)
    ) -> None:
        super().__init__()
        self.register_buffer("matrix", _matrix(size, taps, up, down, *padding), persistent=False)

    matrix: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix @ (x @ self.matrix.T)


class RadialResample(nn.Module):
    """As `Resample` without zeros put in, by taps (n, n) that are no product of two filters."""

    def __init__(self, taps: Tensor, *, down: int = 1, padding: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.down, self.padding = down, padding
        self.register_buffer("taps", taps.float()[None, None], persistent=False)

    taps: Tensor

    def forward(self, x: Tensor) -> Tensor:
        rows, channels = x.shape[:2]
        planes = F.pad(x.flatten(0, 1)[:, None], self.padding * 2)
        return F.conv2d(planes, self.taps, stride=self.down)[:, 0].unflatten(0, (rows, channels))
