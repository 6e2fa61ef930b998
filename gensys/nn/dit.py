"""The diffusion transformer: patches of a latent as tokens, conditioned through adaptive layer norm.

Peebles and Xie, 2022, "Scalable diffusion models with transformers", arXiv:2212.09748 (adaLN-Zero).

B batch, T tokens, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gensys.core import Cond
from gensys.kernels.adaln import adaln_gate_modulate, adaln_modulate
from gensys.kernels.attention import attention_qkv
from gensys.nn.embed import Condition, grid_positions
from gensys.nn.linear import Linear, LinearGelu

__all__ = ["SIZES", "DiT"]

SIZES = {"tiny": (128, 5, 4), "S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
"""Width, depth and heads of the paper's four sizes, table 1, and of one that trains on a CPU in minutes."""

EPS = 1e-6  # of the layer norms: the paper's
Vectors = Sequence[Tensor]


class Block(nn.Module):
    """Self-attention, then a two-layer perceptron, each normalised, modulated and gated by the condition.

    What comes in is normalised and modulated already, and so is what goes out, for the block that follows: between two
    halves the gate, the sum, the norm and the modulation are then one pass over memory (gensys/kernels/adaln.py).
    """

    def __init__(self, dim: int, heads: int, expansion: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)
        self.up = LinearGelu(dim, expansion * dim)
        self.down = Linear(expansion * dim, dim)

    def forward(self, x: Tensor, m: Tensor, own: Vectors, following: Vectors) -> tuple[Tensor, Tensor]:
        """x: (B, T, D), the residual stream. m: (B, T, D), its modulated norm.

        own: gate of the first half; shift, scale and gate of the second. following: shift and scale for the m that goes
        out. Each is (B, D).
        """
        gate_a, shift_m, scale_m, gate_m = own
        x, m = adaln_gate_modulate(x, self.attend(m), gate_a, shift_m, scale_m, eps=EPS, dtype=m.dtype)
        return adaln_gate_modulate(x, self.down(self.up(m)), gate_m, *following, eps=EPS, dtype=m.dtype)

    def attend(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        return self.out(attention_qkv(self.qkv(x).view(b, n, 3, self.heads, d // self.heads)).flatten(2))


class DiT(nn.Module):
    """net(x_t, t, cond) on (B, C, height, width).

    shape: (C, height, width), the usual one: any other whose sides are multiples of the patch is computed as well.
    patch: side of the square patches that become tokens. classes: 0 = unconditional. vector: the length of
    cond["vector"]; 0 = none. outputs: channels that are returned, C unless told (2 C for a learned variance).
    The last layer and every gate start at zero, so the untrained network returns 0.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        classes: int = 0,
        vector: int = 0,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        channels, rows, columns = shape
        if min(patch, width, heads) < 1 or depth < 0:
            raise ValueError(
                f"'patch', 'width' and 'heads' must be at least 1 and 'depth' 0, got {patch}, {width}, {heads} and "
                f"{depth}"
            )
        if width % 4:
            raise ValueError(f"'width' must be a multiple of 4 (positions: two axes, sine and cosine), got {width}")
        self.patch, self.width, self.depth = patch, width, depth
        positions = self.grid(rows, columns)
        if width % heads:
            raise ValueError(f"'width' must be a multiple of 'heads' ({heads}), got {width}")
        self.embed = Linear(channels * patch**2, width)
        self.register_buffer("positions", positions, persistent=False)
        self.usual = rows, columns
        self.positions: Tensor
        self.condition = Condition(width, classes=classes, vector=vector)
        # one matrix product gives the modulation of all blocks and of the last layer
        self.modulation = Linear(width, (6 * depth + 2) * width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.out = Linear(width, (outputs or channels) * patch**2)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for zero in (self.modulation, self.out):
            nn.init.zeros_(zero.weight)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        rows, columns = x_t.shape[2:]
        positions = self.positions if (rows, columns) == self.usual else self.grid(rows, columns).to(x_t.device)
        tokens = self.embed(self.tokens(x_t))
        x = tokens + positions  # float32 also under autocast: the residual stream keeps its precision
        c = F.silu(self.condition(t, cond))
        # (6 depth + 2, B, D): shift, scale and gate of the two halves of each block; shift and scale of the last layer
        m = self.modulation(c)
        m = m.to(torch.promote_types(m.dtype, torch.float32))
        m = m.view(x.shape[0], 6 * self.depth + 2, -1).transpose(0, 1).contiguous().unbind()
        y = adaln_modulate(x, m[0], m[1], eps=EPS, dtype=tokens.dtype)
        for k, block in enumerate(self.blocks):
            x, y = block(x, y, m[6 * k + 2 : 6 * k + 6], m[6 * k + 6 : 6 * k + 8])
        return self.image(self.out(y), rows, columns).to(x_t.dtype)

    def grid(self, rows: int, columns: int) -> Tensor:
        """The positions of the tokens of (C, rows, columns), (T, D)."""
        if rows % self.patch or columns % self.patch:
            raise ValueError(f"'patch' must divide the sides of {rows} x {columns}, got {self.patch}")
        return grid_positions(rows // self.patch, columns // self.patch, self.width)

    def tokens(self, x: Tensor) -> Tensor:
        """(B, C, rows, columns) -> (B, T, C patch^2)."""
        _, c, rows, columns = x.shape
        p = self.patch
        x = x.view(-1, c, rows // p, p, columns // p, p).permute(0, 2, 4, 1, 3, 5)
        return x.reshape(x.shape[0], -1, c * p * p)

    def image(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """(B, T, C patch^2) -> (B, C, rows, columns)."""
        p = self.patch
        x = tokens.view(tokens.shape[0], rows // p, columns // p, -1, p, p).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(tokens.shape[0], -1, rows, columns)
