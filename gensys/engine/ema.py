"""Power-function averaging of weights: an average whose length grows with the run.

    average <- beta average + (1 - beta) weights,    beta = (1 - 1 / step)^(gamma + 1)

The width of the averaged interval is a fixed fraction of the steps so far, so nothing has to be tuned to the length of
a run. Karras et al., 2023, "Analyzing and improving the training dynamics of diffusion models", arXiv:2312.02696,
equations 1, 2 and 123.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["exponent", "shadow", "update"]

Model = TypeVar("Model", bound=nn.Module)


def exponent(width: float) -> float:
    """gamma for a relative width sigma_rel in (0, 0.28).

    The largest root of (gamma + 1) = width^2 (gamma + 2)^2 (gamma + 3), their equation 123.
    """
    if not 0.0 < width < 0.28:  # beyond, gamma would be negative: the start would weigh more than the end
        raise ValueError(f"'width' must lie in (0, 0.28), got {width}; 0.05 to 0.1 are usual")
    w = width**-2
    return float(np.roots([1.0, 7.0, 16.0 - w, 12.0 - w]).real.max())


def shadow(model: Model) -> Model:
    """A copy of the model that will hold the average: no gradients, evaluation mode."""
    return copy.deepcopy(model).requires_grad_(False).eval()


def _values(model: nn.Module) -> Iterator[Tensor]:
    yield from (t.detach() for t in model.state_dict().values())


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, step: int, gamma: float) -> None:
    """One step, counted from 1; the first one copies the weights (beta = 0).

    Whole numbers (counts, flags) have no average: they are copied.
    """
    beta = (1.0 - 1.0 / step) ** (gamma + 1.0)
    for mean, value in zip(_values(average), _values(model), strict=True):
        if value.is_floating_point():
            mean.lerp_(value, 1.0 - beta)
        else:
            mean.copy_(value)
