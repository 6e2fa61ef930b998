"""Nearest code in Triton: a matrix product whose every tile is compared and forgotten, so N x K is never stored.

    index[i] = argmin_k |x_i - e_k|^2 = argmax_k x_i e_k - |e_k|^2 / 2        ties go to the lowest k

A program takes a block of rows and walks the codebook. Each lane of the tile keeps the best score that it met and the
tile it met it in, three instructions a score; only at the end are the lanes compared with each other. A lane replaces
its best by a strictly better one alone, so equal codes resolve to the lowest index: within a lane and among the lanes.

float32 is multiplied as "tf32x3" (three TF32 products, an error like float32's) on NVIDIA, and as "ieee" on AMD, which
has no such mode; bfloat16 and float16 rows and codes are multiplied as they are. Sums and comparisons are float32.
A row with NaN has no nearest code and gets index 0; the distance, computed from the difference itself, is NaN.
"""

# A kernel is written in Triton's dialect of Python; these rules take it for Python.
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from gensys.kernels.triton.launch import interpreted, launch

__all__ = ["Precision", "nearest"]

Precision = Literal["tf32x3", "ieee"]

THREADS = 256
"""Of a program, for every tile of `_tile`."""


@triton.jit
def _half_squares(
    codebook: tl.tensor,
    half: tl.tensor,
    K: tl.tensor,
    D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """|e_k|^2 / 2. Here and not in torch, because every row must be summed alike: equal codes have to tie."""
    row = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    total = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    for first in range(0, D, BLOCK_D):
        dim = first + tl.arange(0, BLOCK_D)
        valid = (row < K)[:, None] & (dim < D)[None, :]
        value = tl.load(codebook + row[:, None] * D + dim[None, :], valid, 0.0).to(tl.float32)
        total += value * value
    tl.store(half + row, 0.5 * tl.sum(total, 1), row < K)


@triton.jit
def _nearest(
    x: tl.tensor,
    codebook: tl.tensor,
    half: tl.tensor,
    index: tl.tensor,
    distance: tl.tensor | None,
    N: tl.tensor,
    K: tl.tensor,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:
    top = tl.program_id(0) * BLOCK_N
    row = tl.arange(0, BLOCK_N)
    code = tl.arange(0, BLOCK_K)
    dim = tl.arange(0, BLOCK_D)
    real = top + row < N
    x_at = x + top.to(tl.int64) * D + row[:, None] * D + dim[None, :]
    code_at = codebook + code[None, :] * D + dim[:, None]
    if D <= BLOCK_D:  # the rows stay on the chip
        rows = tl.load(x_at, real[:, None] & (dim < D)[None, :], 0.0)
        if WIDEN:
            rows = rows.to(tl.float32)

    best = tl.full([BLOCK_N, BLOCK_K], float("-inf"), tl.float32)
    tile = tl.zeros([BLOCK_N, BLOCK_K], tl.int32)  # where in the codebook the best one's tile starts
    for start in range(0, K, BLOCK_K):
        there = (start + code < K)[None, :]
        if D <= BLOCK_D:
            codes = tl.load(code_at + start * D, there & (dim < D)[:, None], 0.0)
            if WIDEN:
                codes = codes.to(tl.float32)
            score = tl.dot(rows, codes, input_precision=PRECISION)
        else:
            score = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
            for first in range(0, D, BLOCK_D):
                more = first + dim < D
                rows = tl.load(x_at + first, real[:, None] & more[None, :], 0.0)
                codes = tl.load(code_at + start * D + first, there & more[:, None], 0.0)
                if WIDEN:
                    rows = rows.to(tl.float32)
                    codes = codes.to(tl.float32)
                score = tl.dot(rows, codes, score, input_precision=PRECISION)
        score -= tl.load(half + start + code, start + code < K, float("inf"))[None, :]  # no code there: it never wins
        better = score > best
        best = tl.where(better, score, best)
        tile = tl.where(better, start, tile)

    winning = tl.max(best, 1)
    winner = tl.min(tl.where(best == winning[:, None], tile + code[None, :], 0x7FFFFFFF), 1)
    tl.store(index + top + row, winner.to(tl.int64), real)
    if distance is not None:
        total = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        for first in range(0, D, BLOCK_D):
            valid = real[:, None] & (first + dim < D)[None, :]
            value = tl.load(x_at + first, valid, 0.0).to(tl.float32)
            nearest = tl.load(codebook + winner[:, None] * D + (first + dim)[None, :], valid, 0.0).to(tl.float32)
            total += (value - nearest) * (value - nearest)
        tl.store(distance + top + row, tl.sum(total, 1), real)


def _tile(width: int, narrow: bool, precision: Precision) -> tuple[int, int, int]:
    """(rows, codes, dimensions) of a tile: the largest whose scores, bests and operands fit into the registers.

    A row of no more than these dimensions stays on the chip while its program walks the codebook.
    """
    whole = max(16, triton.next_power_of_2(width))
    if narrow:
        return 128, 64, whole if whole <= 64 else 32
    if precision == "tf32x3":  # each operand is two numbers, a high and a low half
        return 128, 32, whole if whole <= 64 else 32
    return 64, 64, 16


def nearest(
    x: Tensor, codebook: Tensor, index: Tensor, distance: Tensor | None = None, precision: Precision | None = None
) -> None:
    """Write the index of the nearest code for each row of x (N, D) into `index` (N,) int64, codebook (K, D), K > 0.

    distance: (N,) float32, receives the squared distances. precision: of float32 products; "tf32x3" needs NVIDIA.
    """
    rows, (codes, width) = x.shape[0], codebook.shape
    if codebook.numel() >= 1 << 31:
        raise ValueError(f"'codebook' must have fewer than 2^31 numbers for the Triton kernel, got {codes} x {width}")
    if not rows:
        return
    narrow = x.dtype == codebook.dtype and x.dtype in (torch.bfloat16, torch.float16)
    widen = not narrow or interpreted(_nearest)  # the interpreter multiplies the bits of bfloat16 as if integers
    if precision is None:
        precision = "ieee" if narrow or torch.version.hip else "tf32x3"
    half = codebook.new_empty(codes, dtype=torch.float32)
    arguments = (codebook, half, codes, width, 16, 64)
    launch(_half_squares, triton.cdiv(codes, 16), codebook, arguments, threads=128, fuse=True)
    block_n, block_k, block_d = _tile(width, narrow, precision)
    arguments = (x, codebook, half, index, distance, rows, codes, width, block_n, block_k, block_d, precision, widen)
    launch(_nearest, triton.cdiv(rows, block_n), x, arguments, threads=THREADS, fuse=True)
