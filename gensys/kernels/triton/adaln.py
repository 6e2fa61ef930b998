"""adaln in Triton: LayerNorm, modulation and gated residual of a DiT block in one pass, and its deterministic backward.

    h = x + gate y        out = (h - mean h) / sqrt(var h + eps) (1 + scale) + shift

One forward and one backward kernel serve the three ops: what an op lacks (the gate, or the norm) is None, and Triton
compiles the kernel without it. A program holds whole rows in registers, so the variance is the mean square of the
centred numbers, never a difference of large ones. All arithmetic is float32.

The gradients of shift, scale and gate are sums over the tokens. A program of the backward sums some tokens into its own
row of a buffer, and a second pass adds these rows: no atomics, so the bits do not depend on the schedule. How many
tokens a program takes depends on how many there are, not on the batch: a sample's gradient has the same bits in any.

Residual x, h and compute y, out may differ in dtype (float32, bfloat16, float16); gradients have their tensor's dtype.
"""

# A kernel is written in Triton's dialect of Python; these rules take it for Python.
# pyright: reportPossiblyUnboundVariable=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from gensys.kernels.triton.launch import launch
from gensys.kernels.triton.partial_sums import add_parts

__all__ = [
    "MAX_WIDTH",
    "gate",
    "gate_backward",
    "gate_modulate",
    "gate_modulate_backward",
    "modulate",
    "modulate_backward",
]

MAX_WIDTH = 8192
"""The widest row, D, that a program can hold in registers."""

SPLIT_WIDTH = 4096
"""Wider rows leave no room for both halves of `gate_modulate_backward`: they take two kernels and read dx again."""


