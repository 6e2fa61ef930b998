"""Inception-v3 as the Frechet inception distance and the inception score have it: a graph of 2015 that was ported.

Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, 2015, "Rethinking the inception architecture for computer vision",
arXiv:1512.00567, with what is different in the published graph ("inception-2015-12-05", Heusel et al., 2017,
arXiv:1706.08500): 1,008 classes; means that do not count the zeros around a map; a maximum in place of the mean in the
last block; images resized by TensorFlow 1's bilinear rule. No figure is an FID with other weights, or another resize.

The names of the parameters are those of the ports, pytorch-fid (M. Seitzer) and torch-fidelity (A. Obukhov).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["InceptionV3"]

_SIDE = 299

# One convolution: the end of its name, channels, kernel (height, width), stride.
_Spec = tuple[str, int, tuple[int, int], int]
# A branch: steps one after another, each a convolution, or two side by side, which both take what came before.
_Step = list[_Spec]
_Branch = list[_Step]
_Pool = Literal["mean", "maximum", "shrink"]


def _conv(name: str, channels: int, height: int = 1, width: int | None = None, stride: int = 1) -> _Step:
    return [(name, channels, (height, height if width is None else width), stride)]


class _Conv(nn.Module):
    """Convolution, normalisation, ReLU. Zeros around keep the size, unless it shrinks or is told not to."""

    def __init__(self, channels: int, out: int, kernel: tuple[int, int], stride: int = 1, *, keep: bool = True) -> None:
        super().__init__()
        around = (kernel[0] // 2, kernel[1] // 2) if keep and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(channels, out, kernel, stride, around, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)  # as trained

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class _Mixed(nn.Module):
    """Branches side by side, their channels one after another; the last is a pool."""

    def __init__(self, channels: int, branches: list[_Branch], pool: _Pool, pooled: int = 0) -> None:
        super().__init__()
        self.pool: _Pool = pool
        self.branches: list[list[list[str]]] = []
        self.out = pooled or channels
        for branch in branches:
            width, names = channels, []
            for step in branch:
                for name, out, kernel, stride in step:
                    self.add_module(name, _Conv(width, out, kernel, stride))
                names.append([spec[0] for spec in step])
                width = sum(spec[1] for spec in step)
            self.branches.append(names)
            self.out += width
        self.branch_pool = _Conv(channels, pooled, (1, 1)) if pooled else None

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for branch in self.branches:
            y = x
            for names in branch:
                y = torch.cat([self.get_submodule(name)(y) for name in names], 1)
            outputs.append(y)
        if self.pool == "mean":
            y = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        elif self.pool == "maximum":
            y = functional.max_pool2d(x, 3, 1, 1)
        else:
            y = functional.max_pool2d(x, 3, 2)
        return torch.cat([*outputs, y if self.branch_pool is None else self.branch_pool(y)], 1)


def _a(channels: int, pooled: int) -> _Mixed:
    fives: _Branch = [_conv("branch5x5_1", 48), _conv("branch5x5_2", 64, 5)]
    threes: _Branch = [
        _conv("branch3x3dbl_1", 64),
        _conv("branch3x3dbl_2", 96, 3),
        _conv("branch3x3dbl_3", 96, 3),
    ]
    return _Mixed(channels, [[_conv("branch1x1", 64)], fives, threes], "mean", pooled)


def _b(channels: int) -> _Mixed:
    threes: _Branch = [
        _conv("branch3x3dbl_1", 64),
        _conv("branch3x3dbl_2", 96, 3),
        _conv("branch3x3dbl_3", 96, 3, stride=2),
    ]
    return _Mixed(channels, [[_conv("branch3x3", 384, 3, stride=2)], threes], "shrink")


def _c(channels: int, inner: int) -> _Mixed:
    once: _Branch = [
        _conv("branch7x7_1", inner),
        _conv("branch7x7_2", inner, 1, 7),
        _conv("branch7x7_3", 192, 7, 1),
    ]
    twice: _Branch = [
        _conv("branch7x7dbl_1", inner),
        _conv("branch7x7dbl_2", inner, 7, 1),
        _conv("branch7x7dbl_3", inner, 1, 7),
        _conv("branch7x7dbl_4", inner, 7, 1),
        _conv("branch7x7dbl_5", 192, 1, 7),
    ]
    return _Mixed(channels, [[_conv("branch1x1", 192)], once, twice], "mean", 192)


def _d(channels: int) -> _Mixed:
    threes: _Branch = [_conv("branch3x3_1", 192), _conv("branch3x3_2", 320, 3, stride=2)]
    sevens: _Branch = [
        _conv("branch7x7x3_1", 192),
        _conv("branch7x7x3_2", 192, 1, 7),
        _conv("branch7x7x3_3", 192, 7, 1),
        _conv("branch7x7x3_4", 192, 3, stride=2),
    ]
    return _Mixed(channels, [threes, sevens], "shrink")


def _e(channels: int, pool: _Pool) -> _Mixed:
    once: _Branch = [
        _conv("branch3x3_1", 384),
        _conv("branch3x3_2a", 384, 1, 3) + _conv("branch3x3_2b", 384, 3, 1),
    ]
    twice: _Branch = [
        _conv("branch3x3dbl_1", 448),
        _conv("branch3x3dbl_2", 384, 3),
        _conv("branch3x3dbl_3a", 384, 1, 3) + _conv("branch3x3dbl_3b", 384, 3, 1),
    ]
    return _Mixed(channels, [[_conv("branch1x1", 320)], once, twice], pool, 192)


def _tensorflow_bilinear(x: Tensor, side: int) -> Tensor:
    """x (B, C, H, W) resized to side x side as TensorFlow 1 did: the result's pixel k is at k H / side in the source,
    corner on corner, and beyond the last pixel is the last pixel."""
    for dim in (2, 3):
        n = x.shape[dim]
        at = torch.arange(side, dtype=x.dtype, device=x.device) * torch.tensor(n / side, dtype=torch.float32)
        low = at.long().clamp_max(n - 1)
        high = (low + 1).clamp_max(n - 1)
        weight = (at - low).view(-1, 1) if dim == 2 else at - low
        first = x.index_select(dim, low)
        x = first + (x.index_select(dim, high) - first) * weight
    return x


class InceptionV3(nn.Module):
    """Images (B, 3, H, W), values 0 to 255, of any size -> logits (B, 1008). 24 million parameters."""

    width = 2048
    """The length of a feature vector."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, (3, 3), 2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, (3, 3), keep=False)
        self.Conv2d_2b_3x3 = _Conv(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = _Conv(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = _Conv(80, 192, (3, 3), keep=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a = _b(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d = _c(768, 128), _c(768, 160), _c(768, 160)
        self.Mixed_6e = _c(768, 192)
        self.Mixed_7a = _d(768)
        self.Mixed_7b, self.Mixed_7c = _e(1280, "mean"), _e(2048, "maximum")
        self.fc = nn.Linear(self.width, 1008)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Feature maps of 64, 192, 768 and 2,048 channels: after the two pools, before and after the last three blocks.

        Images of 299 x 299 are taken as they are.
        """
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"'x' must have shape (B, 3, H, W), got {tuple(x.shape)}; repeat a grey channel")
        x = (_tensorflow_bilinear(x.float(), _SIDE) - 128.0) / 128.0
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        first = functional.max_pool2d(x, 3, 2)
        second = functional.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(first)), 3, 2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(second)))
        third = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return [first, second, third, self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(third)))]

    def features(self, x: Tensor) -> Tensor:
        """The penultimate layer, (B, 2048): means over all places."""
        return self.maps(x)[-1].mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (B, 1008), without the bias of the last layer, as published inception scores have them."""
        return self.features(x) @ self.fc.weight.T
