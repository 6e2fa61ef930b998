"""Generators and critics of adversarial models: strided convolutions for images, perceptrons for vectors.

After Radford, Metz and Chintala, 2015, "Unsupervised representation learning with deep convolutional generative
adversarial networks", arXiv:1511.06434, section 3. Their batch normalisation would make a sample depend on those drawn
with it: the generator has group normalisation instead, the critic none, as gradient penalties want it (Gulrajani et
al., 2017, arXiv:1704.00028, section 4).

Labels and vectors are numbers beside z in the generator: a label as its indicator, none as zeros (Mirza and Osindero,
2014, arXiv:1411.1784). In the critic they are constant planes beside the image (concatenation, the same paper), or

    D(x, y) = psi(phi(x)) + <V y, phi(x)>          projection

Miyato and Koyama, 2018, "cGANs with projection discriminator", arXiv:1802.05637, equation 10.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import register_parametrization

from gensys.core import Cond
from gensys.nn.embed import taken_names
from gensys.nn.linear import Linear
from gensys.noise import Noise

__all__ = ["Critic", "Generator", "Given", "critic", "generator", "spectral"]

_SLOPE = 0.2  # of the critic's leaky rectifiers: theirs


class Given:
    """What rows are conditioned on as plain numbers: classes + vector of them, zeros where nothing is given."""

    def __init__(self, classes: int = 0, vector: int = 0) -> None:
        self.classes, self.vector = classes, vector

    @property
    def taken(self) -> frozenset[str]:
        return taken_names(self.classes, self.vector)

    @property
    def numbers(self) -> int:
        return self.classes + self.vector

    def __call__(self, cond: Cond, like: Tensor) -> Tensor:
        """(B, classes + vector), as many rows as `like`, on its device and of its type."""
        parts = [like.new_zeros(like.shape[0], 0)]
        if self.classes:
            label = cond.get("label")
            label = like.new_full((like.shape[0],), -1, dtype=torch.int64) if label is None else label
            parts.append(one_hot(label + 1, self.classes + 1)[:, 1:].to(like.dtype))
        if self.vector:
            vector = cond.get("vector")
            if vector is not None and vector.shape != (like.shape[0], self.vector):
                raise ValueError(
                    f"cond['vector'] must be {(like.shape[0], self.vector)}, got {tuple(vector.shape)}"
                )  # fmt: skip
            vector = like.new_zeros(like.shape[0], self.vector) if vector is None else vector
            parts.append(vector.nan_to_num().to(like.dtype))
        return torch.cat(parts, 1)


class Generator(nn.Module):
    """(z, cond, noise) -> (B, *S), z: (B, latent). body: (B, latent + numbers given) -> (B, *S); noise is not used."""

    def __init__(self, body: nn.Module, given: Given) -> None:
        super().__init__()
        self.body, self._given = body, given

    @property
    def taken(self) -> frozenset[str]:
        return self._given.taken

    def forward(self, z: Tensor, cond: Cond, noise: Noise) -> Tensor:
        return self.body(torch.cat([z, self._given(cond, z)], 1)).to(z.dtype)  # float32 also under autocast


class Critic(nn.Module):
    """(x, cond) -> scores (B,). body: x -> (B, features), with as many more channels as numbers are given if they are
    concatenated instead of projected."""

    def __init__(self, body: nn.Module, features: int, given: Given, *, projection: bool, offset: bool) -> None:
        super().__init__()
        self.body, self._given = body, given
        self.score = Linear(features, 1, bias=offset)
        self.projection = Linear(given.numbers, features, bias=False) if projection and given.numbers else None
        if self.projection is not None:
            nn.init.normal_(self.projection.weight, std=features**-0.5)  # |V y| = 1: no louder than psi

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        given = self._given(cond, x)
        seen = x
        if self._given.numbers and self.projection is None:
            planes = given.view(*given.shape, *(1,) * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])
            seen = torch.cat([x, planes], 1)
        phi = self.body(seen).to(x.dtype)
        # scores may drift far from 0 where only their differences count, which bfloat16 then cannot tell
        with torch.autocast(x.device.type, enabled=False):
            score = self.score(phi)[:, 0]
            if self.projection is not None:
                score = score + (self.projection(given) * phi).sum(1)
        return score


class _Unit(nn.Module):
    """A matrix of one row over its length, which is its norm: there is nothing to iterate."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / weight.norm()


