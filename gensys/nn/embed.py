"""Embeddings that networks share: of time, of position, of a class."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gensys.core import Cond
from gensys.nn.linear import Linear

__all__ = ["LabelEmbedding", "TimeEmbedding", "grid_positions", "sinusoid"]


def sinusoid(x: Tensor, dim: int, longest: float = 10_000.0) -> Tensor:
    """[cos(x w), sin(x w)] with dim / 2 frequencies from 1 down to 1 / longest, geometrically. (...,) -> (..., dim).

    Vaswani et al., 2017, "Attention is all you need", arXiv:1706.03762, section 3.5.
    """
    frequencies = torch.exp(-math.log(longest) * torch.arange(dim // 2, device=x.device) / (dim // 2))
    angles = x[..., None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def grid_positions(height: int, width: int, dim: int) -> Tensor:
    """Fixed sinusoidal embeddings of a grid, half of dim for each axis: (height * width, dim)."""
    if dim % 4:
        raise ValueError(f"'dim' must be a multiple of 4 (two axes, sine and cosine), got {dim}")
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.cat([sinusoid(rows.flatten(), dim // 2), sinusoid(columns.flatten(), dim // 2)], dim=-1)


class TimeEmbedding(nn.Module):
    """(B,) times in [0, 1] -> (B, dim): sinusoids of 1000 t, then two linear layers."""

    def __init__(self, dim: int, frequencies: int = 128) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(Linear(frequencies, dim), nn.SiLU(), Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        # 1000 t: the sinusoids were made for integer steps up to 1000, and resolve t to about 1e-3 this way
        return self.mlp(sinusoid(1000.0 * t, self.frequencies))


class LabelEmbedding(nn.Module):
    """(B,) class indices -> (B, dim). The index -1 ("no label"), or no label at all, has a row of its own."""

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes + 1, dim)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, cond: Cond, batch: int) -> Tensor:
        label = cond.get("label")
        if label is None:
            label = torch.full((batch,), -1, device=self.table.weight.device)
        return self.table(torch.where(label < 0, self.classes, label))
