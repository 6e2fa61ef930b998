"""Networks that say how a part of a flow maps its input: of vectors and of images. Their last layer starts at zero,
if nothing else is said."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from gensys.core import Cond
from gensys.nn.embed import LabelEmbedding, VectorEmbedding
from gensys.nn.linear import Linear

__all__ = ["Context", "Convolutions", "Perceptron", "context"]


class Context(nn.Module):
    """The sum of the embeddings of cond["label"] and cond["vector"], (B, dim)."""

    def __init__(self, dim: int, *, classes: int, vector: int) -> None:
        super().__init__()
        self.label = LabelEmbedding(classes, dim) if classes else None
        self.vector = VectorEmbedding(vector, dim) if vector else None

    def forward(self, cond: Cond, batch: int) -> Tensor | float:
        total: Tensor | float = 0.0
        for embedding in (self.label, self.vector):
            if embedding is not None:
                total = total + embedding(cond, batch)
        return total


def context(dim: int, *, classes: int, vector: int) -> Context | None:
    """None: there is no condition, and nothing to learn for it."""
    return Context(dim, classes=classes, vector=vector) if classes or vector else None


class Perceptron(nn.Module):
    """(B, inputs) -> (B, outputs): `depth` hidden layers of `width`, ReLU; the condition is added to the first.

    std: of the last layer's weights at first; 0: it answers zero.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int = 64,
        depth: int = 2,
        classes: int = 0,
        vector: int = 0,
        std: float = 0.0,
    ) -> None:
        super().__init__()
        self.first = Linear(inputs, width)
        self.context = context(width, classes=classes, vector=vector)
        self.hidden = nn.ModuleList(Linear(width, width) for _ in range(depth - 1))
        self.last = Linear(width, outputs)
        _zero(self.last)
        if std:
            nn.init.normal_(self.last.weight, std=std)

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        x = self.first(x)
        if self.context is not None:
            x = x + self.context(cond, x.shape[0])
        for layer in self.hidden:
            x = layer(relu(x))
        return self.last(relu(x))


class Convolutions(nn.Module):
    """(B, inputs, H, W) -> (B, outputs, H, W): 3x3, `depth` residual convolutions of `kernel`, 3x3; ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int = 64,
        depth: int = 1,
        kernel: int = 1,
        classes: int = 0,
        vector: int = 0,
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.context = context(width, classes=classes, vector=vector)
        self.hidden = nn.ModuleList(nn.Conv2d(width, width, kernel, padding=kernel // 2) for _ in range(depth))
        self.last = nn.Conv2d(width, outputs, 3, padding=1)
        _zero(self.last)

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        x = self.first(x)
        if self.context is not None:
            c = self.context(cond, x.shape[0])
            x = x + (c[:, :, None, None] if isinstance(c, Tensor) else c)
        for layer in self.hidden:
            x = x + layer(relu(x))
        return self.last(relu(x))


def _zero(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
