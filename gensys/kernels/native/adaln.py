"""adaln in C++: two operators, which leave out what is None (csrc/cpu/adaln.h has the arithmetic).

Residual x, h and compute y, out are (float32, float32), (float32, bfloat16) or (bfloat16, bfloat16). Gradients have the
dtype of their tensor, those of shift, scale and gate are float32. The sums over the tokens are those of parts of 64,
added in their order: neither the number of threads nor the rest of the batch changes a bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gensys import native

__all__ = [
    "gate",
    "gate_backward",
    "gate_modulate",
    "gate_modulate_backward",
    "modulate",
    "modulate_backward",
]


def _stats(x: Tensor) -> Tensor:
    return torch.empty(*x.shape[:2], 2, dtype=torch.float32)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float, out: Tensor) -> Tensor:
    """Write the modulated norm of x (B, T, D) into `out`; return the statistics (B, T, 2): mean and 1 / std."""
    stats = _stats(x)
    torch.ops.gensys.adaln(x, None, None, shift, scale, eps, None, out, stats)
    return stats


def modulate_backward(
    dout: Tensor, x: Tensor, scale: Tensor, stats: Tensor, dh: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx, dshift, dscale) of `modulate`; dh is a gradient that reaches x from elsewhere, added to dx."""
    dx, dshift, dscale = torch.empty_like(x), torch.empty_like(scale), torch.empty_like(scale)
    torch.ops.gensys.adaln_backward(dh, dout, x, None, None, scale, stats, dx, None, dshift, dscale, None)
    return dx, dshift, dscale


def gate(x: Tensor, y: Tensor, gate: Tensor, out: Tensor) -> None:
    """Write x + gate y into `out`."""
    torch.ops.gensys.adaln(x, y, gate, None, None, 0.0, out, None, None)


def gate_backward(dh: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """(dy, dgate) of `gate`; the gradient of x is dh itself."""
    dy, dgate = torch.empty_like(y), torch.empty_like(gate)
    torch.ops.gensys.adaln_backward(dh, None, None, y, gate, None, None, None, dy, None, None, dgate)
    return dy, dgate


def gate_modulate(
    x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, eps: float, h: Tensor, out: Tensor
) -> Tensor:
    """Write h = x + gate y into `h` and its modulated norm into `out`; return the statistics of h."""
    stats = _stats(x)
    torch.ops.gensys.adaln(x, y, gate, shift, scale, eps, h, out, stats)
    return stats


def gate_modulate_backward(
    dh: Tensor | None, dout: Tensor, h: Tensor, y: Tensor, gate: Tensor, scale: Tensor, stats: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(dx, dy, dgate, dshift, dscale) of `gate_modulate`; dh is None where h itself is used no further."""
    dx, dy = torch.empty_like(h), torch.empty_like(y)
    dgate, dshift, dscale = torch.empty_like(gate), torch.empty_like(gate), torch.empty_like(gate)
    torch.ops.gensys.adaln_backward(dh, dout, h, y, gate, scale, stats, dx, dy, dshift, dscale, dgate)
    return dx, dy, dgate, dshift, dscale


if native.extension is not None:

    @torch.library.register_fake("gensys::adaln")
    def _fake(*_: object) -> None:
        """What tracing sees: nothing is returned, the results are written."""

    @torch.library.register_fake("gensys::adaln_backward")
    def _fake_backward(*_: object) -> None:
        """What tracing sees: nothing is returned, the gradients are written."""
