"""attention: every query's mean of the values, weighted by how well the keys match it.

    attention(q, k, v) = softmax(q k^T / sqrt(d)) v        for each sample and head; no mask, not causal, no dropout
    Vaswani et al., 2017, "Attention is all you need", arXiv:1706.03762, equation 1

B samples, H heads, T tokens, d numbers of a token and head. `attention_qkv` takes queries, keys and values as one
tensor, as one linear layer gives them, and returns what the next one takes: in both directions nothing is copied.

On a CPU this is a kernel that keeps no matrix of scores: blocks of queries and keys meet in the caches, and the
backward pass computes the weights again, from two numbers that the forward pass leaves for every query: the largest
exponent and the reciprocal of the sum of all weights. Sums, the softmax and those two are float32 for bfloat16 as well,
whose weights are rounded to bfloat16 before they meet the values.

Under autocast the arguments are cast to its dtype, as torch's own attention does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gensys import native
from gensys.kernels import double
from gensys.kernels.dispatch import choose

__all__ = ["attention", "attention_qkv", "examples", "examples_qkv", "reference", "reference_qkv"]


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v. q: (B, H, T, d); k, v: (B, H, S, d), S >= 1; any strides. Returns (B, H, T, d).

    The result lies in memory as (B, T, H, d) does, so that `.transpose(1, 2).flatten(2)` copies nothing.
    """
    q, k, v = _cast(q, k, v)
    _check(q, k, v)
    implementation = choose("attention", q.device, q.dtype).implementation
    if implementation == "reference" or not q.numel():
        return reference(q, k, v)
    if implementation == "torch":
        return _torch(q, k, v)
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return _Attention.apply(q, k, v)[0]
    return _forward(q, k, v)


def attention_qkv(qkv: Tensor) -> Tensor:
    """Self-attention. qkv: (B, T, 3, H, d), the queries, keys and values of each token. Returns (B, T, H, d)."""
    if qkv.ndim != 5 or qkv.shape[2] != 3 or not qkv.shape[4]:
        raise ValueError(f"'qkv' must be (B, T, 3, H, d), d >= 1, got {tuple(qkv.shape)}")
    (qkv,) = _cast(qkv)
    implementation = choose("attention", qkv.device, qkv.dtype).implementation
    if implementation == "reference" or not qkv.numel():
        return reference_qkv(qkv)
    if implementation == "torch":
        return _torch(*_split(qkv)).transpose(1, 2)
    if torch.is_grad_enabled() and qkv.requires_grad:
        return _AttentionQKV.apply(qkv)[0]
    return _forward(*_split(qkv)).transpose(1, 2)


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The definition of `attention`."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return scores.softmax(-1).to(v.dtype) @ v


def reference_qkv(qkv: Tensor) -> Tensor:
    """The definition of `attention_qkv`."""
    return reference(*_split(qkv)).transpose(1, 2)


# torch's fused CPU attention works in blocks of 32 rows or more. Forward and backward in bfloat16, 64 x 4 heads of 32,
# one AVX-512 core, torch 2.13: 14.3 ms against 1.5 for two matrix products at 16 tokens, 34 against 5.3 at 64, 136
# against 111 at 256, where its forward pass is the faster. In float32 it is up to 1.7 times faster at 16 tokens.
_SHORT = 128


def _torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What torch does best, where there is no kernel for it."""
    if q.device.type == "cpu" and q.shape[-2] <= _SHORT:
        return reference(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def _cast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """In autocast's dtype where it is on (which leaves float64 alone)."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x if x.dtype == torch.float64 else x.to(dtype) for x in tensors)


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError, naming the argument, unless `attention` can take these."""
    if q.ndim != 4 or not q.shape[3]:
        raise ValueError(f"'q' must be (B, H, T, d), d >= 1, got {tuple(q.shape)}")
    if k.ndim != 4 or k.shape[:2] != q.shape[:2] or k.shape[3] != q.shape[3] or not k.shape[2]:
        batch, heads, _, depth = q.shape
        raise ValueError(f"'k' must be ({batch}, {heads}, S, {depth}), S >= 1, as 'q' is, got {tuple(k.shape)}")
    if v.shape != k.shape:
        raise ValueError(f"'v' must be {tuple(k.shape)} as 'k' is, got {tuple(v.shape)}")
    for name, x in (("k", k), ("v", v)):
        if x.dtype != q.dtype or x.device != q.device:
            raise ValueError(f"{name!r} must be {q.dtype} on {q.device} as 'q' is, got {x.dtype} on {x.device}")


def _split(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, T, 3, H, d) as q, k, v of (B, H, T, d), which share its memory."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
    return q, k, v


def _gapless(x: Tensor) -> Tensor:
    """Copied if the numbers of a token do not lie one after another."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _like(x: Tensor) -> Tensor:
    """Room for (B, H, T, d), which lies in memory as (B, T, H, d)."""
    b, h, t, d = x.shape
    return x.new_empty(b, t, h, d).transpose(1, 2)


