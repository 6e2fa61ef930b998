"""Data parallelism, applied from outside a model: average what backward left in the gradients.

Two ways. The fast one is a collective, whose sums are rounded in an order that depends on the number of workers. The
exact one adds the gradients of a fixed number of parts of the batch along a fixed binary tree: a worker adds the parts
that it computed, which are a whole subtree, and all workers add the subtrees. So the number of workers, which may
change from step to step, changes no bit. It sends the gradients of every worker to every other one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "World",
    "average_gradients",
    "broadcast_weights",
    "exact_mean",
    "flat_gradients",
    "pairwise_sum",
    "set_gradients",
    "worker_mean",
]


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
    set_gradients(parameters, worker_mean(flat_gradients(parameters), world))


def worker_mean(values: Tensor, world: World) -> Tensor:
    """The mean of the workers' tensors, in place."""
    if world.size > 1:
        dist.all_reduce(values)
        values.div_(world.size)
    return values


def flat_gradients(parameters: Sequence[nn.Parameter]) -> Tensor:
    """All gradients in one vector, zeros for a parameter that has none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


def set_gradients(parameters: Sequence[nn.Parameter], flat: Tensor) -> None:
    """The inverse of `flat_gradients`: the gradients become views of the vector."""
    for p, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = gradient.view_as(p)


def pairwise_sum(values: Iterable[Tensor]) -> Tensor:
    """The sum of a power of two of tensors along a binary tree, ((a + b) + (c + d)) + ...; it adds in place.

    Values are taken one after the other; about as many are held as the tree is deep.
    """
    pending: list[tuple[int, Tensor]] = []  # (height, sum) of the subtrees that wait for their right neighbour
    for value in values:
        height = 0
        while pending and pending[-1][0] == height:
            value = pending.pop()[1].add_(value)
            height += 1
        pending.append((height, value))
    if len(pending) != 1:
        raise ValueError("'values' must be a power of two of tensors")
    return pending[0][1]


def exact_mean(values: Iterable[Tensor], count: int, world: World) -> Tensor:
    """The mean of `count` tensors, of which this worker has its contiguous share: the same bits for any `world`.

    count must be a power of two and a multiple of the number of workers.
    """
    total = pairwise_sum(values)
    if world.size > 1:
        subtrees = [torch.empty_like(total) for _ in range(world.size)]
        dist.all_gather(subtrees, total)
        total = pairwise_sum(subtrees)
    return total.div_(count)


def broadcast_weights(model: nn.Module, world: World) -> None:
    """Give every worker the weights of worker 0."""
    if world.size > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)
