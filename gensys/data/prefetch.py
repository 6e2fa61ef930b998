"""Batches made by a thread, ahead of the loop that uses them: reading overlaps with computing, the bits stay."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["prefetch"]

T = TypeVar("T")


def prefetch(batch: Callable[[int], T], depth: int = 2) -> Callable[[int], T]:
    """`batch`, with the steps that follow the one asked for being made meanwhile.

    batch: step -> its batch, a pure function. depth: how many steps ahead, and so how many batches are kept; 0 = none.
    Steps may be asked for in any order; in succession they are ready. What `batch` raises for a step is raised when
    that step is asked for, never sooner, and not at all if it never is.
    Raises ValueError if `depth` is negative.
    """
    if depth < 0:
        raise ValueError(f"'depth' must be at least 0, got {depth}")
    if depth == 0:
        return batch
    # One thread, so that batches are made in order; it computes on as many threads as its maker, who may have asked for
    # one: the number is a property of every thread.
    thread = ThreadPoolExecutor(1, "prefetch", torch.set_num_threads, (torch.get_num_threads(),))
    ahead: dict[int, Future[T]] = {}

    def at(step: int) -> T:
        wanted = range(step, step + depth + 1)
        for other in ahead.keys() - set(wanted):
            ahead.pop(other).cancel()
        for one in wanted:
            if one not in ahead:
                ahead[one] = thread.submit(batch, one)
        return ahead.pop(step).result()

    return at
