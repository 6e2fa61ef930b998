"""affine_coupling: scale and shift by what a network says, with the log-determinant, in one pass; and the way back.

    log_scale = bound tanh(s / bound)
    forward   y = x exp(log_scale) + t           logdet = sum of log_scale
    inverse   y = (x - t) exp(-log_scale)        logdet = -sum of log_scale

Dinh, Sohl-Dickstein and Bengio, 2017, "Density estimation using Real NVP", arXiv:1605.08803, equations 7 and 8; the
log-scale is held in (-bound, bound), so that no step of training can make the map singular.

Of one s both directions compute the same sum, bit for bit: their log-determinants cancel exactly. Nothing is stored for
the backward pass but s and one of x and y; it computes the scale again, which costs less than to read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gensys.kernels import double
from gensys.kernels.dispatch import OPS, choose
from gensys.kernels.out import overlaps_in_part, written

__all__ = ["affine_coupling", "examples", "reference"]


def affine_coupling(
    x: Tensor, s: Tensor, t: Tensor, *, bound: float = 2.0, inverse: bool = False, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(y, logdet): x scaled and shifted, or that undone, and the logarithm of the map's |determinant| for each row.

    x, s, t: (B, *S), floating point, of one dtype. Rows may lie apart, as the two halves of a network's output do.
    bound: the largest |log_scale|, in nats; positive. logdet: (B,) in nats, float32 (float64 for float64 tensors).
    out: like x; y is written there. It may be x, s or t itself, but not overlap them in part. Only without gradients.

    16-bit tensors are computed in float32 and rounded once.
    """
    _check(x, s, t, bound, out)
    choice = choose("affine_coupling", x.device, x.dtype).implementation
    if choice == "reference":
        y, logdet = reference(x, s, t, bound=bound, inverse=inverse)
        return (y if out is None else out.copy_(y)), logdet
    if torch.is_grad_enabled() and (x.requires_grad or s.requires_grad or t.requires_grad):
        return _AffineCoupling.apply(x, s, t, bound, inverse, choice)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    logdet = _forward(choice, x, s, t, bound, inverse, y)
    if out is not None:
        written(out)
    return y, logdet