@triton.jit
def _forward(
    x: tl.tensor,
    y: tl.tensor | None,
    gate: tl.tensor | None,
    shift: tl.tensor | None,
    scale: tl.tensor | None,
    h: tl.tensor | None,
    out: tl.tensor | None,
    stats: tl.tensor | None,
    tokens: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    COLS: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    tiles = tl.cdiv(tokens, ROWS)
    sample = (tl.program_id(0) // tiles).to(tl.int64)
    first = tl.program_id(0) % tiles * ROWS
    row = tl.arange(0, ROWS)[:, None]
    col = tl.arange(0, COLS)[None, :]
    here = col < WIDTH
    real = first + row < tokens
    start = (sample * tokens + first) * WIDTH  # 64 bits for the one number that needs them
    at = row * WIDTH + col
    vector = sample * WIDTH  # where this sample's shift, scale and gate are

    raw = tl.load(x + start + at, real & here, 0.0)
    value = raw.to(tl.float32)
    if y is not None:
        gates = tl.load(gate + vector + col, here, 0.0)
        added = value + gates * tl.load(y + start + at, real & here, 0.0).to(tl.float32)
        rounded = added.to(raw.dtype)
        tl.store(h + start + at, rounded, real & here)
        value = rounded.to(tl.float32)  # the norm is that of the h that is stored, as the backward will see it
    if out is not None:
        factor = 1.0 + tl.load(scale + vector + col, here, 0.0)
        offset = tl.load(shift + vector + col, here, 0.0)
        mean = tl.sum(value, 1, keep_dims=True) / WIDTH
        centred = tl.where(here, value - mean, 0.0)
        rstd = 1.0 / tl.sqrt_rn(tl.sum(centred * centred, 1, keep_dims=True) / WIDTH + eps)
        tl.store(out + start + at, centred * rstd * factor + offset, real & here)
        where = stats + (sample * tokens + first) * 2 + row * 2
        tl.store(where, mean, real)
        tl.store(where + 1, rstd, real)


@triton.jit
def _backward(
    dh: tl.tensor | None,
    dout: tl.tensor | None,
    h: tl.tensor | None,
    y: tl.tensor | None,
    gate: tl.tensor | None,
    scale: tl.tensor | None,
    stats: tl.tensor | None,
    dx: tl.tensor | None,
    dy: tl.tensor | None,
    dshift: tl.tensor | None,
    dscale: tl.tensor | None,
    dgate: tl.tensor | None,
    tokens: tl.tensor,
    part: tl.tensor,
    WIDTH: tl.constexpr,
    COLS: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    parts = tl.cdiv(tokens, part)
    sample = (tl.program_id(0) // parts).to(tl.int64)
    first = tl.program_id(0) % parts * part
    row = tl.arange(0, ROWS)[:, None]
    col = tl.arange(0, COLS)[None, :]
    here = col < WIDTH
    at = row * WIDTH + col
    vector = sample * WIDTH
    if dout is not None:
        factor = 1.0 + tl.load(scale + vector + col, here, 0.0)
        sum_shift = tl.zeros([ROWS, COLS], tl.float32)
        sum_scale = tl.zeros([ROWS, COLS], tl.float32)
    if y is not None:
        gates = tl.load(gate + vector + col, here, 0.0)
        sum_gate = tl.zeros([ROWS, COLS], tl.float32)

    for token in range(first, tl.minimum(first + part, tokens), ROWS):
        real = token + row < tokens
        start = (sample * tokens + token) * WIDTH
        total = tl.zeros([ROWS, COLS], tl.float32)
        if dh is not None:
            total += tl.load(dh + start + at, real & here, 0.0).to(tl.float32)
        if dout is not None:
            where = stats + (sample * tokens + token) * 2 + row * 2
            mean = tl.load(where, real, 0.0)
            rstd = tl.load(where + 1, real, 0.0)
            norm = (tl.load(h + start + at, real & here, 0.0).to(tl.float32) - mean) * rstd
            d = tl.load(dout + start + at, real & here, 0.0).to(tl.float32)  # 0 outside: it wipes out norm there
            sum_shift += d
            sum_scale += d * norm
            d *= factor
            along = tl.sum(d * norm, 1, keep_dims=True) / WIDTH
            total += rstd * (d - tl.sum(d, 1, keep_dims=True) / WIDTH - norm * along)
            tl.store(dx + start + at, total, real & here)
        if y is not None:
            sum_gate += total * tl.load(y + start + at, real & here, 0.0).to(tl.float32)
            tl.store(dy + start + at, total * gates, real & here)

    sums = tl.program_id(0).to(tl.int64) * WIDTH  # where this program's row of the buffers is
    if dout is not None:
        tl.store(dshift + sums + col, tl.sum(sum_shift, 0, keep_dims=True), here)
        tl.store(dscale + sums + col, tl.sum(sum_scale, 0, keep_dims=True), here)
    if y is not None:
        tl.store(dgate + sums + col, tl.sum(sum_gate, 0, keep_dims=True), here)


def _tile(tokens: int, width: int, elements: int) -> tuple[int, int, int]:
    """(rows, columns, threads) of a program's tile, powers of two: about `elements` numbers for a thread.

    128 threads take as many rows as they can; a row that is longer than that gets more threads.
    """
    if width > MAX_WIDTH:
        raise ValueError(f"'x' may be {MAX_WIDTH} wide for the Triton kernels, got D = {width}: force 'reference'")
    cols = triton.next_power_of_2(width)
    rows = min(triton.next_power_of_2(tokens), max(1, 128 * elements // cols))
    return rows, cols, min(512, max(64, rows * cols // elements))


def _part(tokens: int) -> int:
    """How many tokens a program of the backward sums: enough to make its sums cheap beside what it reads."""
    return min(64, max(16, triton.next_power_of_2(tokens) // 16))


def _run_forward(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    shift: Tensor | None,
    scale: Tensor | None,
    h: Tensor | None,
    out: Tensor | None,
    eps: float,
) -> Tensor:
    """Launch `_forward`; the statistics (B, T, 2), empty where nothing is normalised."""
    batch, tokens, width = x.shape
    stats = x.new_empty((batch, tokens, 2) if out is not None else 0, dtype=torch.float32)
    if x.numel():
        rows, cols, threads = _tile(tokens, width, 16)
        arguments = (x, y, gate, shift, scale, h, out, stats, tokens, float(eps), width, cols, rows)
        launch(_forward, batch * triton.cdiv(tokens, rows), x, arguments, threads=threads, fuse=True)
    return stats


def _run_backward(
    dh: Tensor | None,
    dout: Tensor | None,
    h: Tensor | None,
    y: Tensor | None,
    gate: Tensor | None,
    scale: Tensor | None,
    stats: Tensor | None,
    dx: Tensor | None,
    dy: Tensor | None,
) -> tuple[Tensor, ...]:
    """Launch `_backward`; those of dshift, dscale and dgate, each (B, D), that there are."""
    normed, gated = dout is not None, y is not None
    given = dout if dout is not None else dh
    assert given is not None, "a gradient must come from somewhere"
    batch, tokens, width = given.shape
    part = _part(tokens)
    parts = triton.cdiv(tokens, part)
    sums = given.new_empty(2 * normed + gated, batch, parts, width, dtype=torch.float32)
    if given.numel():
        rows, cols, threads = _tile(min(tokens, part), width, 8)  # a tile must not reach into the next part
        into = (sums[0] if normed else None, sums[1] if normed else None, sums[-1] if gated else None)
        arguments = (dh, dout, h, y, gate, scale, stats, dx, dy, *into, tokens, part, width, cols, rows)
        launch(_backward, batch * parts, given, arguments, threads=threads, fuse=True)
    return add_parts(sums.flatten(0, 1)).view(len(sums), batch, width).unbind()


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float, out: Tensor) -> Tensor:
    """Write the modulated norm of x (B, T, D) into `out`; return the statistics (B, T, 2): mean and 1 / std."""
    return _run_forward(x, None, None, shift, scale, None, out, eps)


def modulate_backward(
    dout: Tensor, x: Tensor, scale: Tensor, stats: Tensor, dh: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx, dshift, dscale) of `modulate`; dh is a gradient that reaches x from elsewhere, added to dx."""
    dx = torch.empty_like(x)
    dshift, dscale = _run_backward(dh, dout, x, None, None, scale, stats, dx, None)
    return dx, dshift, dscale


def gate(x: Tensor, y: Tensor, gate: Tensor, out: Tensor) -> None:
    """Write x + gate y into `out`."""
    _run_forward(x, y, gate, None, None, out, None, 0.0)


def gate_backward(dh: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """(dy, dgate) of `gate`; the gradient of x is dh itself."""
    dy = torch.empty_like(y)
    (dgate,) = _run_backward(dh, None, None, y, gate, None, None, None, dy)
    return dy, dgate


def gate_modulate(
    x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, eps: float, h: Tensor, out: Tensor
) -> Tensor:
    """Write h = x + gate y into `h` and its modulated norm into `out`; return the statistics of h."""
    return _run_forward(x, y, gate, shift, scale, h, out, eps)


def gate_modulate_backward(
    dh: Tensor | None, dout: Tensor, h: Tensor, y: Tensor, gate: Tensor, scale: Tensor, stats: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(dx, dy, dgate, dshift, dscale) of `gate_modulate`; dh is None where h itself is used no further."""
    if h.shape[-1] > SPLIT_WIDTH:
        dx, dshift, dscale = modulate_backward(dout, h, scale, stats, dh)
        dy, dgate = gate_backward(dx, y, gate)
    else:
        dx, dy = torch.empty_like(h), torch.empty_like(y)
        dshift, dscale, dgate = _run_backward(dh, dout, h, y, gate, scale, stats, dx, dy)
    return dx, dy, dgate, dshift, dscale
