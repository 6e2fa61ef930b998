"""Rows of what takes most of a transformer's time: linear layers, GELU and attention, in the sizes of a DiT-S/2."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from gensys.bench.limits import multiplying
from gensys.bench.row import Candidates, Row, Scope, deviation, differentiated
from gensys.bench.timing import Call

__all__ = ["rows"]

_ROWS = 4096  # 16 latents of 256 tokens
_LAYERS = ((384, 1152), (384, 384), (1536, 384))  # inputs and outputs: queries, keys and values; out; down
_UP = (384, 1536)
_HEADS = (16, 6, 256, 64)  # B, H, T, d
_DTYPES = (torch.float32, torch.bfloat16)


def rows(scope: Scope) -> Iterator[Row]:
    """Forward, and forward with backward, in both number formats."""
    for dtype in _DTYPES:
        name = str(dtype).removeprefix("torch.")
        for layer in ((8, 12),) if scope.quick else _LAYERS:
            for end in ("", " backward"):
                yield Row(
                    f"linear{end}", _text(scope, layer), name,
                    lambda s, layer=layer, dtype=dtype, end=end: _linear(s, layer, dtype, bool(end)),
                )  # fmt: skip
        up = (8, 12) if scope.quick else _UP
        heads = (2, 3, 8, 4) if scope.quick else _HEADS
        shape = "x".join(map(str, heads))
        for backward in (False, True):
            end = " backward" if backward else ""
            yield Row(
                f"linear_gelu{end}", _text(scope, up), name,
                lambda s, dtype=dtype, up=up, backward=backward: _gelu(s, up, dtype, backward),
            )  # fmt: skip
            for packed in (False, True):
                yield Row(
                    f"attention{'_qkv' * packed}{end}", shape, name,
                    lambda s, dtype=dtype, heads=heads, backward=backward, packed=packed: _attention(
                        s, heads, dtype, backward, packed
                    ),
                )  # fmt: skip


def _text(scope: Scope, layer: tuple[int, int]) -> str:
    return f"{_count(scope)}x{layer[0]}->{layer[1]}"


def _count(scope: Scope) -> int:
    return 32 if scope.quick else _ROWS


def _layer(scope: Scope, layer: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x, the weight and the bias."""
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = layer
    x = torch.randn(_count(scope), inputs, generator=generator)
    weight = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
    bias = torch.randn(outputs, generator=generator)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


def _linear(scope: Scope, layer: tuple[int, int], dtype: torch.dtype, backward: bool) -> Candidates:
    from gensys.kernels.linear import linear, reference

    work = 2.0 * _count(scope) * layer[0] * layer[1] * (3 if backward else 1)
    return _contest(scope, linear, reference, _layer(scope, layer, dtype), work, backward)


def _gelu(scope: Scope, layer: tuple[int, int], dtype: torch.dtype, backward: bool) -> Candidates:
    from gensys.kernels.linear import linear_gelu, reference_gelu

    work = 2.0 * _count(scope) * layer[0] * layer[1] * (3 if backward else 1)  # the products; GELU is next to nothing
    return _contest(scope, linear_gelu, reference_gelu, _layer(scope, layer, dtype), work, backward)


def _attention(
    scope: Scope, heads: tuple[int, int, int, int], dtype: torch.dtype, backward: bool, packed: bool
) -> Candidates:
    """packed: from what one linear layer leaves, and with the gradient of that, as the DiT calls it."""
    from gensys.kernels.attention import attention, attention_qkv, reference, reference_qkv

    b, h, t, d = heads
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(b, t, 3, h, d, generator=generator).to(dtype)  # as one linear layer leaves them
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    # two products forward; backward five, one of them again
    work = 2.0 * b * h * t * t * d * (7 if backward else 2)

    def sdpa(qkv: Tensor) -> Tensor:
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    if packed:
        return _contest(scope, attention_qkv, reference_qkv, (qkv,), work, backward, {"torch sdpa": sdpa})
    others = {"torch sdpa": F.scaled_dot_product_attention}
    return _contest(scope, attention, reference, (q, k, v), work, backward, others)


def _contest(
    scope: Scope,
    ours: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    work: float,
    backward: bool = False,
    others: Mapping[str, Callable[..., Tensor]] | None = None,
) -> Candidates:
    """Our function against its reference, eager and compiled, and against `others`."""
    dy = torch.randn(reference(*inputs).shape, generator=torch.Generator().manual_seed(1))
    functions = {"eager": reference, **(others or {})}
    if compiled := scope.compiled(reference):
        functions["torch.compile"] = compiled
    dtype = inputs[0].dtype
    exact = tuple(x.double() for x in inputs)
    return Candidates(
        ours={"fresh": _call(ours, inputs, dy.to(dtype), backward)},
        peers={name: _call(function, inputs, dy.to(dtype), backward) for name, function in functions.items()},
        error=deviation(_call(reference, exact, dy.to(dtype).double(), backward)()),
        tolerance=1e-5 if dtype == torch.float32 else 2e-2,
        limit=multiplying(dtype),
        work=work,
        grad=backward,
    )


def _call(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], dy: Tensor, backward: bool) -> Call:
    """The function on its inputs, or the function and the gradients of its inputs."""
    if not backward:
        return lambda: function(*inputs)
    return differentiated(function, [x.detach().requires_grad_() for x in inputs], [dy])
