"""adaln: what stands between the layers of a DiT block, in one pass over memory, with a backward pass of its own.

    adaln_modulate        modulate(x) = (x - mean) / sqrt(var + eps) (1 + scale) + shift
    adaln_gate            h = x + gate y
    adaln_gate_modulate   (h, modulate(h)): the gated result of one layer and the input of the next

mean and var (of all D, biased) are those of each token, a layer norm without parameters; shift, scale and gate are the
sample's and come from its condition. Peebles and Xie, 2022, "Scalable diffusion models with transformers",
arXiv:2212.09748, section 3.2, adaLN-Zero.

x and h are the residual stream, y and modulate(x) the network's. The stream may be wider: float32 along a network in
bfloat16. All arithmetic is in float32 (float64 if x is) and every result is rounded once. A kernel's gradients of
shift, scale and gate are summed over the tokens in an order that only the shape decides: the same bits with any
number of threads.

B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gensys.kernels import double
from gensys.kernels.dispatch import choose
from gensys.kernels.out import overlaps_in_part, shares_memory, written

__all__ = [
    "adaln_gate",
    "adaln_gate_modulate",
    "adaln_modulate",
    "examples",
    "reference_gate",
    "reference_gate_modulate",
    "reference_modulate",
]


def adaln_modulate(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    *,
    eps: float = 1e-6,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) (1 + scale) + shift, (B, T, D).

    x: (B, T, D), any strides, copied if not contiguous. shift, scale: (B, D), any strides, any floating dtype.
    dtype: of the result, x's (the default) or a narrower one. out: where to write it, when no gradient is wanted:
    (B, T, D), contiguous, of that dtype; it may be x itself.

    In float32 the variance overflows for numbers beyond 1e18, and the result is then shift.
    """
    dtype = x.dtype if dtype is None else dtype
    implementation = _chosen(x, dtype, None, {"shift": shift, "scale": scale}, {"out": (out, dtype)})
    if implementation == "reference":
        result = reference_modulate(x, shift, scale, eps=eps, dtype=dtype)
        return result if out is None else out.copy_(result)
    x, shift, scale = x.contiguous(), _vector(shift), _vector(scale)
    if _wants_gradient(x, shift, scale):
        return _Modulate.apply(implementation, x, shift, scale, eps, dtype)[0]
    given, out = out is not None, torch.empty_like(x, dtype=dtype) if out is None else out
    _functions(implementation).modulate(x, shift, scale, eps, out)
    if given:
        written(out)
    return out


def adaln_gate(x: Tensor, y: Tensor, gate: Tensor, *, out: Tensor | None = None) -> Tensor:
    """h = x + gate y, (B, T, D), of x's dtype.

    x, y: (B, T, D), any strides, copied if not contiguous; y in x's dtype or a narrower one. gate: (B, D), any strides,
    any floating dtype. out: where to write h, when no gradient is wanted: like x, contiguous; it may be x itself.
    """
    implementation = _chosen(x, y.dtype, y, {"gate": gate}, {"out": (out, x.dtype)})
    if implementation == "reference":
        result = reference_gate(x, y, gate)
        return result if out is None else out.copy_(result)
    x, y, gate = x.contiguous(), y.contiguous(), _vector(gate)
    if _wants_gradient(x, y, gate):
        return _Gate.apply(implementation, x, y, gate)
    given, out = out is not None, torch.empty_like(x) if out is None else out
    _functions(implementation).gate(x, y, gate, out)
    if given:
        written(out)
    return out


