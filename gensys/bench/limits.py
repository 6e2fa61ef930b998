"""Yardsticks of the machine: how fast it copies and multiplies, and how fast its libraries multiply matrices.

What multiplies registers can't be beaten; the copy is torch's, and what moves its data in a better way may pass it.

The first two are measured again in every round of a row that is held against them, so that the fraction which a row
reaches is one of the same moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gensys import native
from gensys.bench.timing import Call, Protocol, measure, spread

__all__ = ["Limit", "copying", "multiplying", "table"]

_LOOPS = 400_000  # passes of the loop of multiply-adds: about a millisecond


@dataclass(frozen=True)
class Limit:
    """A call that does nothing else. amount: the bytes ("B") or operations ("FLOP") of one call. one_core: it uses one
    core however many threads there are."""

    name: str
    unit: str
    amount: float
    call: Call
    one_core: bool = False


def copying(like: Tensor) -> Limit:
    """torch's copy between two tensors of this size: every byte is read once and written once."""
    source, target = torch.ones_like(like), torch.ones_like(like)
    return Limit("copy", "B", 2.0 * like.nbytes, lambda: target.copy_(source))


def multiplying(dtype: torch.dtype) -> Limit | None:
    """Multiply-adds of registers on one core, at the rate of the CPU's widest vectors.

    None for a dtype that this CPU has no such instruction for, or without the compiled kernels. AMX is not known here:
    on a CPU that has it, there is no limit for bfloat16.
    """
    bfloat = dtype == torch.bfloat16
    if native.extension is None or (bfloat and torch.cpu._is_amx_tile_supported()):
        return None
    loop = native.extension.dot_products if bfloat else native.extension.multiply_adds
    amount = loop(1) * _LOOPS
    return Limit("multiply-add", "FLOP", amount, lambda: loop(_LOOPS), one_core=True) if amount else None


def table(protocol: Protocol, quick: bool = False) -> list[dict[str, float | str]]:
    """The limits as rows {"name", "per_second", "unit"}, for the head of a report. quick: of small sizes."""
    limits = [limit for limit in _limits(1 if quick else 16) if limit is not None]
    for limit in limits:
        limit.call()
    samples = measure({limit.name: limit.call for limit in limits}, protocol)
    rows: list[dict[str, float | str]] = []
    for limit in limits:
        seconds = spread([getattr(sample, protocol.timed) for sample in samples[limit.name]]).median
        rows.append({"name": limit.name, "per_second": limit.amount / seconds, "unit": limit.unit})
    return rows


def _limits(scale: int) -> Iterator[Limit | None]:
    for size in (scale, 4 * scale):  # MiB: one that fits into a last-level cache, as a rule, and one that does not
        limit = copying(torch.empty(size << 18))
        yield Limit(f"copy of {size} MiB", limit.unit, limit.amount, limit.call)
    for dtype in (torch.float32, torch.bfloat16):
        if (limit := multiplying(dtype)) is not None:
            yield Limit(f"{limit.name} {_name(dtype)}, one core", limit.unit, limit.amount, limit.call)
    n = 64 * scale
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(2, n, n).to(dtype)
        yield _product(f"torch.mm {_name(dtype)}", a, b)
        if torch.backends.mkldnn.is_available():
            yield _product(f"oneDNN {_name(dtype)}", a, b)


def _product(name: str, a: Tensor, b: Tensor) -> Limit:
    n = a.shape[0]
    out = torch.empty_like(a)
    call = lambda: torch.mm(a, b, out=out)  # noqa: E731
    if name.startswith("oneDNN"):
        # what torch's own compiler calls for a linear layer on a CPU; no public function reaches it
        call = lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")  # noqa: E731
    return Limit(f"{name}, {n} x {n}", "FLOP", 2.0 * n**3, call)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
