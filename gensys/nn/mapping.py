"""The first half of a style-based generator: z -> w, and how the layers of the second half share several w.

Karras, Laine and Aila, 2018, "A style-based generator architecture for generative adversarial networks",
arXiv:1812.04948, sections 2, 3.1 (mixing) and appendix B (truncation).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from gensys.core import Cond
from gensys.nn.embed import LabelEmbedding
from gensys.nn.equalised import EqualLinear, leaky
from gensys.noise import Noise, Stream

__all__ = ["Mapping", "StyleGenerator", "Synthesis", "unit"]


def unit(x: Tensor) -> Tensor:
    """x over the root of its mean square along the last dimension; 1e-8: far below any mean square that occurs."""
    return x * (x.square().mean(-1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """(B, latent) normals and labels -> (B, width) styles w: `depth` layers that learn at a hundredth of the rate.

    The running mean of w, which truncation goes by, is followed in training with the given decay: 0.998 is the paper's
    0.995 of ten thousand images, for small batches.
    """

    def __init__(self, latent: int, width: int, *, depth: int = 8, classes: int = 0, decay: float = 0.998) -> None:
        super().__init__()
        self.latent, self.width, self.classes, self.decay = latent, width, classes, decay
        # of unit variance, as equalised weights are: else labels turn to one direction before they are told apart
        self.label = LabelEmbedding(classes, latent, std=1.0) if classes else None
        sizes = [latent * (2 if classes else 1), *[width] * depth]
        self.layers = nn.ModuleList(EqualLinear(inputs, outputs, rate=0.01) for inputs, outputs in pairwise(sizes))
        self.register_buffer("mean", torch.zeros(width))

    mean: Tensor

    @property
    def taken(self) -> frozenset[str]:
        """The names in `cond` that it goes by."""
        return frozenset({"label"} if self.classes else ())

    def forward(self, z: Tensor, cond: Cond) -> Tensor:
        x = unit(z)
        if self.label is not None:
            x = torch.cat([x, unit(self.label(cond, z.shape[0]))], 1)
        for layer in self.layers:
            x = leaky(layer(x))
        w = x.float()
        if self.training:  # linear in what each row adds, so the parts of a batch may be averaged
            with torch.no_grad():
                self.mean.lerp_(w.mean(0), 1.0 - self.decay)
        return w


class Synthesis(Protocol):
    """The second half: one style for each layer, (B, layers, width) -> (B, C, H, W) images."""

    layers: int
    noises: int  # numbers that one image takes as noise inputs

    def __call__(self, w: Tensor, eps: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """eps: (B, noises) normals; None = no noise. shift: (B, 2), what the input is moved by along x and y, in sides
        of the image."""
        ...


class StyleGenerator(nn.Module):
    """Mapping and synthesis: latents (B, latent), labels and what the ids in `noise` draw -> images (B, C, H, W).

    mixing: probability that in training a row's layers from a random one on have another latent's style. truncation:
    psi, by which styles are drawn to their mean when the model is not trained: mean + psi (w - mean), 1 = not at all.
    bounded: whether a tanh keeps images in [-1, 1]. The papers' networks end linearly, as photographs do not mind; of
    images that are -1 nearly everywhere a critic sees at once that a linear one's background is not flat.
    """

    def __init__(
        self,
        mapping: Mapping,
        synthesis: Synthesis,
        *,
        mixing: float = 0.9,
        truncation: float = 1.0,
        bounded: bool = False,
    ) -> None:
        super().__init__()
        if not 0.0 <= mixing <= 1.0:
            raise ValueError(f"'mixing' is a probability, in [0, 1], got {mixing}")
        self.mapping, self.synthesis, self.mixing, self.truncation = mapping, synthesis, mixing, truncation
        self.bounded = bounded

    def styles(self, z: Tensor, cond: Cond, noise: Noise) -> Tensor:
        """(B, latent) -> (B, layers, width): in training mixed, else truncated."""
        layers, rows = self.synthesis.layers, z.shape[0]
        if not self.training or self.mixing == 0.0:
            w = self.mapping(z, cond)
            if not self.training and self.truncation != 1.0:
                w = torch.lerp(self.mapping.mean, w, self.truncation)
            return w[:, None].expand(-1, layers, -1)
        other = noise.normal((self.mapping.latent,), Stream.STYLE).to(z.dtype)
        both = {name: torch.cat([value, value]) for name, value in cond.items()}
        first, second = self.mapping(torch.cat([z, other]), both).chunk(2)  # one call, as it follows the mean of w
        chance, place = noise.uniform((2,), Stream.MIXING).unbind(1)
        begin = 1 + (place * (layers - 1)).long()  # 1..layers - 1: some layers of each
        begin = torch.where(chance < self.mixing, begin, layers)
        late = torch.arange(layers, device=begin.device).expand(rows, -1) >= begin[:, None]
        return torch.where(late[..., None], second[:, None], first[:, None])

    def render(self, w: Tensor, noise: Noise) -> Tensor:
        """(B, layers, width) -> images, with the noise inputs of the ids."""
        count = self.synthesis.noises
        return self.image(self.synthesis(w, noise.normal((count,), Stream.TEXTURE) if count else None))

    def image(self, x: Tensor) -> Tensor:
        """What the synthesis made, as images: bounded or as it is."""
        return torch.tanh(x) if self.bounded else x

    def forward(self, z: Tensor, cond: Cond, noise: Noise) -> Tensor:
        return self.render(self.styles(z, cond, noise), noise)
