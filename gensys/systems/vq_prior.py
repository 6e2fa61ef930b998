"""A prior of codes: a causal transformer for every grid of a codec's codes, given the coarser grids.

    p(codes) = p(top) p(bottom | top) ...          each p a product over places in raster order

van den Oord, Vinyals and Kavukcuoglu, 2017, "Neural discrete representation learning", arXiv:1711.00937, section 3.3;
Razavi, van den Oord and Vinyals, 2019, "Generating diverse high-fidelity images with VQ-VAE-2", arXiv:1906.00446,
section 3.2 and algorithm 2. Their networks are PixelCNNs, here they are transformers, as in Esser, Rombach and Ommer,
2020, "Taming transformers for high-resolution image synthesis", arXiv:2012.09841, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

from gensys.families.tokens import Choice, Tokens
from gensys.nn.gpt import GPT

__all__ = ["vq_prior"]


def vq_prior(
    grids: Sequence[tuple[int, ...]],
    size: int,
    shape: tuple[int, ...],
    *,
    classes: int = 0,
    vector: int = 0,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    dropout: float = 0.1,
    unconditional: float = 0.1,
    choice: Choice = Choice(),  # noqa: B008 - a frozen value
) -> Tokens:
    """grids: from coarse to fine, whose codes in [0, size) are the numbers of a datum of `shape` in order.

    dropout: of activations. unconditional: the probability that a row is trained without its condition.
    """
    nets = [
        GPT(
            size,
            grid,
            width=width,
            depth=depth,
            heads=heads,
            coarser=grids[:k],
            classes=classes,
            vector=vector,
            dropout=dropout,
        )
        for k, grid in enumerate(grids)
    ]
    return Tokens(nets, shape, dropout=unconditional, choice=choice)
