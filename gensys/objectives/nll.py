"""Negative log-likelihood: what a model with an exact density minimises."""

from __future__ import annotations

import math

from torch import Tensor

from gensys.core import Loss

__all__ = ["nll"]


def nll(log_prob: Tensor, size: int, width: float = 1.0) -> Loss:
    """-(log p + D ln(width)) / D in nats, D = `size` elements, averaged over rows; the term "bits" is in bits.

    width: of the bins of discrete data, whose dequantised values log_prob is of; 1 = the density of continuous data, as
    in `likelihood.bits_per_dim`. Dividing by D keeps the learning rate free of the size of the data.
    """
    total = -(log_prob.mean() / size + math.log(width))
    return Loss(total, {"loss": total.detach(), "bits": total.detach() / math.log(2.0)})
