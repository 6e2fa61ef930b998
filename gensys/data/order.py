"""The order in which training visits the data, as a pure function of (seed, position).

Position p = step * batch + slot counts every row ever visited; its epoch is p // n and its row is
permutation(seed, epoch)[p % n]. The permutation is never stored: a Feistel network (Luby and Rackoff, 1988, "How to
construct pseudorandom permutations from pseudorandom functions") is a bijection of [0, 4^h), and walking along its
cycle until the value falls below n makes it one of [0, n) (Black and Rogaway, 2002, "Ciphers with arbitrary finite
domains"). So a run resumes anywhere in O(batch), and any number of workers slices the same global batch.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gensys.noise import Stream, philox

__all__ = ["permute", "rows"]

_ROUNDS = 6  # four make a pseudorandom permutation of a large domain; small ones need more to reach every order
_MAX_ROWS = 1 << 56  # as many rows as noise.py has ids

_Words = npt.NDArray[np.uint64]


@lru_cache(maxsize=64)
def _keys(seed: int, epoch: int) -> _Words:
    """The round keys of one epoch, (_ROUNDS,) uint64, from Philox."""
    count = torch.arange(_ROUNDS)
    low_word, high_word = torch.full_like(count, epoch & 0xFFFFFFFF), torch.full_like(count, epoch >> 32)
    low, high, _, _ = philox((count, low_word, high_word, torch.full_like(count, int(Stream.ORDER))), seed)
    return low.numpy().astype(np.uint64) | high.numpy().astype(np.uint64) << np.uint64(32)


def _mix(x: _Words) -> _Words:
    """The output function of SplitMix64 (Stafford's variant 13): a bijection that avalanches."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(index: npt.NDArray[np.int64], keys: _Words, n: int) -> npt.NDArray[np.int64]:
    """The image of `index` (B,) under the bijection of [0, n) that `keys` choose, (_ROUNDS, 1 or B)."""
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = np.broadcast_to(keys, (_ROUNDS, index.shape[0]))
    out = index.astype(np.uint64)
    walking = np.arange(index.shape[0])
    while walking.size:  # ends: the walk stays on the cycle it started on, which holds its own start, below n
        x = out[walking]
        left, right = x >> half, x & mask
        for key in keys[:, walking]:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        x = left << half | right
        out[walking] = x
        walking = walking[x >= n]
    return out.astype(np.int64)


def rows(seed: int, step: int, batch: int, n: int) -> Tensor:
    """The rows of the global batch at `step`: (batch,) int64, values in [0, n).

    seed: of the run, 64 bits. step: from 0. batch: rows in the global batch, over all workers. n: rows in the data.
    Every n consecutive positions that start at a multiple of n visit every row once; a batch may span epochs.
    Raises ValueError if a number is out of range.
    """
    for name, value, low, high in (
        ("seed", seed, 0, (1 << 64) - 1),
        ("step", step, 0, (1 << 63) - 1),
        ("batch", batch, 1, 1 << 32),
        ("n", n, 1, _MAX_ROWS),
    ):
        if not low <= value <= high:
            raise ValueError(f"'{name}' must lie in [{low}, {high}], got {value}")
    first, offset = divmod(step * batch, n)  # Python's integers: the product may pass 2^63
    position = offset + np.arange(batch, dtype=np.int64)
    epoch, index = position // n, position % n
    keys = np.stack([_keys(seed, first + e) for e in range(int(epoch[-1]) + 1)], axis=1)
    return torch.from_numpy(permute(index, keys[:, epoch], n))
