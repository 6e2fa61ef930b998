"""linear and linear_gelu: a matrix product, its bias and the GELU that may follow, with a backward pass of their own.

    linear(x, W, b) = x W^T + b                  linear_gelu(x, W, b) = gelu(x W^T + b)
    gelu(u) = u (1 + tanh(sqrt(2 / pi) (u + 0.044715 u^3))) / 2
    Hendrycks and Gimpel, 2016, "Gaussian error linear units", arXiv:1606.08415, section 2

On a CPU torch gives float32 products to MKL, which leaves AVX-512 alone on some CPUs (it reaches 100 of 250 GFLOP/s on
one core of an AMD Zen 5), and computes GELU element by element with a tanh of full accuracy. Here the float32
products go to oneDNN, which is part of torch as well (210 GFLOP/s there), and GELU is a SIMD kernel that runs in place
when no gradient is wanted. In bfloat16 torch takes oneDNN by itself, on a way that costs 2 to 20 % more.

Under autocast the arguments are cast to its dtype, as by torch's own `linear`; within `frozen()` a weight is cast once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gensys import native
from gensys.kernels import double
from gensys.kernels.dispatch import choose

__all__ = ["examples", "frozen", "linear", "linear_gelu", "reference", "reference_gelu"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b. x: (*, K); weight: (N, K); bias: (N,) or None. Returns (*, N)."""
    x, weight, bias = _cast(x, weight, bias)
    if choose("linear", x.device, x.dtype).implementation == "reference":
        return reference(x, weight, bias)
    if _wants_gradient(x, weight, bias):
        return _Linear.apply(x, weight, bias)
    return _product(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """gelu(x W^T + b), the tanh form. Shapes as for `linear`."""
    x, weight, bias = _cast(x, weight, bias)
    if choose("linear_gelu", x.device, x.dtype).implementation == "reference":
        return reference_gelu(x, weight, bias)
    if _wants_gradient(x, weight, bias):
        return _LinearGelu.apply(x, weight, bias)[0]
    out = _product(x, weight, bias)
    torch.ops.gensys.gelu(out, out)
    return out


def reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The definition of `linear`."""
    return F.linear(x, weight, bias)


def reference_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The definition of `linear_gelu`."""
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


def _cast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The arguments in autocast's dtype where it is on; checked."""
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        if x.dtype != torch.float64:  # which autocast leaves alone
            x, weight = x.to(dtype), _to(weight, dtype)
            bias = None if bias is None else _to(bias, dtype)
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"'x' must be (*, K) and 'weight' (N, K) with one K, got {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"'bias' must be ({weight.shape[0]},), as 'weight' has rows, got {tuple(bias.shape)}")
    for name, other in (("weight", weight), ("bias", bias)):
        if other is not None and (other.dtype != x.dtype or other.device != x.device):
            raise ValueError(f"{name!r} must be {x.dtype} on {x.device} as 'x' is, got {other.dtype} on {other.device}")
    return x, weight, bias


_casts: ContextVar[dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] | None] = ContextVar("casts", default=None)


@contextmanager
def frozen() -> Iterator[None]:
    """Within the block no weight changes, says the caller: a sampler calls one network many times.

    Each parameter is then cast to autocast's dtype once, not at every call (the modulation of a DiT-S alone has 11
    million numbers). Only where no gradient is wanted; a weight that is computed anew at every call is cast anew.
    """
    token = _casts.set({})
    try:
        yield
    finally:
        _casts.reset(token)


def _to(weight: Tensor, dtype: torch.dtype) -> Tensor:
    if torch.compiler.is_compiling():  # a compiler cannot see a context variable, and would cut its graph here
        return weight.to(dtype)
    casts = _casts.get()
    if casts is None or weight.dtype == dtype or torch.is_grad_enabled() or not isinstance(weight, nn.Parameter):
        return weight.to(dtype)
    key = id(weight), dtype
    if key not in casts:
        casts[key] = (weight, weight.to(dtype))  # holding the weight keeps its id its own
    return casts[key][1]


