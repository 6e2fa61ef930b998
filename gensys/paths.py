"""Paths from data to noise: x_t = alpha(t) x + sigma(t) eps, with eps ~ N(0, I).

One time convention holds in all of gensys: t grows from data to noise. `span` gives the two ends of a path's clock.

A path is a function of t that returns `Coefs`. It takes a Python float (a solver's grid, in double precision) or a
tensor (a training batch) and answers in kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["Coefs", "Cosine", "Linear", "Path", "expand"]

Scalar = Any
"""A float or a tensor: the mathematics of paths and targets is written once for both."""


class Coefs(NamedTuple):
    """alpha(t), sigma(t) and their derivatives in t."""

    alpha: Scalar
    sigma: Scalar
    d_alpha: Scalar
    d_sigma: Scalar


class Path(Protocol):
    """A Gaussian path. span: (data end, noise end) of t."""

    @property
    def span(self) -> tuple[float, float]: ...

    def __call__(self, t: Scalar) -> Coefs: ...


@dataclass(frozen=True)
class Linear:
    """alpha = 1 - t, sigma = t on (0, 1).

    Liu, Gong and Liu, 2022, "Flow straight and fast: learning to generate and transfer data with rectified flow",
    arXiv:2209.03003; Lipman et al., 2022, "Flow matching for generative modeling", arXiv:2210.02747 (sigma_min = 0).
    """

    span: tuple[float, float] = (0.0, 1.0)

    def __call__(self, t: Scalar) -> Coefs:
        one = t * 0.0 + 1.0  # broadcasts as t does
        return Coefs(one - t, t, -one, one)


@dataclass(frozen=True)
class Cosine:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2) on (0, 1): the variance-preserving path of constant angular speed.

    Nichol and Dhariwal, 2021, "Improved denoising diffusion probabilistic models", arXiv:2102.09672 (offset s = 0);
    the "GVP" interpolant of Ma et al., 2024, "SiT", arXiv:2401.08740.
    """

    span: tuple[float, float] = (0.0, 1.0)

    def __call__(self, t: Scalar) -> Coefs:
        h = math.pi / 2
        if isinstance(t, Tensor):
            cos, sin = torch.cos(h * t), torch.sin(h * t)
        else:
            cos, sin = math.cos(h * t), math.sin(h * t)
        return Coefs(cos, sin, -h * sin, h * cos)


def expand(t: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1), to multiply a tensor of shape (B, *S) row by row."""
    return t.reshape(-1, *[1] * (like.ndim - 1))
