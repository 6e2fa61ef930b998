"""Counter-based normals in Triton: the arithmetic of gensys/noise.py, operation by operation.

Triton's own `tl.philox` is Philox4x32-10 with the counter and key laid out as ours, so the words are the same integers
everywhere. Box and Muller's logarithm, sine and cosine are written out as they are there, with division and square
root in IEEE rounding and no multiply fused with an add, so that the normals are the same bits too wherever these
promises are kept. Under the interpreter they are.
"""

# A kernel is written in Triton's dialect of Python; these rules take it for Python.
# pyright: reportInvalidTypeForm=false

import triton
import triton.language as tl
from torch import Tensor

from gensys.kernels.triton.launch import launch
from gensys.noise import Noise

__all__ = ["BLOCK", "counters_of", "normals", "philox_normal", "words"]

BLOCK = 1024
"""Elements of one sample that a program of 128 threads draws: two counters each."""


@triton.jit
def words(
    seed: tl.tensor, id: tl.tensor, step: tl.tensor, stream: tl.tensor, quad: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The four uint32 words of the counters (quad, id low, step, stream | id high << 8)."""
    tail = stream.to(tl.uint32) | ((id >> 32) << 8).to(tl.uint32)
    return tl.philox(seed, quad, id.to(tl.uint32), step.to(tl.uint32), tail)


@triton.jit
def _log(u: tl.tensor) -> tl.tensor:
    """ln u for u in (0, 1): see gensys/noise.py for the series."""
    bits = u.to(tl.int32, bitcast=True)
    e = (bits - 0x3F3504F3) >> 23
    m = (bits - (e << 23)).to(tl.float32, bitcast=True)
    s = tl.div_rn(m - 1.0, m + 1.0)
    z = s * s
    series = (((z * (1 / 9) + 1 / 7) * z + 1 / 5) * z + 1 / 3) * z * s + s
    return e.to(tl.float32) * 0.6931471805599453 + (series + series)


@triton.jit
def _polar(radius_word: tl.tensor, angle_word: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Two normals from two words: Box and Muller (1958)."""
    unit = ((radius_word >> 9).to(tl.int32).to(tl.float32) + 0.5) * (1 / (1 << 23))
    radius = tl.sqrt_rn(_log(unit) * -2.0)
    x = (((angle_word >> 9) & 0x1FFFFF).to(tl.int32).to(tl.float32) + 0.5) * (1 / (1 << 21)) - 0.5
    x = x * 1.5707963267948966
    z = x * x
    sin = (((z * (1 / 362880) - 1 / 5040) * z + 1 / 120) * z - 1 / 6) * z * x + x
    cos = ((((z * (-1 / 3628800) + 1 / 40320) * z - 1 / 720) * z + 1 / 24) * z - 0.5) * z + 1.0
    odd = (angle_word & 0x40000000) != 0
    flip = (angle_word & 0x80000000) != 0  # half a turn
    a = tl.where(odd, -sin, cos)
    b = tl.where(odd, cos, sin)
    return radius * tl.where(flip, -a, a), radius * tl.where(flip, -b, b)


@triton.jit
def normals(
    seed: tl.tensor,
    id: tl.tensor,
    step: tl.tensor,
    stream: tl.tensor,
    first: tl.tensor,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """The normals of the elements first, first + 1, ..., first + BLOCK - 1 of one sample; first divides by 4."""
    quad = (first // 4 + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    w0, w1, w2, w3 = words(seed, id, step, stream, quad)
    z0, z1 = _polar(w0, w1)
    z2, z3 = _polar(w2, w3)
    return tl.interleave(tl.interleave(z0, z2), tl.interleave(z1, z3))


@triton.jit(do_not_specialize=["seed", "step", "stream"])
def _philox_normal(
    out: tl.tensor,
    ids: tl.tensor,
    seed: tl.int64,
    step: tl.int64,
    stream: tl.int32,
    n: tl.int64,
    BLOCK: tl.constexpr,
) -> None:
    blocks = tl.cdiv(n, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    first = tl.program_id(0) % blocks * BLOCK
    element = first + tl.arange(0, BLOCK)
    z = normals(seed, tl.load(ids + row), step, stream, first, BLOCK)
    tl.store(out + row * n + element, z, element < n)


def philox_normal(out: Tensor, noise: Noise, stream: int) -> None:
    """Write the normals of each id into its row of `out`, (B, *S) float32. The ids are not checked (see combine)."""
    if out.numel():
        n = out.numel() // out.shape[0]
        arguments = (out, *counters_of(noise, stream), n, BLOCK)
        launch(_philox_normal, out.shape[0] * triton.cdiv(n, BLOCK), out, arguments, threads=128, fuse=False)


def counters_of(noise: Noise, stream: int) -> tuple[Tensor, int, int, int]:
    """(ids, seed, step, stream) as the kernels take them, the 64 bits of the seed as a signed integer."""
    return noise.ids.contiguous(), (noise.seed + (1 << 63)) % (1 << 64) - (1 << 63), noise.step, int(stream)