def reference(x: Tensor, s: Tensor, t: Tensor, *, bound: float = 2.0, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """The definition of `affine_coupling`, in plain torch."""
    log_scale, _ = _log_scale(s, bound)
    wide, shift = x.to(log_scale.dtype), t.to(log_scale.dtype)
    y = (wide - shift) * torch.exp(-log_scale) if inverse else wide * torch.exp(log_scale) + shift
    logdet = log_scale.unsqueeze(-1).flatten(1).sum(1)  # unsqueezed: rows may be single numbers, x (B,)
    return y.to(x.dtype), -logdet if inverse else logdet


def _log_scale(s: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """bound tanh(s / bound) and its derivative, in float32 at least."""
    tanh = torch.tanh(s.to(torch.promote_types(s.dtype, torch.float32)) / bound)
    return bound * tanh, 1 - tanh.square()


def _functions(implementation: str) -> ModuleType:
    """The module of the implementation, with plain functions: forward, backward."""
    if implementation == "triton":  # slow to import, and not always there
        from gensys.kernels.triton import affine_coupling
    else:
        from gensys.kernels.native import affine_coupling
    return affine_coupling


def _laid_out(implementation: str, *tensors: Tensor) -> tuple[Tensor, ...]:
    """As the implementation takes them: contiguous; native rows may lie apart, so that halves need no copy."""
    apart = implementation == "native"
    return tuple(x if apart and x[:1].is_contiguous() else x.contiguous() for x in tensors)


def _forward(implementation: str, x: Tensor, s: Tensor, t: Tensor, bound: float, inverse: bool, y: Tensor) -> Tensor:
    """Write the image of x into y, return logdet."""
    (image,) = _laid_out(implementation, y)
    logdet = _functions(implementation).forward(*_laid_out(implementation, x, s, t), bound, inverse, image)
    if image is not y:
        y.copy_(image)
    return logdet


class _AffineCoupling(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, s: Tensor, t: Tensor, bound: float, inverse: bool, implementation: str
    ) -> tuple[Tensor, Tensor]:
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        return y, _forward(implementation, x, s, t, bound, inverse, y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, s, _, ctx.bound, ctx.inverse, ctx.implementation = inputs
        ctx.save_for_backward(output[0] if ctx.inverse else x, s)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        dy, dlogdet = upstream
        kept, s = ctx.saved_tensors
        if double.wanted():
            return *_differentiable_backward(dy, dlogdet, kept, s, ctx.bound, ctx.inverse), None, None, None
        dy, kept, s = _laid_out(ctx.implementation, dy, kept, s)
        # a kernel reads x, or in the inverse direction y: `kept` stands for both
        arguments = (dy, dlogdet.contiguous(), kept, kept, s, ctx.bound, ctx.inverse)
        return *_functions(ctx.implementation).backward(*arguments), None, None, None


def _differentiable_backward(
    dy: Tensor, dlogdet: Tensor, kept: Tensor, s: Tensor, bound: float, inverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What a kernel's `backward` returns, in plain torch: for second derivatives."""
    log_scale, slope = _log_scale(s, bound)
    dlogdet = dlogdet.view(s.shape[0], *[1] * (s.ndim - 1))
    if inverse:  # y = (x - t) exp(-log_scale): its derivative by log_scale is -y
        dx = dy * torch.exp(-log_scale)
        ds = -(dy * kept + dlogdet) * slope
        return dx.to(s.dtype), ds.to(s.dtype), -dx.to(s.dtype)
    dx = dy * torch.exp(log_scale)
    return dx.to(s.dtype), ((dx * kept + dlogdet) * slope).to(s.dtype), dy


def _check(x: Tensor, s: Tensor, t: Tensor, bound: float, out: Tensor | None) -> None:
    """Raise ValueError, naming the argument, unless `affine_coupling` can take these."""
    if x.ndim == 0 or x.dtype not in OPS["affine_coupling"]:
        raise ValueError(f"'x' must be (B, *S), floating point, got {_describe(x)}")
    for name, other in (("s", s), ("t", t), ("out", out)):
        if other is not None and (other.shape != x.shape or other.dtype != x.dtype or other.device != x.device):
            raise ValueError(f"{name!r} must be like 'x', {_describe(x)}, got {_describe(other)}")
    if not 1e-30 <= bound <= 1e30:  # in float32 too, 1 / bound is then an ordinary number
        raise ValueError(f"'bound' must lie in [1e-30, 1e30], got {bound}")
    if out is None:
        return
    if torch.is_grad_enabled() and any(a.requires_grad for a in (x, s, t, out)):
        raise ValueError("'out' cannot be given where a gradient is wanted: leave it out, or use torch.no_grad()")
    if not out[:1].is_contiguous() or (out.shape[0] > 1 and out.stride(0) < out[0].numel()):
        raise ValueError(f"'out' must have rows of numbers that follow each other, got strides {out.stride()}")
    for name, other in (("x", x), ("s", s), ("t", t)):
        if overlaps_in_part(out, other):
            raise ValueError(f"'out' overlaps {name!r} in part: give the same tensor, or one apart from it")


def _describe(x: Tensor) -> str:
    return f"{tuple(x.shape)} {x.dtype} on {x.device}"


def examples() -> Iterator[dict[str, Any]]:
    """Keyword arguments that reach every branch: long, short and ragged rows, single numbers, empty, strided."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4, 8, 8), (5, 7), (70, 32), (33, 3), (1, 1), (4,), (0, 4), (3, 0), (2, 16), (2, 1300), (9, 255)]
    for inverse in (False, True):
        for dtype in (torch.float32, torch.bfloat16):
            for i, shape in enumerate(shapes):
                x, s, t = (torch.randn(3, *shape, generator=generator) * (1.0, 3.0)[i % 2]).to(dtype)
                yield {"x": x, "s": s, "t": t, "bound": (2.0, 0.7)[i % 2], "inverse": inverse}
            # halves of larger tensors; then s the same for all rows, and axes in another order
            x, y = torch.randn(2, 5, 6, 3, 7, generator=generator).to(dtype)
            s, t = y.chunk(2, dim=1)
            yield {"x": x[:, 3:], "s": s, "t": t, "bound": 2.0, "inverse": inverse}
            s = s[:1].expand(5, 3, 3, 7)
            yield {"x": x[:, :3].transpose(1, 2), "s": s, "t": t.transpose(1, 2), "bound": 1.5, "inverse": inverse}
