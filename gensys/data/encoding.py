"""One encoding of a source into a latent store, from the plan to the sealed store: new, gone on with, or an update.

An update is a new store, built beside the old one: shards without a change are further names of the old files, the
others are made by the same jobs and commits as ever, and at the end the two stores change places. A process that is
killed leaves the old store, or the new one, and what the same command needs to go on:

    Z.zarr              the store
    .Z.zarr.rows        the manifest of what is being made; gone when it is made
    .Z.zarr.update      the new store, until it takes the place of the old one
    .Z.zarr.old         the old store, on its way out

In a bucket there are the first two: nothing there can change places, so a store in a bucket is not updated.

Every row is computed in a block of fixed size, at a fixed place in it, among zeros where no row is to be computed: what
a row becomes depends on its item and its place, not on its neighbours (a matrix product may round a row differently in
another place, or among another number of rows). So an update gives the bytes that a fresh encoding would.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gensys.core import Codes, Posterior
from gensys.data.channel_moments import MIRROR, MOMENTS, moments_spec, shard_moments
from gensys.data.latents import DIGESTED, Normalisation, columns, create_latents, latent_arrays, seal_latents
from gensys.data.layout import GROUP, ArraySpec, shard_bytes
from gensys.data.manifest import GOOD, Manifest
from gensys.data.place import open_place
from gensys.data.source import Source
from gensys.data.store import Store
from gensys.data.where import Where, beside, is_url
from gensys.durable import explained, supersede, sync_directory
from gensys.errors import OtherStoreError, StoreError
from gensys.noise import Noise

__all__ = ["Encode", "Encoding", "encode_block", "encode_shard", "plan", "recover", "tidy"]

Encode = Callable[[Tensor], Posterior | Codes]
"""x (B, *S) -> its latents, on the CPU."""


def _beside(out: Where, what: str) -> Where:
    return beside(out, f".{Path(out).name}.{what}")


def _made(where: Where, make: Callable[[], Store]) -> Store:
    """A store that is no one's but ours: one that was begun for other data is in the way, and goes."""
    try:
        return make()
    except OtherStoreError:
        open_place(where).clear()
        return make()