def _forward(q: Tensor, k: Tensor, v: Tensor, stats: Tensor | None = None) -> Tensor:
    out = _like(q)
    torch.ops.gensys.attention(_gapless(q), _gapless(k), _gapless(v), out, stats)
    return out


def _stats(q: Tensor) -> Tensor:
    """Room for what the backward pass asks of the forward pass: (B, H, 2, T)."""
    return q.new_empty((*q.shape[:2], 2, q.shape[2]), dtype=torch.float32)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        stats = _stats(q)
        return _forward(q, k, v, stats), stats

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, out, stats = ctx.saved_tensors
        if upstream[0] is None:
            return None, None, None
        if double.wanted():
            return tuple(double.gradients(reference, (q, k, v), (upstream[0],), ctx.needs_input_grad))
        gradients = _like(q), _like(k), _like(v)
        arguments = [_gapless(x) for x in (upstream[0], q, k, v)]
        torch.ops.gensys.attention_backward(*arguments, out, stats, *gradients)
        return tuple(dx if needed else None for dx, needed in zip(gradients, ctx.needs_input_grad, strict=True))


class _AttentionQKV(torch.autograd.Function):
    @staticmethod
    def forward(qkv: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = _split(qkv)
        stats = _stats(q)
        return _forward(q, k, v, stats).transpose(1, 2), stats

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Tensor | None:
        qkv, out, stats = ctx.saved_tensors
        if upstream[0] is None:
            return None
        if double.wanted():
            return double.gradients(reference_qkv, (qkv,), (upstream[0],), ctx.needs_input_grad)[0]
        dqkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
        arguments = [_gapless(x) for x in (upstream[0].transpose(1, 2), *_split(qkv))]
        torch.ops.gensys.attention_backward(*arguments, out.transpose(1, 2), stats, *_split(dqkv))
        return dqkv


def examples() -> Iterator[dict[str, Any]]:
    """Keyword arguments for `attention` that reach every branch: ragged, one token, empty, many keys, strided."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    tokens = [(1, 1), (16, 16), (5, 37), (37, 5), (1, 70), (129, 33)]
    depths = [1, 8, 32, 40, 64, 72, 80, 128, 33]
    shapes = [(2, 3, t, s, 24) for t, s in tokens] + [(1, 2, 19, 35, d) for d in depths]
    shapes.append((1, 1, 200, 1100, 8))  # several blocks of queries and of keys
    for b, h, t, s, d in [*shapes, (0, 2, 4, 4, 8), (2, 0, 4, 4, 8), (2, 2, 0, 4, 8)]:
        for dtype in (torch.float32, torch.bfloat16):
            yield {name: draw(b, h, n, d).to(dtype) for name, n in (("q", t), ("k", s), ("v", s))}
    yield {  # gaps in the last dimension, a dimension that repeats, tokens before heads
        "q": draw(2, 3, 8, 21).transpose(2, 3),
        "k": draw(2, 1, 30, 8).expand(2, 3, 30, 8),
        "v": draw(2, 30, 3, 8).transpose(1, 2),
    }


def examples_qkv() -> Iterator[dict[str, Any]]:
    """Keyword arguments for `attention_qkv`."""
    generator = torch.Generator().manual_seed(0)
    for shape in [(2, 19, 3, 2, 24), (3, 16, 3, 4, 32), (1, 1, 3, 1, 1), (0, 4, 3, 2, 8), (2, 0, 3, 2, 8)]:
        for dtype in (torch.float32, torch.bfloat16):
            yield {"qkv": torch.randn(shape, generator=generator).to(dtype)}
    yield {"qkv": torch.randn(2, 3, 9, 2, 8, generator=generator).transpose(1, 2)}


if native.extension is not None:

    @torch.library.register_fake("gensys::attention")
    def _fake_attention(*_: object) -> None:
        """What tracing sees: nothing is returned, `out` and `stats` are written."""

    @torch.library.register_fake("gensys::attention_backward")
    def _fake_attention_backward(*_: object) -> None:
        """What tracing sees: nothing is returned, the gradients are written."""
