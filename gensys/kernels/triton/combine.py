"""combine in Triton: a weighted sum of up to eight tensors, fresh noise and a clip, in one pass over memory.

    out = clip(coefs[0] tensors[0] + ... + noise_coef z)        z = the counter-based normals of gensys/noise.py

The sum goes from left to right with every product and sum rounded (no multiply is fused with an add), as the
definition has it; the normals are drawn in registers. 16-bit tensors are summed in float32 and rounded once.
"""

# A kernel is written in Triton's dialect of Python; these rules take it for Python.
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from gensys.kernels.triton.launch import launch
from gensys.kernels.triton.philox_normal import BLOCK, counters_of, normals
from gensys.noise import Noise

__all__ = ["combine"]


@triton.jit(do_not_specialize=["seed", "step", "stream"])
def _combine(
    out: tl.tensor,
    tensors: tl.tuple,
    coefs: tl.tuple,
    noise_coef: tl.tensor,
    ids: tl.tensor | None,
    seed: tl.int64,
    step: tl.int64,
    stream: tl.int32,
    low: tl.tensor | None,
    high: tl.tensor | None,
    n: tl.int64,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    blocks = tl.cdiv(n, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    first = tl.program_id(0) % blocks * BLOCK
    element = first + tl.arange(0, BLOCK)
    valid = element < n
    at = row * n + element
    total = tl.zeros([BLOCK], tl.float32)
    for j in tl.static_range(COUNT):
        term = coefs[j] * tl.load(tensors[j] + at, valid, 0.0).to(tl.float32)
        total = term if j == 0 else total + term  # not 0 + term: that would lose the sign of -0
    if ids is not None:
        term = noise_coef * normals(seed, tl.load(ids + row), step, stream, first, BLOCK)
        total = term if COUNT == 0 else total + term
    if low is not None:
        total = tl.where(total > high, high, tl.where(total < low, low, total))  # NaN stays
    tl.store(out + at, total, valid)


def combine(
    out: Tensor,
    tensors: Sequence[Tensor],
    coefs: Sequence[float],
    noise_coef: float = 0.0,
    noise: Noise | None = None,
    stream: int = 0,
    clip: tuple[float, float] | None = None,
) -> None:
    """Write the sum into `out`, (B, *S) float32, bfloat16 or float16; it may be one of the tensors.

    noise is drawn where noise_coef is not 0; its ids are not checked, which would wait for the GPU. clip: (low, high),
    the interval that the sum is clipped to; NaN stays NaN.
    """
    if not out.numel():
        return
    drawn = noise if noise_coef else None
    rows = 1 if drawn is None else out.shape[0]  # without noise nobody needs to know where a row ends
    n = out.numel() // rows
    counters = (None, 0, 0, 0) if drawn is None else counters_of(drawn, stream)
    low, high = (None, None) if clip is None else map(float, clip)
    terms = (tuple(tensors), tuple(map(float, coefs)), float(noise_coef))  # an int would compile a kernel of its own
    arguments = (out, *terms, *counters, low, high, n, len(tensors), BLOCK)
    launch(_combine, rows * triton.cdiv(n, BLOCK), out, arguments, threads=128, fuse=False)
