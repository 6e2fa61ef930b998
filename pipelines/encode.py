"""Encode a data set into a latent store: `gensys encode RUN --out Z.zarr`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gensys.pipelines.pool import BLOCK, Pool, check_shard, default_shard, device, fill
from torch import Tensor

from gensys.core import Codec, Codes, Posterior
from gensys.data.encoding import Encode, Encoding, encode_block, encode_shard, plan, recover, tidy
from gensys.data.joined import Joined, by_aspect
from gensys.data.joined_latents import join
from gensys.data.quarantine import check_quarantine, told
from gensys.data.sources import Source, open_source
from gensys.data.store import Store
from gensys.data.where import Where, inside, resolved
from gensys.errors import RunError
from gensys.progress import Screen
from gensys.run import Spec
from gensys.run_folder import RunFolder

__all__ = ["EncodeJob", "Input", "encode", "encode_by_aspect", "predict", "source_of"]


def source_of(spec: Spec, data: str | None) -> Source:
    """What a codec's run encodes, or a translator's translates: `data`, or what it was trained on."""
    own = spec.load().source
    if data is None:
        return own
    other = open_source(data, own.shape[-1])
    if other.shape != own.shape:
        raise RunError(
            f"{data!r} holds data of shape {other.shape}, and the model was trained on {own.shape}: give the like"
        )
    return other


@dataclass(frozen=True)
class Input:
    """What is encoded into one store. data: see `source_of`.

    ratio: 0 = images as the codec was trained on them. The largest of long to short side = one part of the images by
    aspect ratio, the one of this number, with sides that are multiples of `step` (`joined.by_aspect`).
    """

    data: str | None
    ratio: float = 0.0
    step: int = 0
    part: int = 0

    def open(self, spec: Spec) -> Source:
        source = source_of(spec, self.data)
        return by_aspect(source, self.step, self.ratio).parts[self.part] if self.ratio else source


def _codec(folder: RunFolder, spec: Spec, weights: str) -> Codec:
    model = folder.model(spec, weights)
    if not isinstance(model, Codec):
        raise RunError(
            f"{str(folder.path)!r} is a run of {spec.recipe!r}, which has no latent space: encode with the "
            f"run of an autoencoder"
        )
    model.to(device())
    return model


def _encoder(codec: Codec) -> Encode:
    @torch.no_grad()
    def encode(x: Tensor) -> Posterior | Codes:
        found = codec.encode(x.to(device()))
        if isinstance(found, Codes):
            return replace(found, indices=found.indices.cpu())
        return Posterior(found.mean.cpu(), found.logvar.cpu())

    return encode


@dataclass(frozen=True)
class _Maker:
    """The codec that encodes, loaded once: its run, the weights by their digest, and what they do."""

    folder: RunFolder
    spec: Spec
    weights: str
    encode: Encode

    @classmethod
    def of(cls, folder: RunFolder, checkpoint: str, tell: Callable[[str], None] | None) -> _Maker:
        spec, weights = folder.spec(), folder.weights_digest(checkpoint, tell)
        return cls(folder, spec, weights, _encoder(_codec(folder, spec, weights)))


@dataclass(frozen=True)
class EncodeJob:
    """Encode the rows of a shard and commit them.

    run, store, rows: absolute paths, of the last two or URLs: of the codec's run, of the store to fill and of its
    manifest. old: of the store that is updated, "" = none. spec, weights: of the codec, as the driver read them.
    """

    run: str
    store: str
    rows: str
    old: str
    spec: Spec
    weights: str
    input: Input

    def load(self) -> Callable[[int], int]:
        encoder = _encoder(_codec(RunFolder(Path(self.run)), self.spec, self.weights))
        source, store, manifest = self.input.open(self.spec), Store.open(self.store), Store.open(self.rows)
        old = Store.open(self.old) if self.old else None

        def work(shard: int) -> int:
            store.commit(shard, encode_shard(store, shard, manifest, source, encoder, old))
            return len(store.rows_of(shard))

        return work


def encode(
    folder: RunFolder,
    out: Where,
    *,
    data: str | None,
    shard: int | None,
    workers: int,
    screen: Screen,
    checkpoint: str = "newest",
    pool: Pool | None = None,
    damaged: float | None = None,
    update: bool = False,
    mirror: bool = False,
) -> Store:
    """Encode every row of a source with the codec of a run; goes on where an earlier call was stopped.

    The same weights and data give the same bytes, whatever the number of workers. checkpoint: whose weights, see
    `RunFolder.weights`. damaged: the largest share of the rows that may be beyond reading, None = that of the run.
    update, mirror: see `encoding.plan`.
    """
    maker, wanted = _Maker.of(folder, checkpoint, screen.line), Input(data)
    source = wanted.open(maker.spec)
    return _encode(maker, out, wanted, source, shard, workers, screen, pool, damaged, update, mirror)


def encode_by_aspect(
    folder: RunFolder,
    out: Where,
    *,
    data: str | None,
    ratio: float,
    shard: int | None,
    workers: int,
    screen: Screen,
    checkpoint: str = "newest",
    damaged: float | None = None,
    mirror: bool = False,
) -> Joined:
    """`encode`, with images in buckets of aspect ratio, a store for every shape (see joined_latents.py).

    ratio: the largest of long to short side. Sides are multiples of twice the codec's factor, so that latents have
    whole patches of 2. A store that is there is gone on with, or left as it is, as `encode` does.
    """
    maker = _Maker.of(folder, checkpoint, screen.line)
    source = source_of(maker.spec, data)
    example = maker.encode(torch.zeros(1, *source.shape))
    step = 2 * source.shape[-1] // example.mode.shape[-1]
    joined = by_aspect(source, step, ratio)
    screen.line(joined.about)
    names = [f"{part.shape[1]}x{part.shape[2]}" for part in joined.parts]
    pool = Pool(workers)
    try:
        for number, (name, part) in enumerate(zip(names, joined.parts, strict=True)):
            wanted = Input(data, ratio, step, number)
            _encode(maker, inside(out, name), wanted, part, shard, workers, screen, pool, damaged, False, mirror)
    finally:
        pool.close()
    return join(out, names, joined.about)


def _encode(
    maker: _Maker,
    out: Where,
    wanted: Input,
    source: Source,
    shard: int | None,
    workers: int,
    screen: Screen,
    pool: Pool | None,
    damaged: float | None,
    update: bool,
    mirror: bool,
) -> Store:
    """source: what `wanted` opens."""
    recover(out)
    encoding = _plan(maker, out, source, wanted.data, shard, damaged, update, mirror)
    if encoding is None:
        tidy(out)
        screen.line(f"{out}: the data have not changed; there is nothing to do")
        store = Store.open(out)
        store.seal({})  # whoever sealed it may have died before it had swept up
        return store
    if found := encoding.source.quarantine():
        screen.line(f"{told(encoding.source, found)}; they are left out")
    if encoding.old:
        counts = encoding.manifest.counts
        screen.line(
            f"{out}: {counts['appended']:,} new rows, {counts['again']:,} to encode again, {counts['marked']:,} removed"
        )
    with encoding.alone():
        store = encoding.begin()
        run, place, rows = map(resolved, (maker.folder.path, store.where, encoding.rows))
        old = resolved(out) if encoding.old else ""
        job = EncodeJob(run, place, rows, old, maker.spec, maker.weights, wanted)
        fill(store, job, "encode", "images", workers=workers, screen=screen, pool=pool, folder=maker.folder)
        return encoding.finish(store)


def _plan(
    maker: _Maker,
    out: Where,
    source: Source,
    data: str | None,
    shard: int | None,
    damaged: float | None,
    update: bool,
    mirror: bool,
) -> Encoding | None:
    """What is to be done; None if nothing is."""
    check_quarantine(source, maker.spec.damaged if damaged is None else damaged)
    example = maker.encode(torch.zeros(BLOCK, *source.shape))
    made_by = {"run": str(maker.folder.path.resolve()), "weights": maker.weights, "data": data or ""}
    size = check_shard(shard or default_shard(len(source)))
    return plan(out, source, example, made_by, shard=size, chunk=BLOCK, update=update, mirror=mirror)


def predict(
    folder: RunFolder,
    out: Where,
    *,
    data: str | None,
    shard: int | None,
    workers: int,
    checkpoint: str = "newest",
    damaged: float | None = None,
    update: bool = False,
    mirror: bool = False,
) -> dict[str, Any]:
    """What `encode` would do: see `Encoding.prediction`; the time is that of two blocks here. Writes nothing."""
    maker = _Maker.of(folder, checkpoint, None)
    source = source_of(maker.spec, data)
    encoding = _plan(maker, out, source, data, shard, damaged, update, mirror)
    if encoding is None:
        return {"rows": len(Store.open(out)), "rows_to_encode": 0, "shards_to_make": 0, "bytes_to_write": 0}
    found = encoding.prediction()
    good = np.setdiff1d(np.arange(min(len(source), 4 * BLOCK)), list(source.quarantine()))[:BLOCK]
    rows = np.concatenate([good, np.full(BLOCK - len(good), -1)])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker computes
    try:
        encode_block(source, maker.encode, rows, mirror)  # the first one is slower than all that follow
        begun = time.perf_counter()
        encode_block(source, maker.encode, rows, mirror)
        each = time.perf_counter() - begun
    finally:
        torch.set_num_threads(threads)
    blocks = found.pop("blocks_to_encode")
    return found | {"estimated_seconds": each * blocks / max(1, min(workers, found["shards_to_make"]))}


if __name__ == "__main__":
    from gensys.cli import main

    main("encode")
