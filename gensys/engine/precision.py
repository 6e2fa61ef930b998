"""The number format of the matrix products: float32, or bfloat16 under autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

__all__ = ["Precision", "autocast", "resolve"]

Precision = Literal["auto", "fp32", "bf16"]


def _fast_bf16() -> bool:
    """Whether this machine multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def resolve(precision: Precision) -> Literal["fp32", "bf16"]:
    """auto = bf16 where the hardware has it. Resolved once, when a run starts, and written into its run.json."""
    if precision == "auto":
        return "bf16" if _fast_bf16() else "fp32"
    return precision


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A context for the forward passes."""
    if resolve(precision) == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
