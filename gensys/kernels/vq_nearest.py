"""vq_nearest: the nearest code of every row, the search in the middle of vector quantisation.

    index[n] = argmin over k of |x[n] - codebook[k]|^2 = argmin over k of |codebook[k]|^2 / 2 - x[n] . codebook[k]

The right-hand form is the one that is computed (van den Oord et al., 2017, "Neural discrete representation learning",
arXiv:1711.00937, equation 2, with the square expanded and |x[n]|^2, common to all codes, left out): a matrix product,
whose N x K entries are never in memory together.

What is promised:
  - Of codes with equal scores the one with the lowest index is taken. Codes at equal distance have equal scores where
    the arithmetic is exact (integers, say). In the compiled kernels a score depends on x[n] and on the code alone, so
    equal codes tie wherever they are in the codebook.
  - Scores are sums of D products in float32 (float64 for float64 tensors), so of codes whose distances differ by less
    than the rounding any may be taken: the squared distance of the one that is taken exceeds the smallest one by at
    most 4 (D + 2) u (|x||e| + |e|^2), where u = 2^-24 and |e| is the largest norm of a code; in practice by some
    sqrt(D) times less. From data far from the origin subtract the mean first.
  - A code whose score is not a number is never taken. Where no code has a score above minus infinity (NaN in x[n]) the
    index is 0. Numbers whose squares overflow (in float32 from 1e18 on) are too large: any index may come.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, overload

import torch
from torch import Tensor

from gensys import native
from gensys.kernels.dispatch import OPS, choose

__all__ = ["examples", "reference", "vq_nearest"]

_ENTRIES = 2**22
"""Scores that the reference holds at a time: 16 MB in float32, whatever N and K are (unless a single row has more)."""


@overload
def vq_nearest(x: Tensor, codebook: Tensor, *, distances: Literal[False] = False) -> Tensor: ...
@overload
def vq_nearest(x: Tensor, codebook: Tensor, *, distances: Literal[True]) -> tuple[Tensor, Tensor]: ...
def vq_nearest(x: Tensor, codebook: Tensor, *, distances: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """The index of the nearest code for every row, (N,) int64; with `distances` also the squared distances, (N,).

    x: (N, D), N may be 0. codebook: (K, D), K >= 1, D >= 1; of one floating point dtype and on one device, any strides.
    The distances are |x - code|^2 of the code that was taken, summed from the differences, so a small one is as exact
    as a large one; float32 (float64 for float64 tensors).

    An index has no derivative. The distances have the one of |x - code|^2 with the code held fixed, which is that of
    the smallest distance wherever it has one; they are then computed in plain torch.
    """
    _check(x, codebook)
    implementation = choose("vq_nearest", x.device, x.dtype).implementation
    if implementation == "reference":
        return reference(x, codebook, distances=True) if distances else reference(x, codebook)
    index = torch.empty(x.shape[0], dtype=torch.int64, device=x.device)
    differentiable = distances and torch.is_grad_enabled() and (x.requires_grad or codebook.requires_grad)
    wanted = distances and not differentiable
    distance = torch.empty(x.shape[0], dtype=torch.float32, device=x.device) if wanted else None
    rows, codes = x.detach().contiguous(), codebook.detach().contiguous()
    if implementation == "triton":  # slow to import, and not always there
        from gensys.kernels.triton.vq_nearest import nearest

        nearest(rows, codes, index, distance)
    else:
        torch.ops.gensys.vq_nearest(rows, codes.float(), index, distance)
    if differentiable:
        distance = _distance(x, codebook, index)
    return index if distance is None else (index, distance)


@overload
def reference(x: Tensor, codebook: Tensor, *, distances: Literal[False] = False) -> Tensor: ...
@overload
def reference(x: Tensor, codebook: Tensor, *, distances: Literal[True]) -> tuple[Tensor, Tensor]: ...
def reference(x: Tensor, codebook: Tensor, *, distances: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """The definition of `vq_nearest`, in plain torch."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):  # autocast would round the products
        codes = codebook.to(_dtype(x))
        half = 0.5 * codes.square().sum(1)
        rows = max(1, _ENTRIES // codes.shape[0])
        index = torch.empty(x.shape[0], dtype=torch.int64, device=x.device)
        # Results go into one tensor: small ones, kept between the large scores, would break up the heap, which then
        # grows with N K after all.
        for some, found in zip(x.split(rows), index.split(rows), strict=True):
            found.copy_(_nearest(some.to(codes.dtype), codes, half))
    return (index, _distance(x, codebook, index)) if distances else index


def _nearest(x: Tensor, codes: Tensor, half: Tensor) -> Tensor:
    scores = torch.addmm(half, x, codes.T, alpha=-1)
    return scores.masked_fill_(scores.isnan(), torch.inf).argmin(1)


def _dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _distance(x: Tensor, codebook: Tensor, index: Tensor) -> Tensor:
    return (x.to(_dtype(x)) - codebook[index].to(_dtype(x))).square().sum(1)


def _check(x: Tensor, codebook: Tensor) -> None:
    """Raise ValueError, naming the argument, unless `vq_nearest` can take these. Fast when nothing is wrong."""
    if x.ndim != 2 or x.dtype not in OPS["vq_nearest"]:
        raise ValueError(
            f"'x' must be (N, D), floating point, got {_describe(x)}: move the channels last, then flatten(0, -2)"
        )
    if codebook.ndim != 2 or codebook.shape[0] == 0 or codebook.shape[1] == 0:
        raise ValueError(
            f"'codebook' must be (K, D) with at least one code and one dimension, got {_describe(codebook)}"
        )
    if codebook.shape[1] != x.shape[1]:
        raise ValueError(f"'codebook' must have the {x.shape[1]} columns of 'x', got {_describe(codebook)}")
    if codebook.dtype != x.dtype or codebook.device != x.device:
        raise ValueError(f"'codebook' must be {x.dtype} on {x.device} like 'x', got {_describe(codebook)}")


def _describe(x: Tensor) -> str:
    return f"{tuple(x.shape)} {x.dtype} on {x.device}"


def examples() -> Iterator[dict[str, Any]]:
    """Keyword arguments for `vq_nearest` that reach every branch of every kernel, for tests and benchmarks."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    # whole and ragged blocks of rows (48, 24 or 12) and of codes (4 or 3); one and none; D below, at and off 4, 8, 16
    shapes = [(0, 3, 4), (1, 1, 1), (5, 2, 3), (16, 3, 8), (33, 4, 16), (47, 5, 17), (48, 8, 7), (49, 13, 31)]
    shapes += [(97, 64, 64), (130, 61, 9), (13, 600, 2), (3, 1000, 130)]
    for n, k, d in shapes:
        for distances in (False, True):
            yield {"x": normal(n, d), "codebook": normal(k, d), "distances": distances}
    yield {"x": normal(50, 12).bfloat16(), "codebook": normal(70, 12).bfloat16(), "distances": True}
    yield {"x": normal(12, 50).T, "codebook": normal(70, 24)[:, ::2], "distances": True}
    yield {"x": normal(2, 9, 20).transpose(1, 2).flatten(0, 1), "codebook": normal(9, 30).T, "distances": False}


if native.extension is not None:

    @torch.library.register_fake("gensys::vq_nearest")
    def _fake(*_: object) -> None:
        """What tracing sees: nothing is returned, `index` and `distance` are written."""
