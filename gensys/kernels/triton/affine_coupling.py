"""Affine coupling in Triton: scale, shift and log-determinant in one pass, its inverse, and the gradients of both.

    L = bound tanh(s / bound)
    forward   y = x exp(L) + t           logdet = sum L
    inverse   y = (x - t) exp(-L)        logdet = -sum L

Both directions sum L with the same operations in the same order (no multiply is fused with an add), so the two
log-determinants are each other's negative to the last bit. A long row is summed in parts, by several programs, and
a second pass adds the parts: no atomics, and the bits of a row do not depend on the batch.

x, s and t are float32, bfloat16 or float16, not necessarily the same; the arithmetic and logdet are float32.
"""

# A kernel is written in Triton's dialect of Python; these rules take it for Python.
# pyright: reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from gensys.kernels.triton.launch import launch
from gensys.kernels.triton.partial_sums import add_parts

__all__ = ["backward", "forward"]

TILE = 1024
"""Numbers that a program of 128 threads holds at a time: eight each, two loads of 128 bits in float32."""

PART = 8 * TILE
"""The most numbers of a row that one program takes: a long row keeps several programs busy."""


@triton.jit
def _tanh(u: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """(tanh u, its derivative) through exp(-2 |u|), which cannot overflow.

    Near 0 the quotient would cancel: below 0.2 the Taylor series to u^9 errs by less than 1e-9 relative.
    """
    a = tl.abs(u)
    e = tl.exp(-2.0 * a)
    inverse = 1.0 / (1.0 + e)
    z = a * a
    series = (((z * (62 / 2835) - 17 / 315) * z + 2 / 15) * z - 1 / 3) * z * a + a
    t = tl.where(a < 0.2, series, (1.0 - e) * inverse)
    return tl.where(u < 0, -t, t), 4.0 * e * inverse * inverse


@triton.jit
def _forward(
    x: tl.tensor,
    s: tl.tensor,
    t: tl.tensor,
    y: tl.tensor,
    logdet: tl.tensor,
    batch: tl.tensor,
    n: tl.tensor,
    part: tl.tensor,
    bound: tl.tensor,
    INVERSE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
) -> None:
    parts = tl.cdiv(n, part)
    top = tl.program_id(0) // parts * ROWS
    first = tl.program_id(0) % parts * part
    row = tl.arange(0, ROWS)
    real = top + row < batch
    base = top.to(tl.int64) * n  # 64 bits for the one number that needs them
    total = tl.zeros([ROWS, COLS], tl.float32)
    for start in range(first, tl.minimum(first + part, n), COLS):
        col = start + tl.arange(0, COLS)
        valid = real[:, None] & (col < n)[None, :]
        at = row[:, None] * n + col[None, :]
        value = tl.load(x + base + at, valid, 0.0).to(tl.float32)
        shift = tl.load(t + base + at, valid, 0.0).to(tl.float32)
        tanh, _ = _tanh(tl.load(s + base + at, valid, 0.0).to(tl.float32) / bound)
        log_scale = bound * tanh  # 0 where nothing is
        total += log_scale
        if INVERSE:
            tl.store(y + base + at, (value - shift) * tl.exp(-log_scale), valid)
        else:
            tl.store(y + base + at, value * tl.exp(log_scale) + shift, valid)
    total = tl.sum(total, 1)
    if INVERSE:
        total = -total
    tl.store(logdet + (tl.program_id(0) % parts).to(tl.int64) * batch + top + row, total, real)


@triton.jit
def _backward(
    dy: tl.tensor,
    dlogdet: tl.tensor,
    x: tl.tensor,
    y: tl.tensor,
    s: tl.tensor,
    dx: tl.tensor,
    ds: tl.tensor,
    dt: tl.tensor | None,
    batch: tl.tensor,
    n: tl.tensor,
    bound: tl.tensor,
    INVERSE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
) -> None:
    tiles = tl.cdiv(n, COLS)
    top = tl.program_id(0) // tiles * ROWS
    row = tl.arange(0, ROWS)
    col = tl.program_id(0) % tiles * COLS + tl.arange(0, COLS)
    real = top + row < batch
    valid = real[:, None] & (col < n)[None, :]
    base = top.to(tl.int64) * n
    at = row[:, None] * n + col[None, :]
    dlog = tl.load(dlogdet + top + row, real, 0.0)[:, None]
    d = tl.load(dy + base + at, valid, 0.0).to(tl.float32)
    tanh, slope = _tanh(tl.load(s + base + at, valid, 0.0).to(tl.float32) / bound)
    if INVERSE:  # dy/dL = -y, dy/dt = -exp(-L)
        d_in = d * tl.exp(-bound * tanh)
        d_log_scale = -d * tl.load(y + base + at, valid, 0.0).to(tl.float32) - dlog
        tl.store(dt + base + at, -d_in, valid)
    else:  # dy/dL = x exp(L), dy/dt = 1
        d_in = d * tl.exp(bound * tanh)
        d_log_scale = d_in * tl.load(x + base + at, valid, 0.0).to(tl.float32) + dlog
    tl.store(dx + base + at, d_in, valid)
    tl.store(ds + base + at, d_log_scale * slope, valid)


def _tile(n: int) -> tuple[int, int]:
    """(rows, columns) of a tile for rows of n numbers: a function of n alone, so that a row's sum is too."""
    cols = min(triton.next_power_of_2(n), TILE)
    return TILE // cols, cols


def forward(x: Tensor, s: Tensor, t: Tensor, bound: float, inverse: bool, y: Tensor) -> Tensor:
    """Write the transformed x (B, *S) into `y`; return logdet (B,) float32."""
    batch = x.shape[0]
    if not x.numel():
        return x.new_zeros(batch, dtype=torch.float32)
    n = x.numel() // batch
    rows, cols = _tile(n)
    parts = triton.cdiv(n, PART)
    logdet = x.new_empty(1, parts, batch, dtype=torch.float32)
    arguments = (x, s, t, y, logdet, batch, n, PART, float(bound), inverse, rows, cols)
    launch(_forward, triton.cdiv(batch, rows) * parts, x, arguments, threads=128, fuse=False)
    return add_parts(logdet).squeeze(0)


def backward(
    dy: Tensor, dlogdet: Tensor, x: Tensor, y: Tensor, s: Tensor, bound: float, inverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx, ds, dt) of `forward`; x is what went into it, y what came out, s and t are of one dtype.

    Of the direct transformation dt is dy itself, not a copy.
    """
    dx, ds = torch.empty_like(x), torch.empty_like(s)
    dt = torch.empty_like(s) if inverse else dy.to(s.dtype)
    if x.numel():
        batch, n = x.shape[0], x.numel() // x.shape[0]
        rows, cols = _tile(n)
        arguments = (dy, dlogdet, x, y, s, dx, ds, dt if inverse else None, batch, n, float(bound), inverse, rows, cols)
        launch(_backward, triton.cdiv(batch, rows) * triton.cdiv(n, cols), x, arguments, threads=128, fuse=True)
    return dx, ds, dt
