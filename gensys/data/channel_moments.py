"""Moments per channel of the draws of a store of latents, taken shard by shard and merged along a fixed tree.

Of every channel: how many values, the mean of the posteriors' means, the sum of their squared deviations from it, and
the sum of the posteriors' variances. Whoever makes a shard takes them while it has the latents in memory, and commits
them with the shard (`Config.summaries`), so that sealing a store reads a few numbers a shard instead of all latents.

Addition of floats is not associative, so the tree is part of the answer: neighbours are merged, chunks into shards and
shards into the store. Chunks and shards lie at fixed rows, so who made a shard, when, or how often changes no bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gensys.data import layout
from gensys.data.manifest import GOOD
from gensys.data.store import ArraySpec, Store
from gensys.durable import digest, explained
from gensys.errors import StoreError

__all__ = ["MIRROR", "MOMENTS", "merged", "moments_spec", "shard_moments", "stored_moments"]

MIRROR = "_mirror"  # the suffix of the arrays of the mirrored copy
MOMENTS = "moments"

Floats = npt.NDArray[np.float64]


def moments_spec(latents: Mapping[str, ArraySpec]) -> dict[str, ArraySpec]:
    """The summary of a store of such arrays: (4, C) float64; rows: n, mean, scatter, variance. {} for codes."""
    return {MOMENTS: ArraySpec((4, latents["mean"].shape[0]), "float64")} if "mean" in latents else {}


def shard_moments(store: Store, shard: int, arrays: Mapping[str, npt.NDArray[Any]]) -> Floats:
    """The moments of a shard from its arrays, (4, C) float64; its good rows count, the mirrored copy as more draws.

    Raises StoreError if a value is not finite.
    """
    pairs = [("mean" + s, "logvar" + s) for s in ("", MIRROR) if "mean" + s in store.config.arrays]
    rows, chunk = store.rows_of(shard), store.config.chunk
    good = arrays["state"] == GOOD
    found = np.zeros((-(-len(rows) // chunk), 4, store.config.arrays["mean"].shape[0]))
    for k, start in enumerate(range(0, len(rows), chunk)):  # so many rows in float64 stay in the processor's cache
        part = slice(start, start + chunk)
        if not good[part].any():
            continue
        mean, logvar = (
            np.concatenate([arrays[pair[i]][part][good[part]] for pair in pairs]).astype(np.float64) for i in (0, 1)
        )
        if not (np.isfinite(mean).all() and np.isfinite(logvar).all()):
            last = min(start + chunk, len(rows)) - 1
            raise StoreError(
                f"the latents of rows {rows[start]}..{rows[last]} of {store.where!r} are not all finite: the "
                "encoder is broken, or float16 is too small for it (encode with float32)"
            )
        mean, logvar = (np.moveaxis(a, 1, 0).reshape(a.shape[1], -1) for a in (mean, logvar))
        centre = mean.mean(1)  # squares of what is centred: sums of squares lose the digits that a large mean takes
        scatter = np.square(mean - centre[:, None]).sum(1)
        found[k] = np.full_like(centre, mean.shape[1]), centre, scatter, np.exp(logvar).sum(1)
    return merged(found)


def merged(parts: Floats) -> Floats:
    """The moments (4, C) of all `parts` (k, 4, C), k >= 1: neighbours merged, ((1 + 2) + (3 + 4)) + ...

    With d = m2 - m1:  n = n1 + n2,  mean = m1 + d n2 / n,  scatter = s1 + s2 + d^2 n1 n2 / n  (Chan, Golub and LeVeque,
    1979, "Updating formulae and a pairwise algorithm for computing sample variances"). A part without values changes
    no bit of its neighbour, so a level of odd length is filled up with one.
    """
    while len(parts) > 1:
        if len(parts) % 2:
            parts = np.concatenate([parts, np.zeros_like(parts[:1])])
        a, b = np.moveaxis(parts[0::2], 1, 0), np.moveaxis(parts[1::2], 1, 0)
        n = a[0] + b[0]
        share = b[0] / np.maximum(n, 1)  # of two parts without values 0
        shift = b[1] - a[1]
        scatter = a[2] + b[2] + np.square(shift) * (a[0] * share)
        parts = np.stack([n, a[1] + shift * share, scatter, a[3] + b[3]], 1)
    return parts[0]


def stored_moments(store: Store) -> Floats:
    """The moments of every shard, (shards, 4, C), each held against its commit.

    Raises StoreError that names the first shard that is not committed, or whose moments are not what was committed.
    """
    spec, name = store.config.summaries[MOMENTS], str(store.place)
    wanted = store.digests()[:, sorted(store.config.files).index(MOMENTS)]
    found = np.empty((store.config.shards, *spec.shape))
    with explained(store.place, "reading the moments"):
        for shard in range(store.config.shards):
            file = store.shard_file(MOMENTS, shard)
            data = store.place.read(file) if store.place.exists(file) else b""
            if digest(data) != wanted[shard].tobytes().hex():
                raise StoreError(
                    f"the moments of shard {shard} of {name!r} are not what was committed: give `gensys verify "
                    f"{name} --repair`, then the command that made the store"
                )
            found[shard] = layout.decode(spec, data)
    return found