def _wants_gradient(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    wanted = x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    return wanted and torch.is_grad_enabled()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b without autograd, by the faster library."""
    # oneDNN takes no empty matrices, and torch's own compiler takes oneDNN by itself, or not at all
    if x.numel() and weight.numel() and not torch.compiler.is_compiling():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


# The product dy^T x sums over the rows. Below this many, oneDNN's transpositions cost more than its speed brings:
# 66 against 79 GFLOP/s of MKL at 64 rows of 128, 139 against 86 at 1024 (one core of an AMD Zen 5). It is quicker with
# the wider matrix on the right: at 2048 rows, 384 -> 1536, 89 GFLOP/s as dy^T x and 101 as x^T dy (a core of a Zen 4).
_ROWS = 128


def _rows(y: Tensor) -> Tensor:
    """(*, K) as a matrix."""
    return y.flatten(0, -2) if y.ndim > 1 else y[None]


def _gradients(dy: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """(dx, dW, db) of x W^T + b for its gradient dy, each None unless needed."""
    dy = dy.contiguous()  # that of a sum is one number everywhere, with strides that oneDNN does not take
    rows_dy, rows_x = _rows(dy), _rows(x)
    dx = _product(dy, weight.t(), None) if needed[0] else None
    dw = None
    if needed[1]:
        tall = dy.dtype == torch.float32 and rows_dy.shape[0] >= _ROWS
        if not tall:
            dw = rows_dy.t() @ rows_x
        elif dy.shape[-1] > x.shape[-1]:
            dw = _product(rows_x.t(), rows_dy.t(), None).t()
        else:
            dw = _product(rows_dy.t(), rows_x.t(), None)
    db = rows_dy.sum(0) if needed[2] else None
    return dx, dw, db


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = upstream
        x, weight = ctx.saved_tensors
        if double.wanted():  # by products that torch differentiates: the definition's value is not wanted again
            wants_x, wants_weight, wants_bias = ctx.needs_input_grad
            rows_dy, rows_x = _rows(dy), _rows(x)
            return (
                dy @ weight if wants_x else None,
                rows_dy.t() @ rows_x if wants_weight else None,
                rows_dy.sum(0) if wants_bias else None,
            )
        return _gradients(dy, x, weight, ctx.needs_input_grad)


class _LinearGelu(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        u = _product(x, weight, bias)
        out = torch.empty_like(u)
        torch.ops.gensys.gelu(out, u)
        return out, u

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        dy = upstream[0]
        x, weight, bias, u = ctx.saved_tensors
        if double.wanted():
            return tuple(double.gradients(reference_gelu, (x, weight, bias), (dy,), ctx.needs_input_grad))
        du = torch.empty_like(u)
        torch.ops.gensys.gelu_backward(du, dy.contiguous(), u)
        return _gradients(du, x, weight, ctx.needs_input_grad)


def examples() -> Iterator[dict[str, Any]]:
    """Keyword arguments that reach every branch: ragged, one row, one column, empty, strided, few and many rows."""
    generator = torch.Generator().manual_seed(0)
    shapes = [((2, 37, 24), 40), ((1, 1), 1), ((300, 17), 33), ((130, 5), 1), ((0, 8), 3), ((3, 8), 0), ((4, 0), 3)]
    for shape, n in [*shapes, ((2, 3, 16, 8), 12), ((33,), 7)]:
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(shape, generator=generator).to(dtype)
            weight = (torch.randn(n, shape[-1], generator=generator) / max(shape[-1], 1) ** 0.5).to(dtype)
            yield {"x": x, "weight": weight, "bias": torch.randn(n, generator=generator).to(dtype)}
            yield {"x": x, "weight": weight, "bias": None}
    x = torch.randn(20, 9, 16, generator=generator).transpose(0, 1)
    yield {"x": x, "weight": torch.randn(16, 11, generator=generator).t(), "bias": None}


if native.extension is not None:

    @torch.library.register_fake("gensys::gelu")
    def _fake_gelu(*_: object) -> None:
        """What tracing sees: nothing is returned, `out` is written."""

    @torch.library.register_fake("gensys::gelu_backward")
    def _fake_gelu_backward(*_: object) -> None:
        """What tracing sees: nothing is returned, `out` is written."""
