"""How much a time weighs in the denoising loss.

The literature states weights on the error of one particular output. Errors of all outputs are proportional at fixed
x_t: with det = alpha b - sigma a (gensys/targets.py), |data error| = sigma / |det| times |output error|. So a weight is
stated here on the error of the data, and is multiplied by (sigma / det)^2 for the target that the network has.

    even        1 on the output itself, whatever it is
    on_data     f(snr) on the error of the data, snr = (alpha / sigma)^2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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


def on_data(c: Coefs, target: Target, weight: Tensor) -> Tensor:
    """A weight of the squared error of the data -> that of the output: weight (sigma / det)^2."""
    a, b = target(c)
    return weight * (c.sigma / (c.alpha * b - c.sigma * a)) ** 2


def _snr(c: Coefs) -> Tensor:
    return (c.alpha / c.sigma) ** 2


@dataclass(frozen=True)
class MinSNR:
    """min(snr, gamma) on the data: what DDPM's loss has, without its weight on the least noisy times.

    Hang et al., 2023, "Efficient diffusion training via min-SNR weighting strategy", arXiv:2303.09556, equation 7; for
    the noise it is min(snr, gamma) / snr, for v min(snr, gamma) / (snr + 1).
    """

    gamma: float = 5.0

    def __call__(self, c: Coefs, target: Target) -> Tensor:
        return on_data(c, target, _snr(c).clamp(max=self.gamma))


def snr_plus_one(c: Coefs, target: Target) -> Tensor:
    """snr + 1 on the data: even on v. Salimans and Ho, 2022, arXiv:2202.00512, section 4."""
    return on_data(c, target, _snr(c) + 1.0)


def truncated_snr(c: Coefs, target: Target) -> Tensor:
    """max(snr, 1) on the data. Salimans and Ho, 2022, arXiv:2202.00512, section 4."""
    return on_data(c, target, _snr(c).clamp(min=1.0))


@dataclass(frozen=True)
class EDMWeight:
    """(r^2 + s^2) / (r s)^2 on the data, r = sigma / alpha, s = sigma_data: even on EDM's target.

    Karras et al., 2022, "Elucidating the design space of diffusion-based generative models", arXiv:2206.00364, table 1.
    """

    sigma_data: float = 0.5

    def __call__(self, c: Coefs, target: Target) -> Tensor:
        return on_data(c, target, _snr(c) + 1.0 / self.sigma_data**2)
