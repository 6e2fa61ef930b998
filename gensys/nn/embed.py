"""Embeddings that networks share: of time, of position, of a class, of a vector."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gensys.core import Cond
from gensys.nn.linear import Linear

__all__ = [
    "CLOCK",
    "Condition",
    "GuidanceEmbedding",
    "LabelEmbedding",
    "Taking",
    "TimeEmbedding",
    "grid_positions",
    "sinusoid",
    "taken_by",
    "taken_names",
]

CLOCK = 1000.0  # sinusoids were made for integer steps up to 1000: this way they resolve t to about 1e-3


def sinusoid(x: Tensor, dim: int, longest: float = 10_000.0) -> Tensor:
    """[cos(x w), sin(x w)] with dim / 2 frequencies from 1 down to 1 / longest, geometrically. (...,) -> (..., dim).

    Vaswani et al., 2017, "Attention is all you need", arXiv:1706.03762, section 3.5.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)  # float64 stays: it is asked for where likelihoods are
    frequencies = torch.exp(-math.log(longest) * torch.arange(dim // 2, device=x.device, dtype=dtype) / (dim // 2))
    angles = x[..., None].to(dtype) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def grid_positions(height: int, width: int, dim: int) -> Tensor:
    """Fixed sinusoidal embeddings of a grid, half of dim for each axis: (height * width, dim)."""
    if dim % 4:
        raise ValueError(f"'dim' must be a multiple of 4 (two axes, sine and cosine), got {dim}")
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.cat([sinusoid(rows.flatten(), dim // 2), sinusoid(columns.flatten(), dim // 2)], dim=-1)


class TimeEmbedding(nn.Module):
    """(B,) times in [0, 1] -> (B, dim): sinusoids of `CLOCK` t, then two linear layers."""

    def __init__(self, dim: int, frequencies: int = 128) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(Linear(frequencies, dim), nn.SiLU(), Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(sinusoid(CLOCK * t, self.frequencies))


class LabelEmbedding(nn.Module):
    """(B,) class indices -> (B, dim). The index -1 ("no label"), or no label at all, has a row of its own.

    std: of the first values. 0.02, far below 1, suits a sum with other signals, which labels come into little by
    little; where the rows are normalised it says how fast they turn, as a step of Adam is as long for all.
    """

    def __init__(self, classes: int, dim: int, *, std: float = 0.02) -> None:
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes + 1, dim)
        nn.init.normal_(self.table.weight, std=std)

    def forward(self, cond: Cond, batch: int) -> Tensor:
        label = cond.get("label")
        if label is None:
            label = torch.full((batch,), -1, device=self.table.weight.device)
        return self.table(torch.where(label < 0, self.classes, label))


class VectorEmbedding(nn.Module):
    """(B, length) numbers, such as an action -> (B, dim): two linear layers. A row of NaN, "no vector", has its own."""

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.length = length
        self.mlp = nn.Sequential(Linear(length, dim), nn.SiLU(), Linear(dim, dim))
        self.none = nn.Parameter(0.02 * torch.randn(dim))

    def forward(self, cond: Cond, batch: int) -> Tensor:
        vector = cond.get("vector")
        if vector is None:
            return self.none.expand(batch, -1)
        if vector.shape != (batch, self.length):
            raise ValueError(f"cond['vector'] must be {(batch, self.length)}, got {tuple(vector.shape)}")
        absent = vector.isnan().any(1, keepdim=True)
        return torch.where(absent, self.none, self.mlp(vector.masked_fill(absent, 0.0).to(self.none.dtype)))


class GuidanceEmbedding(nn.Module):
    """(B,) scales of guidance, cond["w"] -> (B, dim): sinusoids of 1000 w, then a linear layer that starts at zero.

    A network into which guidance is distilled is told its scale this way, and one that begins as its teacher is not
    disturbed. usual: the scale that it goes by where cond has none; no weight, so it may differ from run to run.

    Meng et al., 2022, "On distillation of guided diffusion models", arXiv:2210.03142, section 3.1; Luo et al., 2023,
    "Latent consistency models", arXiv:2310.04378, section 4.3.
    """

    def __init__(self, dim: int, usual: float, frequencies: int = 256) -> None:
        super().__init__()
        self.usual, self.frequencies = usual, frequencies
        self.linear = Linear(frequencies, dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, cond: Cond, batch: int) -> Tensor:
        w = cond.get("w")
        if w is None:
            w = torch.full((batch,), self.usual, device=self.linear.weight.device)
        if w.shape != (batch,):
            raise ValueError(f"cond['w'] must be one scale for each row, {(batch,)}, got {tuple(w.shape)}")
        return self.linear(sinusoid(1000.0 * w, self.frequencies))


class Condition(nn.Module):
    """The sum of the embeddings of t, cond["label"], cond["vector"] and cond["w"], (B, dim), as far as it has them."""

    def __init__(self, dim: int, *, classes: int = 0, vector: int = 0) -> None:
        super().__init__()
        self.time = TimeEmbedding(dim)
        self.label = LabelEmbedding(classes, dim)
        self.vector = VectorEmbedding(vector, dim) if vector else None
        self.dim = dim
        self.guidance: GuidanceEmbedding | None = None

    def embed_guidance(self, usual: float) -> None:
        """Tell the network its scale of guidance from now on; what it computes stays what it was until trained."""
        self.guidance = GuidanceEmbedding(self.dim, usual)

    def forward(self, t: Tensor, cond: Cond) -> Tensor:
        c = self.time(t) + self.label(cond, t.shape[0])
        for part in (self.vector, self.guidance):
            c = c if part is None else c + part(cond, t.shape[0])
        return c

    @property
    def taken(self) -> frozenset[str]:
        """The names in `cond` that a row may have a value of its own for, and that make a difference."""
        return taken_names(self.label.classes, self.vector is not None)


def taken_names(classes: int, vector: int) -> frozenset[str]:
    """The names in `cond` that a module with so many classes and numbers of a vector goes by; 0 = none."""
    return frozenset(name for name, there in (("label", classes), ("vector", vector)) if there)


@runtime_checkable
class Taking(Protocol):
    """A module that knows which names in `cond` make a difference to it."""

    @property
    def taken(self) -> frozenset[str]: ...


def taken_by(net: nn.Module) -> frozenset[str]:
    """The names in `cond` that a network takes, by the modules in it that know; one without such may take a label."""
    found = [module.taken for module in net.modules() if isinstance(module, Taking)]
    return frozenset().union(*found) if found else frozenset({"label"})
