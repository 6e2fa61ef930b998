"""The critic of StyleGAN: residual stages that halve the resolution, and how much the rows of a group differ.

Karras et al., 2019, "Analyzing and improving the image quality of StyleGAN", arXiv:1912.04958, section 4.1 and figure
7c. Groups: Karras et al., 2017, arXiv:1710.10196, section 3. Labels by projection: Miyato and Koyama, 2018, "cGANs
with projection discriminator", arXiv:1802.05637.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from gensys.core import Cond
from gensys.nn.embed import LabelEmbedding
from gensys.nn.equalised import GAIN, EqualConv, EqualLinear, leaky, rectified
from gensys.nn.fir import BINOMIAL, Resample
from gensys.nn.mapping import unit
from gensys.nn.stylegan import START, levels_of

__all__ = ["ResidualCritic", "group_deviation"]


def group_deviation(x: Tensor, size: int) -> Tensor:
    """(B, C, H, W) -> (B, 1, H, W): the standard deviation within each group of `size` rows that follow each other,
    the mean over C, H, W. A last group may be smaller.

    Rows that follow each other, not strided ones as in the published code: parts of a batch whose sizes are multiples
    of the group have the groups of the whole.
    """
    if size < 1:
        raise ValueError(f"'size' of a group must be at least 1, got {size}")
    found: list[Tensor] = []
    whole = x.shape[0] // size * size
    for rows, count in ((x[:whole], size), (x[whole:], x.shape[0] - whole)):
        if rows.shape[0]:
            groups = rows.unflatten(0, (-1, count)).float()
            # 1e-8, theirs: the root has a gradient where all rows are equal
            spread = (groups.var(1, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
            found.append(spread.repeat_interleave(count))
    return torch.cat(found)[:, None, None, None].expand(-1, 1, *x.shape[2:]).to(x.dtype)


class _Halving(nn.Module):
    """(B, inputs, side, side) -> (B, outputs, side / 2, side / 2): two convolutions, beside them a linear map.

    The sum of two terms of unit variance is divided by sqrt(2), to be of unit variance again: the second convolution
    has the gain sqrt(2) of its rectifier over this.
    """

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__()
        self.first = EqualConv(inputs, inputs, 3, padding=1, gain=GAIN)
        self.blur = Resample(side, BINOMIAL, padding=(2, 2))  # side + 1, of which stride 2 makes side / 2
        self.second = EqualConv(inputs, outputs, 3, stride=2, gain=GAIN * math.sqrt(0.5))
        self.halve = Resample(side, BINOMIAL, down=2, padding=(1, 1))
        self.skip = EqualConv(inputs, outputs, 1, bias=False, gain=math.sqrt(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return rectified(self.second(self.blur(rectified(self.first(x))))) + self.skip(self.halve(x))


class ResidualCritic(nn.Module):
    """(B, C, side, side) images and their labels -> (B,) scores.

    channels: at each resolution from 4 x 4 on, as many as the generator's. group: rows whose deviation is one feature.
    """

    def __init__(
        self, shape: tuple[int, int, int], channels: Sequence[int], *, classes: int = 0, group: int = 4
    ) -> None:
        super().__init__()
        levels = levels_of(shape)
        if len(channels) != levels + 1:
            raise ValueError(f"'channels' must be {levels + 1} numbers, one a resolution, got {tuple(channels)}")
        self.group, last = group, channels[0]
        self.entry = EqualConv(shape[0], channels[-1], 1, gain=GAIN)
        sides = [START * 2**k for k in range(levels, 0, -1)]
        self.stages = nn.ModuleList(
            _Halving(inputs, outputs, side)
            for side, (inputs, outputs) in zip(sides, pairwise(channels[::-1]), strict=True)
        )
        self.conv = EqualConv(last + 1, last, 3, padding=1, gain=GAIN)
        self.dense = EqualLinear(last * START**2, last)
        self.score = EqualLinear(last, last if classes else 1)
        self.label = LabelEmbedding(classes, last, std=1.0) if classes else None  # see `Mapping`

    def _maps(self, x: Tensor) -> list[Tensor]:
        found = [rectified(self.entry(x))]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return found

    def features(self, x: Tensor) -> list[Tensor]:
        """What the stages make of images, from fine to coarse: each row's its own."""
        return self._maps(x)[1:]

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        y = self._maps(x)[-1]
        y = rectified(self.conv(torch.cat([y, group_deviation(y, self.group)], 1)))
        y = self.score(leaky(self.dense(y.flatten(1)))).float()
        if self.label is None:
            return y[:, 0]
        label = unit(self.label(cond, x.shape[0]))
        return (y * label).sum(1) / math.sqrt(label.shape[1])
