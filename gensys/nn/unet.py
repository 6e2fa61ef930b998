"""The U-Net of diffusion models: residual blocks down and up, each level's features handed across.

Ho, Jain and Abbeel, 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239, appendix B; with the scale and
shift of Dhariwal and Nichol, 2021, "Diffusion models beat GANs on image synthesis", arXiv:2105.05233, section 3.

B batch, C channels of the data, D channels of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gensys.core import Cond
from gensys.kernels.attention import attention_qkv
from gensys.nn.embed import Condition
from gensys.nn.linear import Linear

__all__ = ["UNet"]

_GROUPS = 32  # of the norms, as in the papers; fewer where the channels are not a multiple of it
_MEMBERS = 4  # channels of a group at least, as the papers' narrowest layer has: a norm of one channel erases its mean


def _norm(channels: int) -> nn.GroupNorm:
    groups = next(g for g in range(max(1, min(_GROUPS, channels // _MEMBERS)), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def _zero(channels: int, outputs: int) -> nn.Conv2d:
    """A convolution that starts at zero, so that every block starts as the identity."""
    layer = nn.Conv2d(channels, outputs, 3, padding=1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType] - there is one
    return layer


class Block(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))) (1 + scale) + shift)), then attention where asked for.

    The condition gives scale and shift. resample: 0.5 or 2 changes the resolution inside the block, of both branches.
    """

    def __init__(
        self, inputs: int, outputs: int, dim: int, *, heads: int = 0, dropout: float = 0.0, resample: float = 1.0
    ) -> None:
        super().__init__()
        self.heads, self.resample = heads, resample
        self.norm_in, self.conv_in = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = Linear(dim, 2 * outputs)
        self.norm_out, self.dropout = _norm(outputs), nn.Dropout(dropout)
        self.conv_out = _zero(outputs, outputs)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        if heads:
            self.norm_attention, self.qkv = _norm(outputs), Linear(outputs, 3 * outputs)
            self.out = Linear(outputs, outputs)
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        y = self.conv_in(self._resized(F.silu(self.norm_in(x))))
        scale, shift = self.modulation(F.silu(c))[:, :, None, None].chunk(2, dim=1)
        y = self.norm_out(y) * (1.0 + scale) + shift
        x = self.skip(self._resized(x)) + self.conv_out(self.dropout(F.silu(y)))
        return self._attend(x) if self.heads else x

    def _resized(self, x: Tensor) -> Tensor:
        if self.resample < 1.0:
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.resample > 1.0 else x

    def _attend(self, x: Tensor) -> Tensor:
        b, d, rows, columns = x.shape
        tokens = self.norm_attention(x).flatten(2).transpose(1, 2)
        qkv = self.qkv(tokens).view(b, rows * columns, 3, self.heads, d // self.heads)
        return x + self.out(attention_qkv(qkv).flatten(2)).transpose(1, 2).reshape(b, d, rows, columns)


class UNet(nn.Module):
    """net(x_t, t, cond) on (B, C, height, width), sides that are multiples of fold 2^(levels - 1).

    width: channels at full resolution, times `multipliers`, one for each level. blocks: a level. attention: the levels,
    0 = full resolution, whose blocks attend, with `head` channels a head; the middle always does. dropout: in every
    block. classes: 0 = unconditional. vector: the length of cond["vector"], such as an action; 0 = none. outputs:
    channels that are returned, C unless told (2 C for a learned variance). fold: squares of so many pixels a side are
    folded into channels first, and unfolded last, so that full resolution has fold^2 times fewer places (Shi et al.,
    2016, arXiv:1609.05158, section 3.2). The untrained network returns 0.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (1,),
        head: int = 64,
        dropout: float = 0.0,
        classes: int = 0,
        vector: int = 0,
        outputs: int | None = None,
        fold: int = 1,
    ) -> None:
        super().__init__()
        levels = len(multipliers)
        if fold < 1:
            raise ValueError(f"'fold' must be at least 1, the side of a square of pixels, got {fold}")
        if width < 1 or min(multipliers, default=1) < 1:
            raise ValueError(f"'width' and 'multipliers' must be at least 1, got {width} and {tuple(multipliers)}")
        if not levels or blocks < 1 or any(not 0 <= level < levels for level in attention):
            raise ValueError(
                f"'attention' must name levels in [0, {levels}) and 'blocks' be at least 1, got {tuple(attention)} and "
                f"{blocks}"
            )
        self.levels, self.fold, dim = levels, fold, 4 * width
        self.condition = Condition(dim, classes=classes, vector=vector)
        self.first = nn.Conv2d(channels * fold**2, width, 3, padding=1)

        def block(inputs: int, outputs: int, attends: bool) -> Block:
            if attends and outputs % min(head, outputs):
                raise ValueError(f"'head' must divide the channels of a block that attends, {outputs}, got {head}")
            heads = outputs // min(head, outputs) if attends else 0
            return Block(inputs, outputs, dim, heads=heads, dropout=dropout)

        def resized(d: int, resample: float) -> Block:  # these never attend
            return Block(d, d, dim, dropout=dropout, resample=resample)

        down: list[Block] = []
        up: list[Block] = []
        kept, d = [width], width  # channels of what is handed across
        for level, times in enumerate(multipliers):
            for _ in range(blocks):
                down.append(block(d, width * times, level in attention))
                d = width * times
                kept.append(d)
            if level < levels - 1:
                down.append(resized(d, 0.5))
                kept.append(d)
        self.middle = nn.ModuleList([block(d, d, True), block(d, d, False)])
        for level, times in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                up.append(block(d + kept.pop(), width * times, level in attention))
                d = width * times
            if level:
                up.append(resized(d, 2.0))
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.widens = [b.resample > 1.0 for b in up]
        self.norm, self.last = _norm(d), _zero(d, (outputs or channels) * fold**2)

    @property
    def blocks(self) -> nn.ModuleList:
        """All blocks, in the order of the forward pass: what is recomputed, or sharded, one by one."""
        return nn.ModuleList([*self.down, *self.middle, *self.up])

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        factor = self.fold * 2 ** (self.levels - 1)
        if x_t.shape[2] % factor or x_t.shape[3] % factor:
            raise ValueError(f"'x_t' must have sides that are multiples of {factor}, got {tuple(x_t.shape)}")
        c = self.condition(t, cond)
        kept = [self.first(F.pixel_unshuffle(x_t, self.fold))]
        for block in self.down:
            kept.append(block(kept[-1], c))
        x = kept[-1]
        for block in self.middle:
            x = block(x, c)
        for block, widens in zip(self.up, self.widens, strict=True):
            x = block(x if widens else torch.cat([x, kept.pop()], dim=1), c)
        return F.pixel_shuffle(self.last(F.silu(self.norm(x))), self.fold).to(x_t.dtype)
