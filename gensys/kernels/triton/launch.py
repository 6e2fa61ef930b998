"""Start a kernel: the one place where the device is set and the compiler is given its options."""

from typing import Any

import torch
from torch import Tensor
from triton import JITFunction

__all__ = ["interpreted", "launch"]


def launch(
    kernel: Any, programs: int, like: Tensor, arguments: tuple[Any, ...], *, threads: int, fuse: bool, stages: int = 3
) -> None:
    """Run so many programs of a kernel, each of so many threads, on the device of `like`.

    fuse: whether a * b + c may become one fused multiply-add, of one rounding. It is always said, because Triton's own
    default depends on its version. stages: how many tiles of a loop are on their way at once.
    """
    warp = torch.cuda.get_device_properties(like.device).warp_size if like.is_cuda else 32  # AMD: 64
    with torch.cuda.device_of(like):
        kernel[(programs,)](*arguments, num_warps=threads // warp, num_stages=stages, enable_fp_fusion=fuse)


def interpreted(kernel: Any) -> bool:
    """Whether Triton's interpreter runs this kernel, on the CPU, instead of a GPU."""
    return not isinstance(kernel, JITFunction)
