"""How much a time weighs in the denoising loss.

The literature states weights on the error of one particular output. Errors of all outputs are proportional at fixed
x_t: with det = alpha b - sigma a (gensys/targets.py), |data error| = sigma / |det| times |output error|. So a weight is
stated here on the error of the data, as f(snr) with snr = (alpha / sigma)^2, and f sigma^2 / det^2 is that of the
output. What is computed is f sigma^2 as a whole, which is finite at both ends of a path:

    even            1 on the output itself, whatever it is
    MinSNR          f = min(snr, gamma)            f sigma^2 = min(alpha^2, gamma sigma^2)
    snr_plus_one    f = snr + 1                    f sigma^2 = alpha^2 + sigma^2
    truncated_snr   f = max(snr, 1)                f sigma^2 = max(alpha^2, sigma^2)
    EDMWeight       f = snr + 1 / sigma_data^2     f sigma^2 = alpha^2 + (sigma / sigma_data)^2
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gensys.paths import Coefs
from gensys.targets import Target

__all__ = ["EDMWeight", "MinSNR", "Weight", "even", "on_data", "snr_plus_one", "truncated_snr"]


class Weight(Protocol):
    """Coefs of (B,) tensors and the target -> (B,) weights of the squared error of the network's output."""

    def __call__(self, c: Coefs, target: Target) -> Tensor: ...


def even(c: Coefs, target: Target) -> Tensor:
    """Every time weighs the same in the error of the output: DDPM's simple loss, flow matching, EDM with its target."""
    return c.alpha * 0.0 + 1.0


def on_data(c: Coefs, target: Target, scaled: Tensor) -> Tensor:
    """f(snr) sigma^2 -> the weight of the squared error of the output, f sigma^2 / det^2.

    Raises: ValueError at a time where the output does not tell the data (det = 0: noise at alpha = 0, data at
    sigma = 0), so that no error of the data belongs to it. On a GPU, where the answer would have to be waited for, the
    weight is infinite instead, never NaN; the training loop refuses such a loss.
    """
    a, b = target(c)
    det = c.alpha * b - c.sigma * a
    sound = det.abs() > 0  # false for a NaN
    if det.device.type == "cpu" and not sound.all():
        row = int((~sound).nonzero()[0, 0])
        raise ValueError(
            f"'target' {getattr(target, '__name__', repr(target))} does not tell the data at alpha = "
            f"{float(c.alpha[row]):g}, sigma = {float(c.sigma[row]):g}: no weight on the data holds there. Use "
            f"targets.v, weights.even, or a law of times that avoids this end"
        )
    return torch.where(sound, scaled / det**2, math.inf)


@dataclass(frozen=True)
class MinSNR:
    """min(snr, gamma) on the data: what DDPM's loss has, without its weight on the least noisy times.

    Hang et al., 2023, "Efficient diffusion training via min-SNR weighting strategy", arXiv:2303.09556, equation 7; for
    the noise it is min(snr, gamma) / snr, for v min(snr, gamma) / (snr + 1).
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"'gamma' must be positive, got {self.gamma}; 5 is usual")

    def __call__(self, c: Coefs, target: Target) -> Tensor:
        return on_data(c, target, torch.minimum(c.alpha**2, self.gamma * c.sigma**2))


def snr_plus_one(c: Coefs, target: Target) -> Tensor:
    """snr + 1 on the data: even on v. Salimans and Ho, 2022, arXiv:2202.00512, section 4."""
    return on_data(c, target, c.alpha**2 + c.sigma**2)


def truncated_snr(c: Coefs, target: Target) -> Tensor:
    """max(snr, 1) on the data. Salimans and Ho, 2022, arXiv:2202.00512, section 4."""
    return on_data(c, target, torch.maximum(c.alpha**2, c.sigma**2))


@dataclass(frozen=True)
class EDMWeight:
    """(r^2 + s^2) / (r s)^2 on the data, r = sigma / alpha, s = sigma_data: even on EDM's target.

    Karras et al., 2022, "Elucidating the design space of diffusion-based generative models", arXiv:2206.00364, table 1.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"'sigma_data' must be positive, got {self.sigma_data}")

    def __call__(self, c: Coefs, target: Target) -> Tensor:
        return on_data(c, target, c.alpha**2 + (c.sigma / self.sigma_data) ** 2)
