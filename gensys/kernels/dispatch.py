"""Which implementation of an op runs, and why: one table, one pure function, one way to force a choice.

Every op has a "reference", plain torch, which is the definition and runs everywhere. The table `KERNELS` lists what
else there is, in the order of preference; `choose` takes the first that can run. `gensys doctor` prints `table()`.

    native   C++ with SIMD (csrc/cpu), on a CPU            cuda     CUDA C++ (csrc/cuda), on an NVIDIA GPU
    triton   Triton, on a GPU; on a CPU only under Triton's interpreter and only when forced (it is for tests)
    torch    torch's own fused operator, where the definition is not what torch does best

GENSYS_KERNELS=NAME in the environment forces an implementation for the whole process, `force` within a block.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch

from gensys import native

__all__ = ["KERNELS", "OPS", "Choice", "Kernel", "Row", "Unavailable", "choose", "force", "table"]

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_TRITON = (torch.float32, torch.bfloat16, torch.float16)
_FAST = (torch.float32, torch.bfloat16)
_32 = (torch.float32,)

OPS = {
    "combine": _FLOATS,
    "philox_normal": (torch.float32,),
    "adaln": _FLOATS,
    "linear": _FLOATS,
    "linear_gelu": _FLOATS,
    "vq_nearest": _FLOATS,
    "affine_coupling": _FLOATS,
    "attention": _FLOATS,
}
"""The dtypes that each op is defined for."""


@dataclass(frozen=True)
class Kernel:
    """An implementation of an op, and where it runs."""

    op: str
    implementation: str
    device: str
    dtypes: tuple[torch.dtype, ...]

    def refusal(self, device: str, dtype: torch.dtype, forced: bool, missing: str) -> str:
        """Why it cannot run on this device type and dtype; empty if it can."""
        if device != self.device:
            return f"{self.implementation} runs on {self.device}, not on {device}"
        if dtype not in self.dtypes:
            return f"{self.implementation} takes {', '.join(map(_name, self.dtypes))}, not {_name(dtype)}"
        if (self.implementation, device) == ("triton", "cpu") and not forced:
            return "triton runs on a CPU when forced only: its interpreter is for tests"
        return f"{self.implementation} is missing: {missing}" if missing else ""


KERNELS = (
    Kernel("combine", "native", "cpu", _32),
    Kernel("combine", "cuda", "cuda", _32),
    Kernel("combine", "triton", "cuda", _TRITON),
    Kernel("combine", "triton", "cpu", _TRITON),
    Kernel("philox_normal", "native", "cpu", _32),
    Kernel("philox_normal", "cuda", "cuda", _32),
    Kernel("philox_normal", "triton", "cuda", _32),
    Kernel("philox_normal", "triton", "cpu", _32),
    Kernel("adaln", "native", "cpu", _FAST),
    Kernel("adaln", "cuda", "cuda", _FAST),
    Kernel("adaln", "triton", "cuda", _TRITON),
    Kernel("adaln", "triton", "cpu", _TRITON),
    Kernel("linear", "native", "cpu", _FAST),
    Kernel("linear_gelu", "native", "cpu", _FAST),
    Kernel("vq_nearest", "native", "cpu", _FAST),
    Kernel("vq_nearest", "triton", "cuda", _TRITON),
    Kernel("vq_nearest", "triton", "cpu", _TRITON),
    Kernel("affine_coupling", "native", "cpu", _FAST),
    Kernel("affine_coupling", "triton", "cuda", _TRITON),
    Kernel("affine_coupling", "triton", "cpu", _TRITON),
    Kernel("attention", "native", "cpu", _FAST),
    Kernel("attention", "torch", "cpu", _FLOATS),
    Kernel("attention", "torch", "cuda", _FLOATS),
)


def _missing(op: str, implementation: str, device: str, dtype: torch.dtype) -> str:
    """Why an implementation is not installed or cannot run on this device type; empty if it can."""
    if op in ("linear", "linear_gelu") and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return "this torch was built without oneDNN"
    if op in ("linear", "linear_gelu") and dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "oneDNN multiplies no bfloat16 on this CPU"
    if implementation == "torch":
        return ""
    if implementation == "triton":
        if importlib.util.find_spec("triton") is None:
            return "the package triton is not installed (pip install gensys[triton])"
        if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            return "on a CPU it needs its interpreter (TRITON_INTERPRET=1 before it is imported)"
        return "" if device == "cpu" or torch.cuda.is_available() else "there is no GPU that this torch can use"
    if implementation == "cuda":
        from gensys.kernels.cuda.device import why_missing

        return why_missing()
    return native.why_missing


class Choice(NamedTuple):
    """What runs ("reference" or the `implementation` of a `Kernel`), and why."""

    implementation: str
    why: str


class Row(NamedTuple):
    """One line of `table()`."""

    op: str
    device: str
    dtype: str
    implementation: str
    why: str


class Unavailable(RuntimeError):
    """A forced implementation cannot run here."""


_FORCED_BY_ENVIRONMENT = os.environ.get("GENSYS_KERNELS")
_forced: ContextVar[str | None] = ContextVar("forced", default=None)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@torch.compiler.assume_constant_result  # a traced graph keeps the choice that it was traced with
def choose(op: str, device: torch.device | str, dtype: torch.dtype) -> Choice:
    """The implementation of `op` that runs for tensors of this device and dtype.

    A function of its arguments, of what is installed and of `force`; it touches no tensor and changes nothing.
    """
    isa = "" if native.extension is None else native.extension.isa()
    return _choose(op, torch.device(device).type, dtype, _forced.get() or _FORCED_BY_ENVIRONMENT, isa)


@cache  # a solver asks before every step
def _choose(op: str, device: str, dtype: torch.dtype, forced: str | None, isa: str) -> Choice:
    if op not in OPS:
        raise ValueError(f"'op' must be one of {sorted(OPS)}, got {op!r}")
    if dtype not in OPS[op]:
        raise ValueError(f"'dtype' of {op} must be one of {', '.join(map(_name, OPS[op]))}, got {_name(dtype)}")
    if forced == "reference":
        return Choice("reference", "forced")
    _require_known("GENSYS_KERNELS", forced)
    refusals = []
    for kernel in KERNELS:
        if kernel.op == op and forced in (None, kernel.implementation):
            missing = _missing(op, kernel.implementation, device, dtype)
            refusal = kernel.refusal(device, dtype, forced is not None, missing)
            if not refusal:
                how = f"compiled for {isa}" if kernel.implementation == "native" else f"on {device}"
                if device == "cuda" and kernel.implementation in ("cuda", "triton"):
                    how += ", where no one has run it yet: compare with GENSYS_KERNELS=reference"
                return Choice(kernel.implementation, f"{'forced, ' if forced else ''}{how}")
            refusals.append(refusal)
    reasons = "; ".join(refusals) or "there is no such implementation"
    if forced:
        raise Unavailable(f"{op} was forced to {forced!r}, but {reasons}")
    return Choice("reference", reasons)


def _require_known(name: str, implementation: str | None) -> None:
    known = {"reference"} | {kernel.implementation for kernel in KERNELS}
    if implementation not in known | {None}:
        raise ValueError(f"{name!r} must be one of {sorted(known)}, got {implementation!r}")


@contextmanager
def force(implementation: str, *, isa: str | None = None) -> Iterator[None]:
    """Within the block every op runs as `implementation`, or `choose` raises `Unavailable` with the reason.

    isa: also use this instruction set of the native kernels, in the whole process ("baseline", "avx2", "avx512").
    For tests and measurements: combine and philox_normal return the same bits, the others sum in another order.
    """
    _require_known("implementation", implementation)
    token = _forced.set(implementation)
    try:
        with nullcontext() if isa is None else _use_isa(isa):
            yield
    finally:
        _forced.reset(token)


@contextmanager
def _use_isa(isa: str) -> Iterator[None]:
    extension = native.extension
    if extension is None:
        raise Unavailable(f"'isa' chooses among native kernels, which are missing: {native.why_missing}")
    if isa not in extension.isas():
        raise Unavailable(f"'isa' must be one that this CPU has, {extension.isas()}, got {isa!r}")
    before = extension.isa()
    extension.use_isa(isa)
    try:
        yield
    finally:
        extension.use_isa(before)


def table() -> list[Row]:
    """What runs on this machine for every op, device and dtype."""
    accelerator = torch.accelerator.current_accelerator()
    devices = ["cpu"] if accelerator is None else ["cpu", accelerator.type]
    return [
        Row(op, device, _name(dtype), *choose(op, device, dtype))
        for op, dtypes in OPS.items()
        for device in devices
        for dtype in dtypes
    ]