def adaln_gate_modulate(
    x: Tensor,
    y: Tensor,
    gate: Tensor,
    shift: Tensor,
    scale: Tensor,
    *,
    eps: float = 1e-6,
    dtype: torch.dtype | None = None,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """h = x + gate y and its modulated norm, each (B, T, D): adaln_gate and adaln_modulate in one pass.

    Arguments as theirs. dtype: of the modulated norm, x's by default; one pass takes it to be y's, else there are two.
    out: where to write (h, norm), when no gradient is wanted; h may be x itself.
    """
    dtype = x.dtype if dtype is None else dtype
    h, norm = (None, None) if out is None else out
    vectors = {"gate": gate, "shift": shift, "scale": scale}
    implementation = _chosen(x, dtype, y, vectors, {"out[0]": (h, x.dtype), "out[1]": (norm, dtype)})
    if implementation == "reference":
        results = reference_gate_modulate(x, y, gate, shift, scale, eps=eps, dtype=dtype)
        return results if h is None or norm is None else (h.copy_(results[0]), norm.copy_(results[1]))
    if y.dtype != dtype:
        h = adaln_gate(x, y, gate, out=h)
        return h, adaln_modulate(h, shift, scale, eps=eps, dtype=dtype, out=norm)
    x, y, gate, shift, scale = x.contiguous(), y.contiguous(), _vector(gate), _vector(shift), _vector(scale)
    if _wants_gradient(x, y, gate, shift, scale):
        return _GateModulate.apply(implementation, x, y, gate, shift, scale, eps)[:2]
    h = torch.empty_like(x) if h is None else h
    norm = torch.empty_like(y) if norm is None else norm
    _functions(implementation).gate_modulate(x, y, gate, shift, scale, eps, h, norm)
    if out is not None:
        written(h, norm)
    return h, norm


def reference_modulate(
    x: Tensor, shift: Tensor, scale: Tensor, *, eps: float = 1e-6, dtype: torch.dtype | None = None
) -> Tensor:
    """The definition of `adaln_modulate`."""
    wide = torch.promote_types(x.dtype, torch.float32)
    shift, scale = shift[:, None].to(wide), scale[:, None].to(wide)
    norm = F.layer_norm(x.to(wide), x.shape[-1:], eps=eps)
    return (norm * (1.0 + scale) + shift).to(x.dtype if dtype is None else dtype)


def reference_gate(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """The definition of `adaln_gate`."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return (x.to(wide) + gate[:, None].to(wide) * y.to(wide)).to(x.dtype)


def reference_gate_modulate(
    x: Tensor,
    y: Tensor,
    gate: Tensor,
    shift: Tensor,
    scale: Tensor,
    *,
    eps: float = 1e-6,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition of `adaln_gate_modulate`."""
    h = reference_gate(x, y, gate)
    return h, reference_modulate(h, shift, scale, eps=eps, dtype=dtype)


def _chosen(
    x: Tensor,
    dtype: torch.dtype,
    y: Tensor | None,
    vectors: dict[str, Tensor],
    results: dict[str, tuple[Tensor | None, torch.dtype]],
) -> str:
    """The implementation for a residual stream like x and a network in dtype, the arguments being as they must."""
    if x.ndim != 3:
        raise ValueError(f"'x' must be (B, T, D), got {tuple(x.shape)}")
    b, _, d = x.shape
    if y is not None and (y.shape != x.shape or y.device != x.device):
        raise ValueError(f"'y' must be like 'x', {tuple(x.shape)} on {x.device}, got {tuple(y.shape)} on {y.device}")
    for name, vector in vectors.items():
        if vector.shape != (b, d) or vector.device != x.device or not vector.is_floating_point():
            raise ValueError(
                f"{name!r} must be floating point {(b, d)} on {x.device}, one row for each sample of 'x', "
                f"got {vector.dtype} {tuple(vector.shape)} on {vector.device}"
            )
    for name, kind in (("dtype", dtype), ("y", None if y is None else y.dtype)):
        if kind is not None and not (kind.is_floating_point and torch.promote_types(x.dtype, kind) == x.dtype):
            raise ValueError(f"{name!r} must be {x.dtype} as 'x' is, or narrower, got {kind}: widen 'x'")
    for name, (result, kind) in results.items():
        if result is None:
            continue
        if result.shape != x.shape or result.dtype != kind or result.device != x.device or not result.is_contiguous():
            raise ValueError(
                f"{name!r} must be contiguous {kind} {tuple(x.shape)} on {x.device}, "
                f"got {result.dtype} {tuple(result.shape)} with strides {result.stride()} on {result.device}"
            )
        for other, tensor in (("x", x), ("y", y)):
            if tensor is not None and overlaps_in_part(result, tensor):
                raise ValueError(f"{name!r} overlaps {other!r} in part: give the same tensor, or one apart from it")
        if _wants_gradient(x, *vectors.values(), result) or (y is not None and _wants_gradient(y)):
            raise ValueError(f"{name!r} is for calls without a gradient: leave it out, or call in torch.no_grad()")
    given = [result for result, _ in results.values() if result is not None]
    if len(given) == 2 and not torch.compiler.is_compiling() and shares_memory(*given):
        raise ValueError("'out' must be two tensors apart from each other, got memory that both use: give two")
    # kernels know (float32, float32), (float32, bfloat16) and (bfloat16, bfloat16)
    return choose("adaln", x.device, dtype if x.dtype == torch.float32 else x.dtype).implementation


def _functions(implementation: str) -> ModuleType:
    """The module of the implementation, with plain functions: modulate, modulate_backward, gate, ..."""
    if implementation == "triton":  # slow to import, and not always there
        from gensys.kernels.triton import adaln
    elif implementation == "cuda":
        from gensys.kernels.cuda import adaln
    else:
        from gensys.kernels.native import adaln
    return adaln


def _vector(v: Tensor) -> Tensor:
    """What kernels take for shift, scale and gate: small, so that one form of it will do."""
    return v.to(torch.float32).contiguous()


def _wants_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


class _Modulate(torch.autograd.Function):
    @staticmethod
    def forward(
        implementation: str, x: Tensor, shift: Tensor, scale: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(x, dtype=dtype)
        return out, _functions(implementation).modulate(x, shift, scale, eps, out)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.implementation, x, shift, scale, ctx.eps, _ = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, shift, scale, output[1])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, scale, stats = ctx.saved_tensors
        dout = upstream[0].contiguous()
        if double.wanted():
            found = _modulate_gradients(x, shift, scale, ctx.eps, dout, ctx.needs_input_grad[1:4])
        else:
            found = _functions(ctx.implementation).modulate_backward(dout, x, scale, stats)
        return None, *found, None, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(implementation: str, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        h = torch.empty_like(x)
        _functions(implementation).gate(x, y, gate, h)
        return h

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.implementation, _, y, gate = inputs
        ctx.save_for_backward(y, gate)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        y, gate = ctx.saved_tensors
        dh = upstream[0].contiguous()
        if double.wanted():
            found = _gate_gradients(y, gate, dh, ctx.needs_input_grad[2:])
        else:
            found = _functions(ctx.implementation).gate_backward(dh, y, gate)
        return None, dh, *found


class _GateModulate(torch.autograd.Function):
    @staticmethod
    def forward(
        implementation: str, x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        h, out = torch.empty_like(x), torch.empty_like(y)
        return h, out, _functions(implementation).gate_modulate(x, y, gate, shift, scale, eps, h, out)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.implementation, _, y, gate, shift, scale, ctx.eps = inputs
        h, _, stats = output
        ctx.mark_non_differentiable(stats)
        ctx.save_for_backward(h, y, gate, shift, scale, stats)
        ctx.set_materialize_grads(False)  # the last block's h is used no further: no gradient full of zeros for it

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        h, y, gate, shift, scale, stats = ctx.saved_tensors
        dh, dout = (None if d is None else d.contiguous() for d in upstream[:2])
        f = _functions(ctx.implementation)
        if dout is None:
            dx, modulation = dh, (None, None)
        elif double.wanted():
            dx, *modulation = _modulate_gradients(h, shift, scale, ctx.eps, dout, (True, *ctx.needs_input_grad[4:6]))
            assert dx is not None  # it was asked for
            dx = dx if dh is None else dx + dh
        else:
            dx, dy, dgate, *modulation = f.gate_modulate_backward(dh, dout, h, y, gate, scale, stats)
            return None, dx, dy, dgate, *modulation, None
        if dx is None:
            return (None,) * 7
        gates = (
            _gate_gradients(y, gate, dx, ctx.needs_input_grad[2:4]) if double.wanted() else f.gate_backward(dx, y, gate)
        )
        return None, dx, *gates, *modulation, None


def _modulate_gradients(
    x: Tensor, shift: Tensor, scale: Tensor, eps: float, dout: Tensor, needed: tuple[bool, ...]
) -> list[Tensor | None]:
    """(dx, dshift, dscale), differentiable again."""
    definition = partial(reference_modulate, eps=eps, dtype=dout.dtype)
    return double.gradients(definition, (x, shift, scale), (dout,), needed)


def _gate_gradients(y: Tensor, gate: Tensor, dh: Tensor, needed: tuple[bool, ...]) -> list[Tensor | None]:
    """(dy, dgate), differentiable again; they do not depend on x."""
    definition = partial(reference_gate, torch.zeros_like(dh))
    return double.gradients(definition, (y, gate), (dh,), needed)


def examples() -> Iterator[dict[str, Any]]:
    """Keyword arguments for `adaln_gate_modulate`, and with fewer of them for the others, that reach every branch.

    Widths of whole and ragged vectors, tokens of whole and ragged blocks and of several parts, one of everything, none
    of anything, large and small numbers, slices of a big matrix, transposed streams, every pair of dtypes.
    """
    generator = torch.Generator().manual_seed(0)
    full, half = torch.float32, torch.bfloat16
    shapes = [(2, 7, 64), (1, 5, 33), (3, 1, 19), (2, 133, 24), (1, 1, 1), (5, 4, 3), (1, 9, 1300)]
    for shape in [*shapes, (0, 4, 8), (2, 0, 8), (2, 3, 0)]:
        for residual, compute in ((full, full), (full, half), (half, half)):
            b, _, d = shape
            x, y = torch.randn(2, *shape, generator=generator)
            gate, shift, scale = torch.randn(b, 3, d, generator=generator).unbind(1)
            example = {"x": x.to(residual), "y": y.to(compute), "gate": gate, "shift": shift, "scale": scale}
            yield {**example, "dtype": compute}
    x, y = torch.randn(2, 6, 5, 40, generator=generator)
    gate, shift, scale = torch.randn(3, 5, 40, generator=generator)
    example = {"x": x.transpose(0, 1), "y": y.transpose(0, 1), "gate": gate, "shift": shift, "scale": scale}
    yield example
    yield {**example, "gate": gate.bfloat16(), "shift": shift.double(), "scale": scale.bfloat16(), "eps": 0.1}
    yield {**example, "x": example["x"] * 1e15, "y": example["y"] * 1e15}
    yield {**example, "x": example["x"] * 1e-15, "y": example["y"] * 1e-15}
    yield {name: tensor.double() for name, tensor in example.items()}
    yield {name: tensor.half() for name, tensor in example.items()}
