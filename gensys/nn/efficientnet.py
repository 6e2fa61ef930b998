"""EfficientNet-lite0: a small classifier of ImageNet whose features metrics can use.

    stem 3 x 3, stride 2 -> 16 inverted residual blocks in 7 stages -> 1 x 1 to 1,280 channels -> mean -> classes
    block: 1 x 1 to `expand` times the channels, depthwise k x k, 1 x 1 to `out`; plus its input where that fits

Tan and Le, 2019, "EfficientNet: rethinking model scaling for convolutional neural networks", arXiv:1905.11946, table 1;
lite (Google, 2020) leaves out squeeze-and-excitation and has ReLU6 for swish. Blocks: Sandler et al., 2018,
"MobileNetV2: inverted residuals and linear bottlenecks", arXiv:1801.04381.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["EfficientNetLite0"]

# expand, out, kernel, stride of the first block, blocks
_STAGES = (
    (1, 16, 3, 1, 1),
    (6, 24, 3, 2, 2),
    (6, 40, 5, 2, 2),
    (6, 80, 3, 2, 3),
    (6, 112, 5, 1, 3),
    (6, 192, 5, 2, 4),
    (6, 320, 3, 1, 1),
)
_EPS = 1e-3  # of the normalisations, as trained


def _same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """x with the zeros around it that TensorFlow's "SAME" has: as few as give ceil(side / stride), the odd one last."""

    def around(side: int) -> tuple[int, int]:
        total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
        return total // 2, total - total // 2

    return functional.pad(x, (*around(x.shape[3]), *around(x.shape[2])))


class _Block(nn.Module):
    def __init__(self, channels: int, out: int, expand: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = channels * expand
        self.kernel, self.stride = kernel, stride
        self.skip = stride == 1 and channels == out
        self.expand_conv = nn.Conv2d(channels, wide, 1, bias=False) if expand > 1 else None
        self.bn0 = nn.BatchNorm2d(wide, eps=_EPS) if expand > 1 else None
        self.depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self.bn1 = nn.BatchNorm2d(wide, eps=_EPS)
        self.project_conv = nn.Conv2d(wide, out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expand_conv is not None and self.bn0 is not None:
            y = functional.relu6(self.bn0(self.expand_conv(y)))
        y = functional.relu6(self.bn1(self.depthwise_conv(_same(y, self.kernel, self.stride))))
        y = self.bn2(self.project_conv(y))
        return x + y if self.skip else y


class EfficientNetLite0(nn.Module):
    """Images (B, 3, H, W) of any size, bytes b as (b - 127) / 128 -> logits (B, classes). 4.7 million parameters.

    Trained at 224 x 224 pixels, which take 60 ms of one core an image; 64 x 64 take 5 ms.
    """

    width = 1280
    """The length of a feature vector."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self.bn0 = nn.BatchNorm2d(32, eps=_EPS)
        blocks: list[_Block] = []
        channels = 32
        for expand, out, kernel, stride, repeats in _STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(channels, out, expand, kernel, 1 if repeat else stride))
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.lasts = [block.stride > 1 for block in blocks[1:]] + [False]  # is the next resolution another?
        self.conv_head = nn.Conv2d(channels, self.width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(self.width, eps=_EPS)
        self.fc = nn.Linear(self.width, classes)

    def _outputs(self, x: Tensor) -> Iterator[tuple[Tensor, bool]]:
        """What every block gives, and whether it is the last of its resolution; the last is the head's."""
        x = functional.relu6(self.bn0(self.conv_stem(_same(x, 3, 2))))
        for block, last in zip(self.blocks, self.lasts, strict=True):
            x = block(x)
            yield x, last
        yield functional.relu6(self.bn1(self.conv_head(x))), True

    def maps(self, x: Tensor) -> list[Tensor]:
        """The last feature maps of every resolution: sides of 1/2, 1/4, 1/8, 1/16 and 1/32."""
        return [y for y, last in self._outputs(x) if last]

    def features(self, x: Tensor) -> Tensor:
        """The penultimate layer, (B, 1280): means over all places."""
        *_, (y, _) = self._outputs(x)
        return y.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (B, classes)."""
        return self.fc(self.features(x))
