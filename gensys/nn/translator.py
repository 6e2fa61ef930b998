"""Networks of translators between domains of images: residual generators, critics of patches, a network for each label.

    generator   7x7 convolution, `halvings` strided ones, `blocks` residual blocks, as many transposed ones, 7x7, tanh
    critic      4x4 convolutions, `halvings` strided ones and two more: a map of scores, each of one patch of the image

with instance normalisation (every channel of every image by itself), and the borders of images reflected. A patch has
16, 34 or 70 pixels a side for 1, 2 or 3 halvings; the paper's is 70 of 256 pixels.

Zhu, Park, Isola and Efros, 2017, "Unpaired image-to-image translation using cycle-consistent adversarial networks",
arXiv:1703.10593, section 4 and appendix 7.2; the generator after Johnson, Alahi and Fei-Fei, 2016, "Perceptual losses
for real-time style transfer and super-resolution", arXiv:1603.08155, the critic after Isola et al., 2016,
"Image-to-image translation with conditional adversarial networks", arXiv:1611.07004.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from gensys.core import Cond
from gensys.noise import Noise

__all__ = ["PerLabel", "Translator", "patch_critic", "residual_generator"]

_SLOPE = 0.2  # of the critic's leaky rectifiers: theirs
_SPREAD = 0.02  # standard deviation of all weights at first: theirs


class PerLabel(nn.Module):
    """(x, cond) -> what the network of its label makes of each row: nets[cond["label"][b]](x[b])."""

    def __init__(self, nets: Iterable[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    @property
    def taken(self) -> frozenset[str]:
        return frozenset({"label"})

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        label = cond.get("label")
        if label is None or label.shape != x.shape[:1] or bool(((label < 0) | (label >= len(self.nets))).any()):
            told = "nothing" if label is None else f"{tuple(label.shape)}, {label.unique().tolist()}"
            raise ValueError(f"cond['label'] must be {x.shape[0]} numbers in [0, {len(self.nets)}), got {told}")
        order = label.argsort(stable=True)
        counts = label.bincount(minlength=len(self.nets)).tolist()
        # a network without rows computes as well: its weights then have a gradient, of zero
        made = torch.cat([net(rows) for net, rows in zip(self.nets, x[order].split(counts), strict=True)])
        return made[order.argsort()].to(x.dtype)  # float32 also under autocast


class Translator(nn.Module):
    """(z, cond, noise) -> cond["image"] (B, *S) as the domain cond["label"] would have it, (B, *S).

    nets: one for each label. z (B, 0) and noise are not used: a translation is a function of the image.
    """

    def __init__(self, nets: Iterable[nn.Module]) -> None:
        super().__init__()
        self.into = PerLabel(nets)

    @property
    def taken(self) -> frozenset[str]:
        return frozenset({"image", "label"})

    def forward(self, z: Tensor, cond: Cond, noise: Noise) -> Tensor:
        image = cond.get("image")
        if image is None or image.shape[0] != z.shape[0]:
            told = "nothing" if image is None else f"{image.shape[0]}"
            raise ValueError(f"cond['image'] must be {z.shape[0]} images, which are translated, got {told}")
        return self.into(image, cond)


class _Residual(nn.Module):
    """x + f(x): two 3x3 convolutions, each with its normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_convolution(width, width, 3, 1), nn.ReLU(), *_convolution(width, width, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def residual_generator(shape: tuple[int, ...], *, width: int = 64, halvings: int = 2, blocks: int = 6) -> nn.Module:
    """An untrained network, images of `shape` (C, H, W) -> such images in [-1, 1].

    width: channels at the full resolution, doubled with each of `halvings`. blocks: at the lowest resolution; theirs
    are 6 for 128 pixels and 9 for 256.
    """
    side = 2**halvings
    # a reflected border of 3 needs 4 pixels, and a channel of one pixel would be normalised to nothing
    if len(shape) != 3 or halvings < 0 or any(n % side or n < max(4, 2 * side) for n in shape[1:]):
        raise ValueError(
            f"images of shape {shape} cannot be halved {halvings} times: their sides must be multiples of {side}, and "
            f"at least {max(4, 2 * side)}"
        )
    if width < 1 or blocks < 0:
        raise ValueError(f"'width' must be at least 1 and 'blocks' not negative, got {width} and {blocks}")
    widths = [width * 2**k for k in range(halvings + 1)]
    layers: list[nn.Module] = [*_convolution(shape[0], width, 7, 1), nn.ReLU()]
    for before, after in pairwise(widths):
        layers += [*_convolution(before, after, 3, 2), nn.ReLU()]
    layers += [_Residual(widths[-1]) for _ in range(blocks)]
    for before, after in pairwise(reversed(widths)):
        up = nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1, bias=False)
        layers += [up, _norm(after), nn.ReLU()]
    last = nn.Conv2d(width, shape[0], 7, padding=3, padding_mode="reflect")
    return _initial(nn.Sequential(*layers, last, nn.Tanh()))


def patch_critic(shape: tuple[int, ...], *, width: int = 64, halvings: int = 3) -> nn.Module:
    """An untrained network, images of `shape` (C, H, W) -> a map of scores (B, 1, H', W'), one for each patch.

    width: channels after the first convolution, doubled with each further one, up to 8 times as many.
    """
    least = 4 * 2**halvings  # the last two convolutions take a pixel each: 2 x 2 scores and features are left
    if len(shape) != 3 or halvings < 1 or min(shape[1:]) < least:
        raise ValueError(
            f"images of shape {shape} are too small for a critic that halves them {halvings} times: it must halve at "
            f"least once, and the sides must be at least {least}"
        )
    widths = [width * min(8, 2**k) for k in range(halvings + 1)]
    layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 4, stride=2, padding=1), nn.LeakyReLU(_SLOPE)]
    for k, (before, after) in enumerate(pairwise(widths)):
        stride = 2 if k < halvings - 1 else 1
        layers += [
            nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=False),
            _norm(after),
            nn.LeakyReLU(_SLOPE),
        ]
    return _initial(nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1)))


def _convolution(before: int, after: int, side: int, stride: int) -> tuple[nn.Module, nn.Module]:
    """With a reflected border, and normalised: an offset before that would change nothing."""
    padding = side // 2
    mode = "reflect" if stride == 1 else "zeros"  # theirs
    convolution = nn.Conv2d(before, after, side, stride=stride, padding=padding, padding_mode=mode, bias=False)
    return convolution, _norm(after)


def _norm(channels: int) -> nn.GroupNorm:
    """Instance normalisation is that of groups of one channel."""
    return nn.GroupNorm(channels, channels, affine=False)


def _initial(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=_SPREAD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net
