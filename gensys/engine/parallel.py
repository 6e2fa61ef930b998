"""Data parallelism, applied from outside a model: average what backward left in the gradients.

Workers have contiguous shares of a batch, of sizes that differ by at most one, so any number of them computes the same
mean. Two ways. The fast one is a collective, whose sums are rounded in an order that depends on the number of workers.
The exact one adds the gradients of a fixed number of parts of the batch along a fixed binary tree: a worker adds the
largest whole subtrees in its range of parts, and all workers add the subtrees of all. So the number of workers, which
may change from step to step, changes no bit. It sends the gradients of every worker to every other one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["World", "broadcast_weights", "exact_mean", "is_sharded", "packed", "subtrees", "summed", "unpacked"]


@dataclass(frozen=True)
class World:
    """Who computes: worker `rank` of `size`. A process group must exist when size > 1.

    restarts: how often the workers were started again before; for the log.
    """

    rank: int = 0
    size: int = 1
    restarts: int = 0

    def span(self, count: int) -> range:
        """Which of `count` things are this worker's: a contiguous range, at most one longer than another's."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def share(self, rows: Tensor, parts: int = 0) -> Tensor:
        """This worker's contiguous share of a global batch. parts: 0, or into how many a batch is cut: whole ones."""
        units = parts or rows.shape[0]
        if units < self.size:
            named = "parts of a batch" if parts else "rows of a batch"
            raise ValueError(f"'size' must be at most the number of {named} ({units}), got {self.size} workers")
        span, length = self.span(units), rows.shape[0] // units
        return rows[span.start * length : span.stop * length]


def packed(parameters: Sequence[nn.Parameter], *others: Tensor) -> Tensor:
    """All gradients in one vector, zeros for a parameter that has none, and behind them what else is averaged."""
    gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
    return torch.cat([*gradients, *(value.flatten().float() for value in others)])


def unpacked(parameters: Sequence[nn.Parameter], flat: Tensor) -> Tensor:
    """The inverse of `packed`: the gradients become views of the vector; returns what is behind them."""
    sizes = [p.numel() for p in parameters]
    *gradients, others = flat.split([*sizes, flat.numel() - sum(sizes)])
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient.view_as(p)
    return others


def summed(values: Tensor, world: World) -> Tensor:
    """The sum of the workers' tensors, in place."""
    if world.size > 1:
        dist.all_reduce(values)
    return values


def subtrees(values: Iterable[tuple[int, Tensor]], first: int = 0) -> list[tuple[int, Tensor]]:
    """The largest whole subtrees, (height, sum), of a binary tree ((a + b) + (c + d)) + ...; it adds in place.

    values: neighbouring subtrees, (height, sum), from the left; height 0 is a leaf. first: the number of the leaf that
    they begin at. They are taken one after the other; about as many are held as the tree is deep.
    """
    pending: list[tuple[int, Tensor]] = []  # those that wait for their right neighbour
    end = first
    for height, value in values:
        end += 1 << height
        # a subtree whose number within its height is odd is the right neighbour of the one before it
        while pending and pending[-1][0] == height and (end >> height) % 2 == 0:
            value = pending.pop()[1].add_(value)
            height += 1
        pending.append((height, value))
    return pending


def _heights(span: range) -> list[int]:
    """The heights of the largest whole subtrees of a range of leaves."""
    found: list[int] = []
    start = span.start
    while start < span.stop:
        height = (span.stop - start).bit_length() - 1  # the largest that fits
        if start:
            height = min(height, (start & -start).bit_length() - 1)  # the largest that begins here
        found.append(height)
        start += 1 << height
    return found


def exact_mean(values: Iterable[Tensor], count: int, world: World) -> Tensor:
    """The mean of `count` tensors, of which `values` are this worker's span: the same bits for any `world`.

    count must be a power of two, and no smaller than the number of workers.
    """
    if count < 1 or count & (count - 1):
        raise ValueError(f"'count' must be a power of two, got {count}")
    found = subtrees(((0, value) for value in values), world.span(count).start)
    if world.size > 1:
        heights = [_heights(World(rank, world.size).span(count)) for rank in range(world.size)]
        everyones: list[list[tuple[int, Tensor]]] = [[] for _ in heights]
        for k in range(max(map(len, heights))):  # a worker with fewer subtrees sends what nobody reads
            mine = found[min(k, len(found) - 1)][1]
            received = [torch.empty_like(mine) for _ in heights]
            dist.all_gather(received, mine)
            for own, theirs, value in zip(everyones, heights, received, strict=True):
                own += [(theirs[k], value)] if k < len(theirs) else []
        found = subtrees(tree for own in everyones for tree in own)
    ((_, total),) = found
    return total.div_(count)


def broadcast_weights(model: nn.Module, world: World) -> None:
    """Give every worker the weights of worker 0, but for those that are sharded."""
    if world.size > 1:
        for tensor in model.state_dict().values():
            if not is_sharded(tensor):
                dist.broadcast(tensor, 0)


def is_sharded(value: Tensor) -> bool:
    """Whether it is a DTensor, whose module is imported only where weights are sharded, as that takes a while."""
    return hasattr(value, "full_tensor")
