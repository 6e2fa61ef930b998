"""A causal transformer over one grid of codes: the logits of every code, given those before it in raster order.

    x_t = e(code t-1) + position_t + condition + features of coarser grids at t          (e of a start token at t = 0)
    x  <- x + attend(norm(x)),  x <- x + mlp(norm(x))             for each block; token t attends to tokens up to t
    logits_t = W norm(x_t) + b

Radford, Wu, Child, Luan, Amodei and Sutskever, 2019, "Language models are unsupervised multitask learners", section 2.3
(norms first, weights at the start); Razavi, van den Oord and Vinyals, 2019, "Generating diverse high-fidelity images
with VQ-VAE-2", arXiv:1906.00446, section 3.2 (a grid given coarser ones).

B batch, T tokens of the grid, K codes, D width, H heads, d = D / H.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gensys.core import Cond
from gensys.kernels.attention import attention, attention_qkv
from gensys.kernels.linear import linear
from gensys.nn.conditioner import context
from gensys.nn.embed import taken_names
from gensys.nn.linear import Linear, LinearGelu

__all__ = ["GPT", "Decoding"]

_STD = 0.02  # of weights at the start: the paper's
_SHORT = 128  # tokens up to which plain products beat torch's fused attention on a CPU, see kernels/attention.py


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each of normalised x and added to it. causal: token t sees no later ones.

    dropout: of what either half adds.
    """

    def __init__(self, dim: int, heads: int, dropout: float, *, causal: bool = True) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm_a, self.norm_m = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = Linear(dim, 3 * dim), Linear(dim, dim)
        self.up, self.down = LinearGelu(dim, 4 * dim), Linear(4 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        """x: (B, t, D). past: of the tokens before x; they are t more after the call."""
        b, t, d = x.shape
        qkv = self.qkv(self.norm_a(x)).view(b, t, 3, self.heads, d // self.heads)
        mixed = self._mix(qkv) if past is None else past.extended(qkv)
        x = x + self.dropout(self.out(mixed.flatten(2)))
        return x + self.dropout(self.down(self.up(self.norm_m(x))))

    def _mix(self, qkv: Tensor) -> Tensor:
        """(B, T, 3, H, d) -> (B, T, H, d)."""
        if not self.causal:
            return attention_qkv(qkv)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        if q.device.type != "cpu" or q.shape[2] > _SHORT:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        return (scores.masked_fill(later, -math.inf).softmax(-1).to(v.dtype) @ v).transpose(1, 2)


class Past:
    """Keys and values of the tokens so far, in one block: room for (B, H, T, d), of which `length` tokens are there."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.keys, self.values = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))
        self.length = 0

    def extended(self, qkv: Tensor) -> Tensor:
        """Attend from one more token, (B, 1, 3, H, d), to itself and those before it: (B, 1, H, d)."""
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        here, self.length = self.length, self.length + 1
        self.keys[:, :, here : self.length], self.values[:, :, here : self.length] = k, v
        q = q.to(self.keys.dtype)
        return attention(q, self.keys[:, :, : self.length], self.values[:, :, : self.length]).transpose(1, 2)


class Coarser(nn.Module):
    """Features of coarser grids for every place of a finer one, (B, T, D): codes of the places above it, embedded and
    summed, then blocks in which all places see each other.

    grids: the coarser ones, of as many axes as `grid`.
    """

    places: Tensor

    def __init__(
        self, size: int, grid: tuple[int, ...], grids: Sequence[tuple[int, ...]], width: int, heads: int, depth: int
    ) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, width) for _ in grids)
        self.positions = nn.Parameter(torch.empty(math.prod(grid), width).normal_(std=_STD))
        self.blocks = nn.ModuleList(Block(width, heads, 0.0, causal=False) for _ in range(depth))
        places = torch.stack([_above(grid, other) for other in grids])
        self.register_buffer("places", places, persistent=False)  # a function of the grids

    def forward(self, coarser: Sequence[Tensor]) -> Tensor:
        """coarser: (B, tokens of a coarser grid) each."""
        found = [table(codes[:, at]) for table, codes, at in zip(self.tables, coarser, self.places, strict=True)]
        x = torch.stack(found).sum(0) + self.positions
        for block in self.blocks:
            x = block(x)
        return x


def _above(grid: tuple[int, ...], coarse: tuple[int, ...]) -> Tensor:
    """For each place of a grid the number, in raster order, of the place of a coarser one that covers it, (T,)."""
    number = torch.zeros(grid, dtype=torch.int64)
    for axis, (fine, few) in enumerate(zip(grid, coarse, strict=True)):
        along = torch.arange(fine) * few // fine
        number = number * few + along.view(-1, *(1,) * (len(grid) - 1 - axis))
    return number.flatten()


class GPT(nn.Module):
    """p(codes of one grid | cond, codes of coarser grids).

    size: K. grid: of the codes. coarser: the grids that it is given. classes, vector: of cond["label"] and
    cond["vector"]; 0 = none. dropout: of activations, in training. Raises ValueError for sizes that do not fit.
    """

    def __init__(
        self,
        size: int,
        grid: tuple[int, ...],
        *,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        coarser: Sequence[tuple[int, ...]] = (),
        classes: int = 0,
        vector: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(size, width, depth, heads, *grid) < 1:
            raise ValueError(
                f"'size', 'width', 'depth', 'heads' and 'grid' must be at least 1, got {size}, {width}, {depth}, "
                f"{heads} and {grid}"
            )
        if width % heads:
            raise ValueError(f"'width' must be a multiple of 'heads' ({heads}), got {width}")
        if odd := [other for other in coarser if len(other) != len(grid)]:
            raise ValueError(f"'coarser' must be grids of {len(grid)} axes as 'grid' {grid}, got {odd[0]}")
        self.size, self.tokens, self.width, self.heads = size, math.prod(grid), width, heads
        self.start = nn.Parameter(torch.empty(width).normal_(std=_STD))
        self.table = nn.Embedding(size, width)
        self.positions = nn.Parameter(torch.empty(self.tokens, width).normal_(std=_STD))
        self.context = context(width, classes=classes, vector=vector)
        self.conditions = taken_names(classes, vector)
        self.coarser = Coarser(size, grid, coarser, width, heads, max(1, depth // 2)) if coarser else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), Linear(width, size)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=_STD)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=_STD)
            elif isinstance(module, Block):  # 2 depth terms are summed: so the sum does not grow with their number
                for last in (module.out, module.down):
                    last.weight.data.mul_((2 * depth) ** -0.5)

    def forward(self, codes: Tensor, cond: Cond, coarser: Sequence[Tensor] = ()) -> Tensor:
        """codes: (B, T) int64 in raster order; coarser: those of the coarser grids, (B, T') each.

        (B, T, K) float32 logits, of code t from codes before t.
        """
        before = self.table(codes[:, :-1])
        x = torch.cat([self.start.expand(codes.shape[0], 1, -1), before], 1) + self.given(cond, coarser, len(codes))
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        return self.logits(x)

    def given(self, cond: Cond, coarser: Sequence[Tensor], batch: int) -> Tensor:
        """What is added to the tokens, (B, T, D): where they are, and what they go by."""
        total = self.positions.expand(batch, -1, -1)
        if self.context is not None:
            c = self.context(cond, batch)
            total = total + (c[:, None] if isinstance(c, Tensor) else c)
        return total if self.coarser is None else total + self.coarser(coarser)

    def logits(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # probabilities are of full precision
            return linear(self.norm(x.to(self.head.weight.dtype)), self.head.weight, self.head.bias)

    def decoding(self, cond: Cond, coarser: Sequence[Tensor], batch: int) -> Decoding:
        """To draw the codes of `batch` rows one after another."""
        return Decoding(self, self.given(cond, coarser, batch))


class Decoding:
    """The logits of one token after another: what `forward` gives, without computing earlier tokens again."""

    def __init__(self, net: GPT, given: Tensor) -> None:
        self._net, self._given, self._at = net, given, 0
        kind = given.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else given.dtype
        shape = (given.shape[0], net.heads, net.tokens, net.width // net.heads)
        self._past = [Past(shape, dtype, given.device) for _ in net.blocks]

    def next(self, code: Tensor | None) -> Tensor:
        """code: (B,), the one before; None at the start. (B, K) logits of the next."""
        net = self._net
        before = net.start if code is None else net.table(code)
        x = (before + self._given[:, self._at])[:, None]
        for block, past in zip(net.blocks, self._past, strict=True):
            x = block(x, past)
        self._at += 1
        return net.logits(x)[:, 0]
