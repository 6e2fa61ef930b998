"""What an op owes to those whose memory it writes: not to read what it has overwritten, and to tell autograd.

The native operators write through pointers, which torch does not see. Without `written`, a tensor that the backward
pass of something else still needs could be changed, and the gradient be wrong without a word.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["overlaps_in_part", "shares_memory", "written"]


def written(*tensors: Tensor) -> None:
    """Tell autograd that these were changed in place, as torch's own functions do."""
    if not torch.compiler.is_compiling():  # a graph knows it from the schema of the op
        for tensor in tensors:
            torch.autograd.graph.increment_version(tensor)


def _range(x: Tensor) -> tuple[int, int]:
    """The addresses of the first byte and of the one behind the last, gaps included."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


def shares_memory(a: Tensor, b: Tensor) -> bool:
    """Whether the ranges of two tensors overlap."""
    if not (a.numel() and b.numel()):
        return False
    (begin, end), (other, last) = _range(a), _range(b)
    return begin < last and other < end


def overlaps_in_part(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors share memory without being the same. Halves of rows, side by side in one tensor, do not.

    False while a graph is traced, where tensors have no addresses.
    """
    if torch.compiler.is_compiling() or not shares_memory(a, b):
        return False
    if a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride():
        return False
    if a.ndim and b.ndim and a.stride(0) == b.stride(0) and a[:1].is_contiguous() and b[:1].is_contiguous():
        step = a.stride(0) * a.element_size()
        apart = (b.data_ptr() - a.data_ptr()) % step if step else 0
        return apart < a[0].nbytes or step - apart < b[0].nbytes
    return True
