"""Data parallelism, applied from outside a model: average what backward left in the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["World", "average_gradients", "broadcast_weights"]


@dataclass(frozen=True)
class World:
    """Who computes: worker `rank` of `size`. A process group must exist when size > 1."""

    rank: int = 0
    size: int = 1

    def share(self, rows: Tensor) -> Tensor:
        """This worker's contiguous part of a global batch, whose length must be a multiple of `size`."""
        if rows.shape[0] % self.size:
            raise ValueError(f"'batch' must be a multiple of the number of workers ({self.size}), got {rows.shape[0]}")
        return rows.chunk(self.size)[self.rank]


def average_gradients(parameters: Sequence[nn.Parameter], world: World) -> None:
    """Replace every gradient by its mean over the workers, in one collective over one flat buffer."""
    if world.size == 1:
        return
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world.size
    for p, mean in zip(parameters, flat.split([g.numel() for g in gradients]), strict=True):
        p.grad = mean.view_as(p)


def broadcast_weights(model: nn.Module, world: World) -> None:
    """Give every worker the weights of worker 0."""
    if world.size > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)
