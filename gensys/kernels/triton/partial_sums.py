"""The second pass of a sum that several programs took in parts: add the parts one after the other.

The order is that of the parts and depends on nothing else, unlike that of torch's sum, whose split follows the shape.
"""

# A kernel is written in Triton's dialect of Python; these rules take it for Python.
# pyright: reportArgumentType=false

import triton
import triton.language as tl
from torch import Tensor

from gensys.kernels.triton.launch import launch

__all__ = ["add_parts"]

COLS = 256
"""Sums that a program of 64 threads adds up: a load of 128 bits each."""


@triton.jit
def _add_parts(parts: tl.tensor, out: tl.tensor, count: tl.tensor, n: tl.tensor, COLS: tl.constexpr) -> None:
    blocks = tl.cdiv(n, COLS)
    group = (tl.program_id(0) // blocks).to(tl.int64)
    col = tl.program_id(0) % blocks * COLS + tl.arange(0, COLS)
    total = tl.zeros([COLS], tl.float32)
    for part in range(count):
        total += tl.load(parts + (group * count + part) * n + col, col < n, 0.0)
    tl.store(out + group * n + col, total, col < n)


def add_parts(parts: Tensor) -> Tensor:
    """The sum of parts (G, P, N) float32 over P, (G, N)."""
    groups, count, n = parts.shape
    if count == 1:
        return parts.squeeze(1)
    out = parts.new_zeros(groups, n)
    if parts.numel():
        launch(_add_parts, groups * triton.cdiv(n, COLS), parts, (parts, out, count, n, COLS), threads=64, fuse=True)
    return out
