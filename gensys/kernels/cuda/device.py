"""Where the CUDA kernels run: why they cannot, and what a launch needs besides its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from gensys import native

__all__ = ["address", "kernels", "stream_of", "why_missing"]


def why_missing() -> str:
    """Why the CUDA kernels cannot run on torch's current GPU; empty if they can."""
    if native.extension is None:
        return native.why_missing
    if not hasattr(native.extension, "cuda"):
        return "gensys was built without them (have nvcc on PATH or in CUDA_HOME, and build it again)"
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    if not torch.cuda.is_available():
        return "there is no GPU that this torch can use"
    return kernels().why_missing()  # the driver is too old, or the GPU older than compute capability 8.0


def kernels() -> ModuleType:
    """The compiled launchers (csrc/cuda/bind.cpp)."""
    assert native.extension is not None, native.why_missing
    return native.extension.cuda


def address(x: Tensor | None) -> int:
    """Where the data of x begin; 0, the null pointer, for None."""
    return 0 if x is None else x.data_ptr()


@contextmanager
def stream_of(x: Tensor) -> Iterator[int]:
    """The stream that torch works on at the GPU of x, as a number; within the block that GPU is the current one."""
    with torch.cuda.device(x.device):
        yield torch.cuda.current_stream().cuda_stream
