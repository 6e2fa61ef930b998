"""Images to styles: the w whose image is nearest, found by gradient descent.

    minimise over w   mean (g(w) - x)^2 + sum over maps of features  mean (f(g(w)) - f(x))^2

Karras et al., 2019, "Analyzing and improving the image quality of StyleGAN", arXiv:1912.04958, appendix D: Adam, a
learning rate that rises and falls, noise on w at first. Their features are a classifier's that is downloaded; here they
are given, the critic's for instance. Noise inputs are left out. W+, a style for each layer: Abdal, Qin and Wonka, 2019,
"Image2StyleGAN", arXiv:1904.03189.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gensys.families.adversarial import frozen
from gensys.nn.mapping import StyleGenerator
from gensys.noise import Noise, Stream

__all__ = ["Projected", "project"]

Features = Callable[[Tensor], Sequence[Tensor]]
"""Images (B, C, H, W) -> maps of features, each (B, ...); a row's are its own."""


@dataclass(frozen=True)
class Projected:
    """w: (B, layers, width). images: what is made of it. start, distance: of rows at the mean style and at w, (B,)."""

    w: Tensor
    images: Tensor
    start: Tensor
    distance: Tensor


def project(
    generator: StyleGenerator,
    x: Tensor,
    noise: Noise,
    *,
    features: Features | None = None,
    steps: int = 300,
    rate: float = 0.1,
    extended: bool = False,
) -> Projected:
    """Find w for each of the images x (B, C, H, W). Rows do not see each other: one alone has the same result.

    noise: of the rows, for the noise on w. rate: the highest learning rate, in standard deviations of w. extended: a
    style for each layer (W+), else one for all.

    Raises: ValueError if the generator is in training mode, or x are not images of its shape.
    """
    if generator.training:
        raise ValueError("'generator' must be in evaluation mode: call eval() first")
    if steps < 1:
        raise ValueError(f"'steps' must be at least 1, got {steps}")
    rows, layers, mean = x.shape[0], generator.synthesis.layers, generator.mapping.mean
    spread = _spread(generator)

    def render(offset: Tensor) -> Tensor:
        return generator.image(generator.synthesis((mean + spread * offset).expand(-1, layers, -1)))

    with torch.no_grad():
        wanted = list(features(x)) if features is not None else []

    def distance(images: Tensor) -> Tensor:
        """(B,)"""
        found = list(features(images)) if features is not None else []
        pairs = zip([images, *found], [x, *wanted], strict=True)
        return torch.stack([(a - b).square().flatten(1).mean(1) for a, b in pairs]).sum(0)

    offset = torch.zeros(rows, layers if extended else 1, mean.shape[0], device=x.device, requires_grad=True)
    with torch.no_grad():
        first = render(offset)
        if first.shape != x.shape:
            raise ValueError(f"'x' must be images of shape {tuple(first.shape[1:])}, got {tuple(x.shape)}")
        start = distance(first)
    optimizer = torch.optim.Adam([offset], lr=rate)
    with torch.enable_grad(), frozen(generator):
        for step in range(steps):
            t = step / steps
            optimizer.param_groups[0]["lr"] = rate * _pace(t)
            level = 0.05 * max(0.0, 1.0 - t / 0.75) ** 2  # theirs
            eps = noise.at(step).normal(tuple(offset.shape[1:]), Stream.SOLVER)
            (offset.grad,) = torch.autograd.grad(distance(render(offset + level * eps)).sum(), offset)
            optimizer.step()
    with torch.no_grad():
        images = render(offset)
        return Projected((mean + spread * offset).expand(-1, layers, -1).detach(), images, start, distance(images))


def _pace(t: float) -> float:
    """The learning rate at t in [0, 1): up over the first twentieth, down by a cosine over the last quarter; theirs."""
    fall = min(1.0, (1.0 - t) / 0.25)
    return (0.5 - 0.5 * math.cos(fall * math.pi)) * min(1.0, t / 0.05 + 1e-3)  # 1e-3: the first step is one too


@torch.no_grad()
def _spread(generator: StyleGenerator) -> Tensor:
    """The standard deviation of w over 1,000 latents without labels, (): of all its elements, as in the appendix."""
    mean = generator.mapping.mean
    ids = torch.arange(1000, device=mean.device)
    w = generator.mapping(Noise(0, ids).normal((generator.mapping.latent,), Stream.INITIAL), {})
    return (w - w.mean(0)).square().mean().sqrt()
