"""affine_coupling in C++ (csrc/cpu/coupling.h): rows may lie apart, the numbers of a row follow each other.

The sum of a row is taken in an order that only its length decides: neither the number of threads nor the rest of the
batch changes a bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gensys import native

__all__ = ["backward", "forward"]


def forward(x: Tensor, s: Tensor, t: Tensor, bound: float, inverse: bool, y: Tensor) -> Tensor:
    """Write the image of x (B, *S) into `y`; return logdet (B,) float32."""
    logdet = torch.empty(x.shape[:1], dtype=torch.float32)
    torch.ops.gensys.affine_coupling(y, logdet, x, s, t, bound, inverse)
    return logdet


def backward(
    dy: Tensor, dlogdet: Tensor, x: Tensor, y: Tensor, s: Tensor, bound: float, inverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx, ds, dt) of `forward`. Of x and y it reads only y if inverse, else only x; dt is then dy itself."""
    dx, ds = (torch.empty(s.shape, dtype=s.dtype) for _ in range(2))
    dt = torch.empty_like(dx) if inverse else None
    torch.ops.gensys.affine_coupling_backward(dx, ds, dt, dy, dlogdet, y if inverse else x, s, bound, inverse)
    return dx, ds, dy if dt is None else dt


if native.extension is not None:

    @torch.library.register_fake("gensys::affine_coupling")
    def _fake(*_: object) -> None:
        """What tracing sees: nothing is returned, `y` and `logdet` are written."""

    @torch.library.register_fake("gensys::affine_coupling_backward")
    def _fake_backward(*_: object) -> None:
        """What tracing sees: nothing is returned, the gradients are written."""
