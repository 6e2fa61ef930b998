"""What the kernels and the models are meant to reach, as numbers that the page of results holds them against.

A mark names a row, the way in which ours is called, and a peer: the ratio to it, of time or of memory, or the share of
the machine's limit, is to be at least so much; an error at most so much.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["ITSELF", "MARKS", "Mark", "found", "met"]

ITSELF = "one thread"
"""The peer that every row gets when several threads are measured."""


@dataclass(frozen=True)
class Mark:
    """ours, peer, shape: "" = any of them. ceiling: why it is not met, and what was measured to be possible."""

    row: str
    bound: float
    ours: str = ""
    peer: str = ""
    shape: str = ""
    dtype: str = "float32"
    what: Literal["ratio", "limit_fraction", "ours_error", "memory"] = "ratio"
    ceiling: str = ""


_SMALL, _LARGE = "32x256x384", "8x1024x1152"
_COMPILED = "torch.compile"

# Why marks are missed on the machine of docs/performance.md (one core of a Zen 4), and what is possible there.
_CACHED = "25 MB just about fit into the last-level cache: 1.7 to 2.5 by what is left in it, at 92 to 119% of copy"
_COLD = (
    "63 MB go through memory at 22 GB/s, as memcpy does between tensors that are in no cache; the share in the table "
    "is of a copy that is in one"
)
_PEAK = "at 93% of the multiply-adds that the core can do, so 1.08 times as fast at most"
_CALL = (
    "a call of any operator from Python with its checks takes 7 of the 20 microseconds of the smallest shape; the "
    "stepper, which samplers use, makes one for a whole step"
)
_SAMPLING = (
    "193 GFLOP at 89% of what the core can do: at 100%, 1.38. With weights packed in advance it was 1.26, for 1.4 "
    "times the memory, which is not worth it"
)
_TRAINING = "290 GFLOP at 82% of what the core can do: at 100%, 1.36; what is left is in oneDNN's products of gradients"

MARKS = (
    Mark("adaln_modulate", 2.4, "out=", _COMPILED, _SMALL, ceiling=_CACHED),
    Mark("adaln_modulate", 0.95, "out=", shape=_LARGE, what="limit_fraction"),
    Mark("adaln_modulate", 0.75, "out=", shape=_LARGE, dtype="bfloat16", what="limit_fraction"),
    Mark("adaln_modulate backward", 2.0, "fresh", _COMPILED, _SMALL, ceiling=_COLD),
    Mark("adaln_modulate backward", 1.0, "fresh", _COMPILED, _LARGE),
    Mark("adaln_modulate", 1.0, "fresh", _COMPILED),
    Mark("vq_nearest", 0.0, what="ours_error"),
    Mark("vq_nearest", 1.05, peer="faiss IndexFlatL2", shape="16384x1024x8"),
    Mark("vq_nearest", 1.05, peer="faiss IndexFlatL2", shape="16384x8192x8"),
    Mark("vq_nearest", 1.25, peer="faiss IndexFlatL2", shape="16384x1024x64"),
    Mark("vq_nearest", 1.25, peer="faiss IndexFlatL2", shape="16384x4096x64"),
    Mark("vq_nearest", 1.1, peer="faiss IndexFlatL2", shape="16384x1024x256"),
    Mark("vq_nearest", 1.1, peer="faiss IndexFlatL2", shape="1024x8192x256"),
    Mark("vq_nearest", 20.0, peer="vector-quantize-pytorch", ceiling=_PEAK),
    Mark("affine_coupling", 2.4, "out=", _COMPILED),
    Mark("affine_coupling inverse", 2.4, "out=", _COMPILED),
    Mark("affine_coupling backward", 1.7, "fresh", _COMPILED),
    Mark("combine ddim", 6.0, "out=", "diffusers DDIMScheduler.step", ceiling=_CALL),
    Mark("stepper ddim", 6.0, "stepper", "diffusers DDIMScheduler"),
    Mark("stepper dpmpp", 5.0, "stepper", "diffusers DPMSolverMultistepScheduler"),
    Mark("combine ddim noise", 2.0, "out=", "torch.randn alone"),
    Mark("vq_nearest", 1.7, peer=ITSELF),
    Mark("linear_gelu", 1.7, peer=ITSELF),
    Mark("linear_gelu", 1.7, peer=ITSELF, dtype="bfloat16"),
    Mark("attention", 1.7, peer=ITSELF),
    Mark("attention", 1.7, peer=ITSELF, dtype="bfloat16"),
    Mark("dit sampling step", 1.25, "gensys", "diffusers", ceiling=_SAMPLING),
    Mark("dit sampling step", 1.25, "gensys", "diffusers", dtype="bfloat16"),
    Mark("dit training step", 1.15, "gensys", "diffusers", ceiling=_TRAINING),
    Mark("dit training step", 1.15, "gensys", "diffusers", dtype="bfloat16"),
    Mark("read shuffled batches", 20.0, "gensys", "zarr-python", dtype="float16"),
    Mark("read shuffled batches", 10.0, "gensys", "mosaicml mds", dtype="float16"),
    Mark("read shuffled batches", 0.6, "gensys", "numpy memmap", dtype="float16"),
    Mark("dit sampling step", 1.0, "gensys", "diffusers", what="memory"),
    Mark("dit training step", 1.0, "gensys", "diffusers", what="memory"),
)


def found(mark: Mark, rows: Iterable[Mapping[str, Any]]) -> float | None:
    """The worst figure of the lines that a mark is about; None if none of them was measured."""
    values = [value for line in rows if _fits(mark, line) and (value := _figure(mark, line)) is not None]
    if not values:
        return None
    return max(values) if mark.what == "ours_error" else min(values)


def met(mark: Mark, value: float) -> bool:
    """Whether a figure is good enough."""
    return value <= mark.bound if mark.what == "ours_error" else value >= mark.bound


def _fits(mark: Mark, line: Mapping[str, Any]) -> bool:
    named = {"name": mark.row, "ours": mark.ours, "peer": mark.peer, "shape": mark.shape, "dtype": mark.dtype}
    return all(not wanted or line[name] == wanted for name, wanted in named.items())


def _figure(mark: Mark, line: Mapping[str, Any]) -> float | None:
    if mark.what == "memory":
        ours, theirs = line["ours_peak_bytes"], line["peer_peak_bytes"]
        return theirs / ours if ours and theirs else None
    return line[mark.what]
