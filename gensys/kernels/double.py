"""Second derivatives of the ops: a kernel's backward pass has none, so it is redone by the op's definition.

A gradient penalty, say, differentiates a gradient (torch.autograd.grad(..., create_graph=True)). Inside a backward pass
this is seen by gradients being enabled; the pass then goes through the reference, which torch differentiates any number
of times. Slow, rare and right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["gradients", "wanted"]


def wanted() -> bool:
    """Whether the backward pass that runs now will itself be differentiated."""
    return torch.is_grad_enabled()


def gradients(
    reference: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor | None],
    upstream: Sequence[Tensor],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """The gradient of reference(*inputs) for each needed input, differentiable again; None for the others."""
    outputs = reference(*inputs)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    leaves = [x for x, wants in zip(inputs, needed, strict=True) if wants and x is not None]
    found = iter(torch.autograd.grad(outputs, leaves, upstream, create_graph=True, allow_unused=True))
    return [next(found) if wants and x is not None else None for x, wants in zip(inputs, needed, strict=True)]
