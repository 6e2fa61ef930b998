"""The alias-free synthesis network of StyleGAN 3: every layer treats its features as samples of band-limited signals.

The input are sine waves, which a style moves and turns; there are no noise inputs. A rectifier makes frequencies that
the grid cannot hold, so it is applied on a grid twice as fine, between two low-pass filters:

    y = down(leaky(up(conv(x))))        filters: Kaiser windows; the last two layers are critically sampled

Karras et al., 2021, "Alias-free generative adversarial networks", arXiv:2106.12423, sections 2 and 3, appendices B and
C. Version T moves with its input, version R (1 x 1 convolutions, filters that are the same in all directions) also
turns with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gensys.nn.equalised import GAIN, EqualLinear, rectified
from gensys.nn.fir import RadialResample, Resample, lowpass, radial_lowpass
from gensys.nn.stylegan import modulated

__all__ = ["AliasFreeLayer", "AliasFreeSynthesis", "Band", "FourierInput", "bands"]

MARGIN = 10  # samples around the image at every resolution, so that its border is not seen
FILTER = 6  # taps of a filter for each sample of the coarser grid


@dataclass(frozen=True)
class Band:
    """What a layer's output is: side: samples, margin included. rate: samples in one side of the image. cutoff,
    half_width: of the low-pass filter, in waves over the image. critical: cutoff at half the rate."""

    side: int
    rate: int
    cutoff: float
    half_width: float
    channels: int
    critical: bool


def bands(
    side: int, channels: int, *, layers: int = 14, critical: int = 2, base: int = 16384, most: int = 512
) -> list[Band]:
    """The outputs of `layers` layers, the image's last (section 3.2, "flexible layer specifications").

    Cutoffs grow geometrically from 2 to half the side, stop bands from 2^2.1 to 2^0.3 times that; both reach their ends
    at the `critical` last layers. channels: of the image. base: channels of a layer = min(base / 2 / cutoff, most).
    """
    if side < 16 or side & (side - 1):
        raise ValueError(f"'side' must be a power of two of at least 16, got {side}")
    if not 0 <= critical < layers:
        raise ValueError(f"'critical' layers must be some of all {layers}, got {critical}")
    found: list[Band] = []
    last = side / 2
    for k in range(layers + 1):
        part = min(k / (layers - critical), 1.0)
        cutoff = 2.0 * (last / 2.0) ** part
        stop = 2.0**2.1 * (last * 2.0**0.3 / 2.0**2.1) ** part
        rate = 2 ** math.ceil(math.log2(min(2.0 * stop, side)) - 1e-9)  # 1e-9: a power of two up to rounding is one
        at_end = k >= layers - 1
        found.append(
            Band(
                side=side if at_end else rate + 2 * MARGIN,
                rate=rate,
                cutoff=cutoff,
                half_width=max(stop, rate / 2) - cutoff,
                channels=channels if k == layers else round(min(base / 2 / cutoff, most)),
                critical=k >= layers - critical,
            )
        )
    return found


class FourierInput(nn.Module):
    """(B, width) style, a shift, a turn -> (B, channels, side, side): sine waves below `bandwidth`, mixed by a matrix.

    The style gives a rotation and a translation, which start as none. rate: samples in one side of the image.
    """

    def __init__(self, channels: int, side: int, rate: int, bandwidth: float, width: int) -> None:
        super().__init__()
        self.side, self.rate, self.bandwidth = side, rate, bandwidth
        # evenly over the disc, by the golden angle; the paper draws them, but what never changes need not be saved
        k = torch.arange(channels, dtype=torch.float64, device="cpu")
        golden = (math.sqrt(5.0) - 1.0) / 2.0
        radius, angle = bandwidth * torch.sqrt((k + 0.5) / channels), 2.0 * math.pi * golden * k
        waves = torch.stack([radius * angle.cos(), radius * angle.sin()], 1).float()
        phases = (k * math.sqrt(2.0)).remainder(1.0).float()  # evenly, and unlike the angles
        self.register_buffer("waves", waves, persistent=False)
        self.register_buffer("phases", phases, persistent=False)
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine = EqualLinear(width, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        place = (torch.arange(side, device="cpu") + 0.5 - side / 2) / rate  # in sides of the image
        self.register_buffer("place", place, persistent=False)

    waves: Tensor
    phases: Tensor
    place: Tensor

    def forward(self, w: Tensor, shift: Tensor | None, turn: Tensor | None = None) -> Tensor:
        cos, sin, x0, y0 = (part[:, None] for part in self._pose(w).unbind(1))
        fx, fy = self.waves.unbind(1)
        gx, gy = cos * fx + sin * fy, cos * fy - sin * fx  # the waves turned, (B, channels)
        phases = self.phases - (fx * x0 + fy * y0)
        if turn is not None:
            c, s = turn.cos()[:, None], turn.sin()[:, None]
            gx, gy = c * gx - s * gy, s * gx + c * gy
        if shift is not None:
            phases = phases - (gx * shift[:, :1] + gy * shift[:, 1:])
        # waves near half the rate fade, where turning moved them there
        room = self.rate / 2 - self.bandwidth
        fade = (1.0 - (torch.hypot(gx, gy) - self.bandwidth) / room).clamp(0.0, 1.0)
        turns = gx[:, :, None, None] * self.place + gy[:, :, None, None] * self.place[:, None]
        x = torch.sin(2.0 * math.pi * (turns + phases[:, :, None, None])) * fade[:, :, None, None]
        mix = self.weight / math.sqrt(self.weight.shape[0])
        return torch.einsum("oc,bchw->bohw", mix, x)

    def _pose(self, w: Tensor) -> Tensor:
        """(B, 4): cosine and sine of a rotation, translation along x and y; a rotation whatever the style says."""
        pose = self.affine(w).float()
        return pose / pose[:, :2].norm(dim=1, keepdim=True)


class AliasFreeLayer(nn.Module):
    """Modulated convolution and filtered rectifier, from one band to another; `exit`: to the image, without either.

    The input is divided by a running root mean square (a buffer): outputs are of about unit variance without
    normalising what belongs to one image. kernel: 3 (version T) or 1 (R). radial: filters, version R's.
    """

    def __init__(
        self, before: Band, after: Band, width: int, *, kernel: int, radial: bool, exit: bool, decay: float = 0.999
    ) -> None:
        super().__init__()
        kernel = 1 if exit else kernel
        self.kernel, self.exit, self.decay = kernel, exit, decay
        self.affine = EqualLinear(width, before.channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(after.channels, before.channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after.channels))
        self.register_buffer("power", torch.ones(()))
        if exit:
            self.up = self.down = None
            return
        fine = 2 * max(before.rate, after.rate)
        up, down = fine // before.rate, fine // after.rate
        rising = lowpass(FILTER * up, before.cutoff, 2 * before.half_width, fine)
        falling_taps = FILTER * down
        side = before.side + kernel - 1  # the convolution is padded by kernel - 1 on both sides
        total = (after.side - 1) * down + 1 - side * up + len(rising) + falling_taps - 2
        first = (total + up) // 2
        self.up = Resample(side, rising, up=up, padding=(first, total - first))
        given = side * up + total - len(rising) + 1
        if radial and not after.critical:
            taps = radial_lowpass(falling_taps, after.cutoff, 2 * after.half_width, fine)
            self.down = RadialResample(taps, down=down)
        else:
            self.down = Resample(given, lowpass(falling_taps, after.cutoff, 2 * after.half_width, fine), down=down)

    power: Tensor

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        gain = self.power.rsqrt()  # of the steps before, so that the parts of a batch are computed with the same
        if self.training:
            with torch.no_grad():
                self.power.lerp_(x.float().square().mean(), 1.0 - self.decay)
        style = self.affine(w)
        if self.exit:
            style = style / math.sqrt(self.weight.shape[1])
            return modulated(x, self.weight, style * gain, demodulate=False) + self.bias[:, None, None]
        x = modulated(x, self.weight, style, padding=self.kernel - 1, gain=GAIN * gain)
        x = x + (GAIN * self.bias)[:, None, None]
        assert self.up is not None
        assert self.down is not None
        return self.down(rectified(self.up(x)))


class AliasFreeSynthesis(nn.Module):
    """Fourier features, `layers` filtered layers, the image. rotations: version R, which has twice the channels."""

    noises = 0

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int,
        *,
        layers: int = 14,
        critical: int = 2,
        base: int = 16384,
        most: int = 512,
        rotations: bool = False,
    ) -> None:
        super().__init__()
        channels, side, other = shape
        if side != other:
            raise ValueError(f"'shape' must be (C, side, side), got {shape}")
        scale = 2 if rotations else 1
        plan = bands(side, channels, layers=layers, critical=critical, base=scale * base, most=scale * most)
        self.input = FourierInput(plan[0].channels, plan[0].side, plan[0].rate, plan[0].cutoff, width)
        befores = [plan[0], *plan[:-1]]
        self.body = nn.ModuleList(
            AliasFreeLayer(before, after, width, kernel=1 if rotations else 3, radial=rotations, exit=after is plan[-1])
            for before, after in zip(befores, plan, strict=True)
        )
        self.layers = len(self.body) + 1  # one style for the input

    def forward(
        self, w: Tensor, eps: Tensor | None = None, shift: Tensor | None = None, turn: Tensor | None = None
    ) -> Tensor:
        """See `Synthesis`. turn: (B,), the angle by which the input is turned about its centre, in radians, from the
        axis to the right towards the one that points down."""
        x = self.input(w[:, 0], shift, turn)
        for k, layer in enumerate(self.body):
            x = layer(x, w[:, k + 1])
        return 0.25 * x  # theirs: images of the range [-1, 1] from features of unit variance