def spectral(net: nn.Module) -> nn.Module:
    """Divide every weight of `net`, in place, by its largest singular value, found by one power iteration a pass.

    Miyato, Kataoka, Koyama and Yoshida, 2018, "Spectral normalization for generative adversarial networks",
    arXiv:1802.05957, equation 8. Of a convolution it is that of the weight as a matrix (outputs, all else), as there.
    """
    for module in list(net.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d):
            if module.weight.shape[0] == 1:
                register_parametrization(module, "weight", _Unit())
            else:
                spectral_norm(module)
    return net


def generator(
    shape: tuple[int, ...],
    *,
    latent: int = 64,
    width: int = 32,
    depth: int = 3,
    given: Given = Given(),  # noqa: B008 - a value
    bounded: bool = True,
) -> Generator:
    """The untrained generator of data of `shape`, (C, H, W) or (D,).

    width, depth: for images as in `critic`, mirrored; hidden units and layers for vectors. bounded: whether a tanh
    keeps what it makes in [-1, 1], where pixels are.
    """
    inputs = latent + given.numbers
    layers: list[nn.Module]
    if len(shape) == 1:
        layers = []
        for before, after in pairwise([inputs, *[width] * depth]):
            layers += [Linear(before, after), nn.ReLU()]
        layers.append(Linear(width if depth else inputs, shape[0]))
    else:
        channels, grid = _pyramid(shape, width, depth)
        top = (channels[-1], *grid)
        layers = [Linear(inputs, math.prod(top)), nn.Unflatten(1, top)]
        for before, after in pairwise(reversed([shape[0], *channels])):
            layers += [_norm(before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
    return Generator(nn.Sequential(*layers, *([nn.Tanh()] if bounded else [])), given)


def critic(
    shape: tuple[int, ...],
    *,
    width: int = 32,
    depth: int = 3,
    given: Given = Given(),  # noqa: B008 - a value
    projection: bool = True,
    normalised: bool = False,
    dropout: float = 0.0,
    offset: bool = True,
) -> Critic:
    """The untrained critic of data of `shape`, (C, H, W) or (D,).

    width, depth: for images, channels after the first convolution and how often the resolution is halved and the
    channels are doubled; hidden units and layers for vectors. normalised: whether all weights have a `spectral` norm of
    1. dropout: the probability that a feature is left out, in every layer but the first, in training. offset: whether
    scores have one that is learnt; it has no gradient where only differences of scores count.
    """
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"'dropout' must lie in [0, 1), got {dropout}")
    beside = 0 if projection else given.numbers
    layers: list[nn.Module] = []
    if len(shape) == 1:
        sizes, features = [shape[0] + beside, *[width] * depth], width
        convolutions: list[nn.Module] = [Linear(before, after) for before, after in pairwise(sizes)]
    else:
        channels, grid = _pyramid(shape, width, depth)
        features = channels[-1] * math.prod(grid)
        sizes = [shape[0] + beside, *channels]
        convolutions = [nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in pairwise(sizes)]
    for k, layer in enumerate(convolutions):
        layers += [layer, nn.LeakyReLU(_SLOPE)]
        if dropout and k:
            layers.append(nn.Dropout(dropout))
    net = Critic(nn.Sequential(*layers, nn.Flatten()), features, given, projection=projection, offset=offset)
    if normalised:
        spectral(net)
    return net


def _norm(channels: int) -> nn.GroupNorm:
    """Eight groups, or the most that divide the channels if eight do not."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def _pyramid(shape: tuple[int, ...], width: int, depth: int) -> tuple[list[int], tuple[int, int]]:
    """Channels of the resolutions from fine to coarse, and the sides of the coarsest."""
    if len(shape) != 3:
        raise ValueError(f"'shape' must be (C, H, W) or (D,), got {shape}")
    factor = 2**depth
    if depth < 1 or shape[1] % factor or shape[2] % factor:
        raise ValueError(
            f"'depth' is {depth}: it must be at least 1, and the sides of {shape} multiples of 2^depth = {factor}"
        )  # fmt: skip
    return [width * 2**k for k in range(depth)], (shape[1] // factor, shape[2] // factor)
