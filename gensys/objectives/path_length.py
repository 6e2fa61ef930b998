"""The path-length regulariser of StyleGAN 2: a step in w is to change an image by as much wherever it is made.

    every k-th batch   k weight E (|J^T y| - a)^2,   y ~ N(0, I) / sqrt(H W),   a = a running mean of |J^T y|
    a = m / c;         m <- decay m + (1 - decay) E |J^T y|,   c <- decay c + (1 - decay),   m = c = 0 at first

J = dg(w) / dw; |.| the root of the mean over layers of the sum over w's elements. J^T y is the gradient of <g(w), y>.

Karras et al., 2019, "Analyzing and improving the image quality of StyleGAN", arXiv:1912.04958, section 3.2 (equation
4) and appendix B; the weight: 2 = the published code's. There a is m, which starts at 0: for the first hundreds of
steps lengths are drawn to far less than they are, and images that do not change with w have none. A run of theirs
outlives that, a short one does not. Over c, as Kingma and Ba, 2014, arXiv:1412.6980, have it, a is a mean from the
start; the first batch, which has none before it, is only measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from gensys.core import Cond
from gensys.noise import Noise, Stream

__all__ = ["PathLength", "Styled", "path_lengths"]


class Styled(Protocol):
    """A generator of two halves: latents to styles (B, layers, width), and styles to images (B, C, H, W)."""

    def styles(self, z: Tensor, cond: Cond, noise: Noise) -> Tensor: ...

    def render(self, w: Tensor, noise: Noise) -> Tensor: ...


def path_lengths(images: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """|J^T y| of each row, (B,), which can be differentiated again. images: computed from w (B, layers, width); y: of
    their shape, standard normals, which are divided by the root of the number of pixels."""
    pixels = math.prod(images.shape[2:])
    (gradient,) = torch.autograd.grad((images * y).sum() / math.sqrt(pixels), w, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


class PathLength(nn.Module):
    """What is added to the generator's loss, {"penalty": ()}. decay: of the running mean, theirs.

    The mean is that of the steps before: the parts of a batch, whose changes of it are averaged, all compare with one.
    """

    def __init__(self, weight: float = 2.0, every: int = 4, decay: float = 0.99) -> None:
        super().__init__()
        if not weight > 0 or every < 1:
            raise ValueError(f"'weight' must be positive and 'every' at least 1, got {weight} and {every}")
        self.weight, self.every, self.decay = weight, every, decay
        self.register_buffer("length", torch.zeros(()))
        self.register_buffer("share", torch.zeros(()))  # of the mean that batches have made up so far: c

    length: Tensor
    share: Tensor
    second_order = True  # lengths are gradients

    def forward(self, generator: Styled, z: Tensor, x: Tensor, cond: Cond, noise: Noise) -> Mapping[str, Tensor]:
        """x, the samples of z, are not used: they are made again, so that their styles are at hand."""
        if noise.step % self.every:
            return {"penalty": torch.zeros((), device=z.device)}
        with torch.autocast(z.device.type, enabled=False):  # squares of gradients: half the digits are too few
            w = generator.styles(z, cond, noise)
            images = generator.render(w, noise)
            y = noise.normal(tuple(images.shape[1:]), Stream.PROBE)
            lengths = path_lengths(images, w, y)
        # without a branch, for which the device would be waited for; the share is 1 - decay after one batch
        begun, mean = (self.share > 0).float(), self.length / self.share.clamp(min=1.0 - self.decay)
        penalty = begun * (lengths - mean).square().mean()
        with torch.no_grad():
            self.length.lerp_(lengths.mean(), 1.0 - self.decay)
            self.share.lerp_(torch.ones_like(self.share), 1.0 - self.decay)
        return {"penalty": self.every * self.weight * penalty}
