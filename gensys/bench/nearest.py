"""Rows of vq_nearest: the nearest of K codes for each of N vectors of D numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gensys.bench.limits import multiplying
from gensys.bench.peers import library
from gensys.bench.row import Candidates, Row, Scope
from gensys.bench.timing import Call

__all__ = ["rows"]

_SIZES = (
    (16384, 1024, 8),
    (16384, 8192, 8),
    (8192, 16384, 8),
    (4096, 16384, 32),
    (16384, 1024, 64),
    (16384, 4096, 64),
    (65536, 1024, 64),
    (16384, 1024, 256),
    (1024, 8192, 256),
)
_LAYERS = ((16384, 1024, 8), (16384, 1024, 64))  # where vector-quantize-pytorch is run: it takes half a second a call


def rows(scope: Scope) -> Iterator[Row]:
    """N x K x D for codebooks of images (D = 8), of latents (64) and of audio (256)."""
    sizes = ((100, 50, 8), (30, 70, 64)) if scope.quick else _SIZES
    for dtype, chosen in ((torch.float32, sizes), (torch.bfloat16, ((30, 70, 64),) if scope.quick else _LAYERS)):
        name = str(dtype).removeprefix("torch.")
        for size in chosen:
            text = "x".join(map(str, size))
            yield Row("vq_nearest", text, name, lambda s, size=size, dtype=dtype: _search(s, size, dtype))


def _search(scope: Scope, size: tuple[int, int, int], dtype: torch.dtype) -> Candidates:
    from gensys.kernels.vq_nearest import reference, vq_nearest

    n, k, d = size
    generator = torch.Generator().manual_seed(0)
    x, codebook = (torch.randn(count, d, generator=generator).to(dtype) for count in (n, k))

    def product(x: Tensor, codebook: Tensor) -> Tensor:
        """The usual line: |x - e|^2 without |x|^2, as a matrix product, and its smallest column."""
        return torch.addmm(codebook.square().sum(1), x, codebook.t(), alpha=-2.0).argmin(1)

    peers: dict[str, Call] = {
        "eager": lambda: reference(x, codebook),
        "addmm, argmin": lambda: product(x, codebook),
    }
    if compiled := scope.compiled(product):
        peers["torch.compile"] = lambda: compiled(x, codebook)
    if scope.peers and dtype == torch.float32:
        peers["faiss IndexFlatL2"] = _faiss(x, codebook)
        if scope.quick or size in _LAYERS:
            peers["vector-quantize-pytorch"] = _layer(x, codebook)
    return Candidates(
        ours={"fresh": lambda: vq_nearest(x, codebook)},
        peers=peers,
        error=_mismatches(x, codebook),
        tolerance=0.0,
        # in float32 two codes may be equally near; products in bfloat16 are rounded, and may find another code
        peer_tolerance=1e-3 * n if dtype == torch.float32 else 1.0 * n,
        limit=multiplying(torch.float32),
        work=2.0 * n * k * d,
    )


def _faiss(x: Tensor, codebook: Tensor) -> Call:
    faiss = library("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(codebook.numpy())
    vectors = x.numpy()
    return lambda: torch.from_numpy(index.search(vectors, 1)[1][:, 0])


def _layer(x: Tensor, codebook: Tensor) -> Call:
    layer = library("vector_quantize_pytorch").VectorQuantize(dim=x.shape[1], codebook_size=codebook.shape[0]).eval()
    layer.codebook = codebook
    return lambda: layer(x[None])[1][0]


def _mismatches(x: Tensor, codebook: Tensor) -> Callable[[Any], float]:
    """An error: how many indices are not those that float64 finds."""
    exact = codebook.double()
    half = 0.5 * exact.square().sum(1)
    blocks = [(half - block.double() @ exact.t()).argmin(1) for block in x.split(1024)]
    truth = torch.cat(blocks)
    return lambda index: float((index != truth).sum())
