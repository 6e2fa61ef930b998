"""Penalties on the gradient of a critic with respect to what it sees, |grad_x D(x)|.

    R1                gamma / 2  E_data |grad D(x)|^2                    Mescheder, Geiger and Nowozin, 2018
    GradientPenalty   lambda  E (|grad D(x')| - 1)^2                     Gulrajani et al., 2017
                      x' = u x + (1 - u) G(z), u ~ U(0, 1)
    Lazy              every k-th batch k times another penalty           Karras et al., 2019

A critic that returns several scores a row (one a patch) is differentiated in their sum. Penalties are computed in
float32: they square differences of gradients, for which half the digits are too few.

"Which training methods for GANs do actually converge?", arXiv:1801.04406, equation 9; "Improved training of Wasserstein
GANs", arXiv:1704.00028, equation 3; "Analyzing and improving the image quality of StyleGAN", arXiv:1912.04958, section
3.1 and appendix B.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gensys.noise import Noise, Stream

__all__ = ["R1", "GradientPenalty", "Lazy", "Penalty", "input_gradient"]


class Penalty(Protocol):
    """What is added to the critic's loss, ().

    critic: (B, *S) -> scores, the condition of the rows within it. real, fake: (B, *S), as the critic sees them.
    """

    def __call__(
        self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, noise: Noise
    ) -> Tensor: ...  # fmt: skip


def input_gradient(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """grad_x of the sum of the scores of each row, (B, *S), which can be differentiated again."""
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gradient


@dataclass(frozen=True)
class R1:
    """gamma / 2 |grad D|^2 on data. gamma grows with the resolution: 0.01 to 10 are usual."""

    gamma: float

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"'gamma' must be positive, got {self.gamma}")

    def __call__(self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, noise: Noise) -> Tensor:
        squares = input_gradient(critic, real).flatten(1).square().sum(1)
        return 0.5 * self.gamma * squares.mean()


@dataclass(frozen=True)
class GradientPenalty:
    """weight (|grad D| - 1)^2 between data and samples: where the best critic's gradient has the length 1.

    one_sided: only gradients longer than 1 are penalised. The best critic's loss is the same, and a slope may pass
    through 0: on a line, a two-sided penalty keeps the sign that a critic began with, right or wrong. Petzka, Fischer
    and Lukovnikov, 2017, "On the regularization of Wasserstein GANs", arXiv:1709.08894, equation 8.
    """

    weight: float = 10.0  # theirs, for all images that they tried
    one_sided: bool = False

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"'weight' must be positive, got {self.weight}")

    def __call__(self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, noise: Noise) -> Tensor:
        u = noise.uniform((1,), Stream.TIME).view(-1, *(1,) * (real.ndim - 1)).to(real.dtype)
        lengths = torch.linalg.vector_norm(input_gradient(critic, u * real + (1.0 - u) * fake).flatten(1), dim=1)
        beyond = (lengths - 1.0).clamp(min=0.0) if self.one_sided else lengths - 1.0
        return self.weight * beyond.square().mean()


@dataclass(frozen=True)
class Lazy:
    """every times `penalty` at batches whose number is a multiple of `every`, nothing at others: on average the same,
    for less. Numbers are those of `noise.step`: a player with one turn where another has n sees each n-th of them."""

    penalty: Penalty
    every: int = 16

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"'every' must be at least 1, got {self.every}")

    def __call__(self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, noise: Noise) -> Tensor:
        if noise.step % self.every:
            return torch.zeros((), device=real.device)
        return self.every * self.penalty(critic, real, fake, noise)
