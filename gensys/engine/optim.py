"""AdamW for one player, and its learning rate as a function of progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from gensys.errors import ConfigError

__all__ = ["Optim", "adamw", "rate"]

_RISE = 0.1  # of a run: one of 200 steps would otherwise rise for half of it


@dataclass(frozen=True)
class Optim:
    """lr: the peak. warmup: steps of linear growth, or the first tenth of the run if that is shorter. decay: the last
    fraction of the run, which falls linearly to 0.

    Loshchilov and Hutter, 2017, "Decoupled weight decay regularization", arXiv:1711.05101; the trapezoidal schedule:
    Zhai et al., 2021, "Scaling vision transformers", arXiv:2106.04560, section 3.4.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)  # 0.99: short runs; the usual 0.999 averages over 1,000 steps
    weight_decay: float = 0.0
    warmup: int = 100
    decay: float = 0.5

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ConfigError(f"'lr' must be positive, got {self.lr}")


def adamw(parameters: Sequence[nn.Parameter], optim: Optim) -> torch.optim.AdamW:
    """The optimizer of one player; fused: one kernel for all tensors, on CPU too."""
    if not parameters:
        raise ValueError("'parameters' is empty: the player has nothing to train")
    return torch.optim.AdamW(parameters, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=True)


def rate(optim: Optim, step: int, progress: float) -> float:
    """The learning rate of a step; progress: the fraction of the budget that is spent, in [0, 1]."""
    rise = min(1.0, max((step + 1) / optim.warmup, progress / _RISE)) if optim.warmup else 1.0
    fall = min(1.0, (1.0 - progress) / optim.decay) if optim.decay else 1.0
    return optim.lr * rise * fall
