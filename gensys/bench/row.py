"""What a benchmark is: a job of one shape and dtype, and the candidates that can do it.

All candidates of a row get the same numbers and must return the same result, within the tolerance of the row: that is
checked before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gensys.bench.limits import Limit
from gensys.bench.timing import Call

__all__ = ["Candidates", "Row", "Scope", "deviation", "differentiated", "tensors"]


@dataclass(frozen=True)
class Scope:
    """What is asked for. peers: other libraries too. quick: tiny shapes and nothing compiled, to see that all runs."""

    peers: bool = False
    quick: bool = False

    def compiled(
        self, function: Callable[..., Any], options: dict[str, Any] | None = None
    ) -> Callable[..., Any] | None:
        """torch.compile of a function, for one shape of its arguments; None where nothing is compiled.

        As one graph, or it fails: what the compiler did not see would be run eagerly, and be called compiled here.
        """
        if self.quick:
            return None
        torch._dynamo.reset()  # each row has a compiler of its own: no shapes that were made general by an earlier row
        return torch.compile(function, dynamic=False, fullgraph=True, options=options)


@dataclass(frozen=True)
class Candidates:
    """Who does the job of a row.

    ours: by the way in which it is called, "out=" (into a tensor that is there) or "fresh" (the result is allocated).
    peers: by name. One that returns None does a part of the job only, and is not compared.
    error: of what a candidate returned, a number to be held against `tolerance` (the peers: `peer_tolerance`).
    limit: what the machine could do at most. work: what the job needs of it, in the same unit.
    steps: how many steps one call does; times are for one. grad: whether the calls need gradients.
    peak: the peak memory of a candidate, in bytes. close: called when all is done.
    """

    ours: Mapping[str, Call]
    peers: Mapping[str, Call]
    error: Callable[[Any], float]
    tolerance: float
    peer_tolerance: float | None = None
    limit: Limit | None = None
    work: float = 0.0
    steps: int = 1
    grad: bool = False
    peak: Callable[[str], int | None] | None = None
    close: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Row:
    """A job. name: of the op and what of it is measured. prepare: makes the data and the candidates."""

    name: str
    shape: str
    dtype: str
    prepare: Callable[[Scope], Candidates]

    @property
    def label(self) -> str:
        """What --rows is compared with."""
        return f"{self.name} {self.shape} {self.dtype}"


def differentiated(function: Callable[..., Any], inputs: Sequence[Tensor], upstream: Sequence[Tensor]) -> Call:
    """A call that runs a function and its backward pass, and returns the gradients of the inputs."""

    def call() -> object:
        return torch.autograd.grad(tensors(function(*inputs)), inputs, upstream)

    return call


def tensors(result: Any) -> list[Tensor]:
    """The tensors in what a candidate returned, in order."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, tuple | list):
        return [tensor for part in result for tensor in tensors(part)]
    raise TypeError(f"a candidate must return tensors, got {type(result).__name__}")


def deviation(truth: Any) -> Callable[[Any], float]:
    """An error: the largest difference from `truth`, in units of the largest number of each of its tensors."""
    exact = [tensor.double() for tensor in tensors(truth)]

    def error(result: Any) -> float:
        found = tensors(result)
        if [t.shape for t in found] != [t.shape for t in exact]:
            shapes = [tuple(t.shape) for t in found]
            raise ValueError(f"a candidate returned {shapes} instead of {[tuple(t.shape) for t in exact]}")
        worst = 0.0
        for ours, theirs in zip(found, exact, strict=True):
            if theirs.numel():
                scale = float(theirs.abs().max()) or 1.0
                difference = float((ours.detach().double() - theirs).abs().max()) / scale
                worst = max(worst, difference if difference == difference else float("inf"))
        return worst

    return error