@dataclass(frozen=True)
class Encoding:
    """What is to be done. out: the store. old: the sealed store that is updated, or None.

    latents: arrays, see `latent_arrays`. codec: what identifies the encoder. codebook: its size, 0 = none.
    grids: of codes, see `Codes`. moments: whether shards have them; not in a store that was begun without them.
    """

    out: Where
    source: Source
    manifest: Manifest
    latents: Mapping[str, ArraySpec]
    codec: Mapping[str, Any]
    codebook: int
    grids: Sequence[Sequence[int]]
    shard: int
    chunk: int
    old: Store | None = None
    moments: bool = True

    @property
    def work(self) -> Where:
        """The store that is filled."""
        return self.out if self.old is None else _beside(self.out, "update")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the store that is updated, so that no two processes do it at once; the kernel lets go of it at any end.

        Raises StoreError if another process holds it, or has just finished.
        """
        if self.old is None:
            yield
            return
        path = Path(self.out, "zarr.json")
        with explained(self.out, "locking"), open(path, "r+b") as file:  # nothing is written: NFS wants it so
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(f"another process is updating {str(self.out)!r}: wait for it, or end it") from error
            here = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
            if not here or Store.open(self.out).fingerprint != self.old.fingerprint:
                raise StoreError(f"another process has just updated {str(self.out)!r}: give the command again")
            yield

    @property
    def rows(self) -> Where:
        """Where the manifest is written."""
        return _beside(self.out, "rows")

    def begin(self) -> Store:
        """Create the store to fill, or go on with it; its manifest is beside it, and shards without a change in it."""
        with explained(self.out, "preparing"):
            store = self._create() if self.old is None else _made(self.work, self._create)
            if store.missing():
                identity = store.fingerprint
                _made(self.rows, lambda: self.manifest.write(self.rows, self.chunk, identity))
        if self.old is not None:
            touched = set((np.flatnonzero(self.manifest.touched) // self.shard).tolist())
            # a longer name makes every file of names longer
            for shard in store.missing() if store.like(self.old) else ():
                if shard not in touched:
                    store.adopt(shard, self.old)
        return store

    def _create(self) -> Store:
        return create_latents(
            self.work,
            self.source,
            self.latents,
            self.codec,
            self.manifest,
            shard=self.shard,
            chunk=self.chunk,
            codebook=self.codebook,
            grids=self.grids,
            updated_from=self.old.content() if self.old else "",
            moments=self.moments,
        )

    def finish(self, store: Store) -> Store:
        """Seal the filled store, put it in its place, and tidy up."""
        reasons = self.source.quarantine()
        if store.sealed:
            store.seal({})  # whoever sealed it may have died before it had swept up
        else:
            where = np.full(len(self.source), -1)
            here = self.manifest.source >= 0
            where[self.manifest.source[here]] = np.flatnonzero(here)
            before = self.old.attributes.get("normalisation") if self.old else None
            kept = Normalisation(**before) if before else None
            seal_latents(store, {int(where[row]): reason for row, reason in reasons.items()}, kept)
        with explained(self.out, "putting the store in its place"):
            if self.old is not None:
                _swap(Path(self.work), Path(self.out))
            tidy(self.out)
        return Store.open(self.out)

    def prediction(self) -> dict[str, int]:
        """What `begin` and the work after it will make: rows, shards, bytes of the shards' files, and what is there.

        "bytes": of all shards. "bytes_to_write": of those that are neither there nor shared with the old store.
        """
        store, old = None, self.old
        with explained(self.out, "looking at what is there"):
            begun = not open_place(self.work).vacant()
        if begun:
            try:
                there = Store.open(self.work)
                store = there if old is None or there.attributes.get("updated_from") == old.content() else None
            except StoreError:  # half of one: it will be made anew
                store = None
        width = self.manifest.name.shape[1]
        # label and row, int64; state; digest
        row_bytes = [s.row_bytes for s in self.latents.values()] + [8, 8, 1, 16, width]
        each = sum(shard_bytes(ArraySpec((n,), "uint8"), self.shard, self.chunk) for n in row_bytes)
        each += sum(shard_bytes(spec, 1, 1) for spec in moments_spec(self.latents).values() if self.moments)
        shards = -(-len(self.manifest) // self.shard)
        touched = set((np.flatnonzero(self.manifest.touched) // self.shard).tolist())
        if old is not None and old.config.arrays["name"].shape != (width,):
            touched = set(range(shards))
        left = touched - (store.done() if store else set())
        mine = np.repeat(np.isin(np.arange(shards), list(left)), self.shard)[: len(self.manifest)]
        todo = self.manifest.todo & mine & (self.manifest.state == GOOD)
        blocks = int(np.unique(np.flatnonzero(todo) // self.chunk).size)
        return {
            "rows": len(self.manifest),
            "rows_to_encode": int(todo.sum()),
            "blocks_to_encode": blocks,
            "quarantined": len(self.source.quarantine()),
            "shards": shards,
            "shards_to_make": len(left),
            "shards_there": len(store.done()) if store else 0,
            "bytes": shards * each,
            "bytes_to_write": len(left) * each,
        } | (self.manifest.counts if old else {})


def _swap(new: Path, out: Path) -> None:
    old = Path(_beside(out, "old"))
    open_place(old).clear()
    supersede(new, out, old)  # `recover` does the second of two renames if it has to


def tidy(out: Where) -> None:
    """Take away what an encoding leaves beside a store that is now whole."""
    with explained(out, "tidying up"):
        for what in ("rows",) if is_url(out) else ("rows", "old", "update"):
            open_place(_beside(out, what)).clear()


def recover(out: Where) -> None:
    """Finish an exchange that was killed half-way, where it had to be done in two steps; in a bucket there is none."""
    if is_url(out):
        return
    here, old, new = (Path(where) for where in (out, _beside(out, "old"), _beside(out, "update")))
    if not here.exists() and old.exists() and new.exists() and Store.open(new).sealed:
        new.rename(here)
        sync_directory(here.parent)


def plan(
    out: Where,
    source: Source,
    example: Posterior | Codes,
    codec: Mapping[str, Any],
    *,
    shard: int,
    chunk: int,
    update: bool = False,
    dtype: str = "float16",
    mirror: bool = False,
) -> Encoding | None:
    """What encoding `source` into `out` means; None if all of it is there, and sealed. Writes nothing.

    example: latents of one row, which tell what is stored. codec: see `create_latents`. shard, chunk: of a new store.
    update: whether a sealed store of other data may be brought up to date.
    Raises StoreError if there is one and `update` is False, if the store is another codec's, or if one in a bucket is
    to be updated.
    """
    latents = latent_arrays(example, dtype, mirror)
    codebook, grids = (example.size, example.grids) if isinstance(example, Codes) else (0, ())
    if update and is_url(out):
        raise StoreError(
            f"--update puts one directory in the place of another, and {str(out)!r} lies in a bucket: choose another "
            "--out there, or update a store in a directory and copy it"
        )
    with explained(out, "looking at what is there"):
        begun = open_place(out).exists(GROUP)
    there = Store.open(out) if begun else None
    shard = min(shard, -(-len(source) // chunk) * chunk)  # a file is whole: no larger than the data need
    # a store that was begun without moments is finished, and brought up to date, without them
    moments = there is None or MOMENTS in there.config.summaries
    manifest = Manifest.fresh(source)
    fresh = Encoding(out, source, manifest, latents, codec, codebook, grids, shard, chunk, moments=moments)
    if there is None or not there.sealed or there.attributes.get("kind") != "latents":
        return fresh
    attributes, arrays = there.attributes, there.config.arrays
    same_maker = attributes["codec"] == dict(codec) and latents.items() <= arrays.items()
    same_maker = same_maker and mirror == any(name.endswith(MIRROR) for name in arrays)
    if not same_maker:
        return fresh  # whose creation is refused, with both values
    if attributes["source"]["fingerprint"] == source.fingerprint():
        return None if "updated_from" in attributes else fresh
    if not update:
        # of a store whose digests hold numbers of classes it cannot be told: an update makes it anew, and is then told
        older = attributes.get("digested") != DIGESTED
        what = "encodes " + (
            "every row again, once (its digests are of an older kind)," if older else "what is new or changed"
        )
        raise StoreError(
            f"the store {str(out)!r} was encoded from other data: the fingerprint of {source.name!r} is "
            f"{attributes['source']['fingerprint'][:12]} there and {source.fingerprint()[:12]} now. "
            + (
                "Choose another --out"
                if is_url(out)
                else f"--update {what} and marks what is gone; or choose another --out"
            )
        )
    manifest = Manifest.updated(source, there)
    sizes = (there.config.shard, there.config.chunk)
    return Encoding(out, source, manifest, latents, codec, codebook, grids, *sizes, there, moments)


def encode_block(source: Source, encode: Encode, rows: npt.NDArray[np.int64], mirror: bool) -> dict[str, Tensor]:
    """Latents and labels of one block of rows of a source, (len(rows), ...); where a row is -1 they mean nothing.

    The encoder always sees the whole block, zeros where there is no row.
    """
    wanted = torch.from_numpy(rows >= 0)
    numbers = torch.from_numpy(rows)[wanted]
    batch = source.batch(numbers, Noise(0, numbers))
    x = torch.zeros(len(rows), *source.shape)
    x[wanted] = batch.x
    label = torch.full((len(rows),), -1)
    if "label" in batch.cond:
        label[wanted] = batch.cond["label"]
    found = columns(encode(x)) | {"label": label}
    return found | (columns(encode(x.flip(-1)), MIRROR) if mirror else {})


def encode_shard(
    store: Store, shard: int, manifest: Store, source: Source, encode: Encode, old: Store | None
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of one shard: rows to be done computed, others as the old store has them, and what they are; moments.

    manifest: as `Manifest.write` made it.
    """
    rows, chunk = np.asarray(store.rows_of(shard)), store.config.chunk
    listed = {name: manifest.read(name, rows) for name in manifest.config.arrays}
    specs = store.config.arrays
    out = {name: np.zeros((len(rows), *specs[name].shape), specs[name].dtype) for name in specs}
    out["row"][:], out["label"][:] = rows if old else source.origin(torch.from_numpy(rows)).numpy(), -1
    kept = rows < manifest.attributes["kept"]
    if old is not None and kept.any():
        for name in set(specs) - {"state", "digest", "name"}:
            out[name][kept] = old.read(name, rows[kept])
    for name in ("state", "digest", "name"):
        out[name][:] = listed[name]
    todo = listed["todo"].astype(np.bool_)
    for name in set(specs) - {"row", "state", "digest", "name"}:
        out[name][todo] = -1 if name == "label" else 0  # in quarantine that is all there is
    good = todo & (listed["state"] == GOOD)
    classes = list(manifest.attributes["classes"])
    number = np.array([classes.index(c) for c in source.classes] + [-1])  # the last one: of no label
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        mine = np.flatnonzero(good[part])
        if mine.size:
            wanted = np.full(chunk, -1)
            wanted[mine] = listed["source"][part][mine]
            block = encode_block(source, encode, wanted, any(name.endswith(MIRROR) for name in specs))
            for name, values in block.items():
                found = values.numpy()[mine]
                out[name][start + mine] = number[found] if name == "label" else found
    return out | ({MOMENTS: shard_moments(store, shard, out)[None]} if MOMENTS in store.config.summaries else {})
