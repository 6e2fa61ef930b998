"""adaln in CUDA: LayerNorm, modulation and gated residual of a DiT block in one pass, and its deterministic backward.

    h = x + gate y        out = (h - mean h) / sqrt(var h + eps) (1 + scale) + shift

x, y: (B, T, D); shift, scale, gate and their gradients: float32 (B, D). The residual stream (x, h, their gradients) and
the network (y, out, their gradients) are float32 and float32, float32 and bfloat16, or bfloat16 and bfloat16. All
arithmetic is float32. Any D; fastest where D is a multiple of 8, at most 4096.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gensys.kernels.cuda.device import address, kernels, stream_of

__all__ = [
    "gate",
    "gate_backward",
    "gate_modulate",
    "gate_modulate_backward",
    "modulate",
    "modulate_backward",
]

_TYPES = {  # (residual, compute) -> gensys_cuda_types
    (torch.float32, torch.float32): 0,
    (torch.float32, torch.bfloat16): 1,
    (torch.bfloat16, torch.bfloat16): 2,
}


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float, out: Tensor) -> Tensor:
    """out = layer_norm(x) (1 + scale) + shift; returns (B, T, 2) float32, the mean and 1 / deviation of every row."""
    stats = x.new_empty((*x.shape[:2], 2), dtype=torch.float32)
    _forward(x, None, None, shift, scale, eps, None, out, stats)
    return stats


def gate(x: Tensor, y: Tensor, gate: Tensor, out: Tensor) -> None:
    """out = x + gate y."""
    _forward(x, y, gate, None, None, 0.0, out, None, None)


def gate_modulate(
    x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, eps: float, h: Tensor, out: Tensor
) -> Tensor:
    """h = x + gate y, out = layer_norm(h) (1 + scale) + shift; returns the statistics of h, as `modulate` does."""
    stats = x.new_empty((*x.shape[:2], 2), dtype=torch.float32)
    _forward(x, y, gate, shift, scale, eps, h, out, stats)
    return stats


def modulate_backward(
    dout: Tensor, x: Tensor, scale: Tensor, stats: Tensor, dh: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx, dshift, dscale). dh: the gradient that reaches x from elsewhere, added to dx."""
    dx = torch.empty_like(x)
    dshift, dscale = _backward(dh, dout, x, None, None, scale, stats, dx, None)
    return dx, dshift, dscale


def gate_backward(dh: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """(dy, dgate); the gradient of x is dh itself."""
    dy = torch.empty_like(y)
    (dgate,) = _backward(dh, None, None, y, gate, None, None, None, dy)
    return dy, dgate


def gate_modulate_backward(
    dh: Tensor | None, dout: Tensor, h: Tensor, y: Tensor, gate: Tensor, scale: Tensor, stats: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(dx, dy, dgate, dshift, dscale). dh: the gradient that reaches h from elsewhere; None = zero."""
    dx, dy = torch.empty_like(h), torch.empty_like(y)
    dgate, dshift, dscale = _backward(dh, dout, h, y, gate, scale, stats, dx, dy)
    return dx, dy, dgate, dshift, dscale


def _types(residual: Tensor, compute: Tensor) -> int:
    pair = (residual.dtype, compute.dtype)
    if pair not in _TYPES:
        known = ", ".join(f"({a}, {b})" for a, b in _TYPES)
        raise ValueError(f"the dtypes of (residual stream, network) must be one of {known}, got ({pair[0]}, {pair[1]})")
    return _TYPES[pair]


def _forward(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    shift: Tensor | None,
    scale: Tensor | None,
    eps: float,
    h: Tensor | None,
    out: Tensor | None,
    stats: Tensor | None,
) -> None:
    compute = y if out is None else out
    assert compute is not None
    pointers = [address(tensor) for tensor in (x, y, gate, shift, scale)]
    results = [address(tensor) for tensor in (h, out, stats)]
    with stream_of(x) as stream:
        kernels().adaln_forward(_types(x, compute), *pointers, eps, *results, *x.shape, stream)


def _backward(
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
    """Writes dx and dy; returns the gradients of gate (if there is y), shift and scale (if there is dout)."""
    residual, compute = (h if dh is None else dh), (y if dout is None else dout)
    assert residual is not None
    assert compute is not None
    B, T, D = compute.shape
    strips = kernels().adaln_strips(T)
    count = (y is not None) + 2 * (dout is not None)
    sums = compute.new_empty((count, B, D), dtype=torch.float32) if T else compute.new_zeros((count, B, D)).float()
    partial = sums.new_empty((count, B, strips, D)) if strips > 1 else None
    pointers = [address(tensor) for tensor in (dh, dout, h, y, gate, scale, stats, dx, dy, sums, partial)]
    with stream_of(compute) as stream:
        kernels().adaln_backward(_types(residual, compute), *pointers, B, T, D, stream)
    return sums.unbind()
