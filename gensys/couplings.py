"""Couplings: which noise a datum is paired with in training.

    independent        every pairing alike
    OptimalTransport   within a batch, the pairing of least total squared distance: straighter paths, fewer steps

A coupling rearranges the noise of a batch. It leaves both marginals as they are, so what is learned is still a path
from noise to data. The third coupling, that of a model with itself (reflow), rearranges nothing: the noise of such data
is known, see `denoise`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gensys.core import Cond
from gensys.errors import ConfigError

__all__ = ["Coupling", "OptimalTransport", "independent"]

Coupling = Callable[[Tensor, Tensor, Cond], Tensor]
"""(x (B, *S), eps (B, *S), cond) -> the noise in the order in which rows get it."""


def independent(x: Tensor, eps: Tensor, cond: Cond) -> Tensor:
    """As drawn."""
    return eps


@dataclass(frozen=True)
class OptimalTransport:
    """The exact assignment of least sum of |x_i - eps_j|^2 over the rows that are computed together.

    by_label: pair within each label. Without it a conditional model is biased: which noise a row gets then depends on
    its label, and at sampling it does not (Cheng and Schwing, 2025, "The curse of conditions", arXiv:2503.10636). Other
    conditions, such as a vector, have no rows that are alike to pair within, and are refused.

    Who gets which noise does not depend on the order of the rows, but for rows that are equal. With several workers
    each pairs its own rows; the same rows in the same parts (`--exact`) give the same pairs.

    Pooladian et al., 2023, "Multisample flow matching", arXiv:2304.14772, section 3.2; Tong et al., 2023, "Improving
    and generalizing flow-based generative models with minibatch optimal transport", arXiv:2302.00482, section 3.2.
    """

    by_label: bool = True

    def __call__(self, x: Tensor, eps: Tensor, cond: Cond) -> Tensor:
        if self.by_label and (others := sorted(cond.keys() - {"label"})):
            raise ValueError(
                f"'cond' must have no condition but a label, got {', '.join(others)}: optimal transport would tell the "
                f"noise the condition, which sampling does not. Use couplings.independent"
            )
        if not self.by_label or "label" not in cond:
            return eps[_assigned(x, eps)]
        order = torch.arange(x.shape[0], device=x.device)
        for label in cond["label"].unique():
            (rows,) = torch.where(cond["label"] == label)
            order[rows] = rows[_assigned(x[rows], eps[rows])]
        return eps[order]


def _assigned(x: Tensor, eps: Tensor) -> Tensor:
    """For every row of x, the row of eps that it is paired with, (B,)."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ConfigError("optimal-transport couplings need scipy: pip install 'gensys[couplings]'") from error
    # |x - eps|^2 less its first and last term, whose sums every pairing has; float64: rounding must not choose the pair
    products = x.detach().flatten(1).double() @ eps.flatten(1).double().T
    return torch.as_tensor(linear_sum_assignment(products.cpu().numpy(), maximize=True)[1], device=x.device)
