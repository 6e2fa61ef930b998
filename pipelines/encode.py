"""Encode a data set into a latent store: `gensys encode RUN --out Z.zarr`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gensys.pipelines.pool import BLOCK, Pool, check_shard, default_shard, device, fill
from torch import Tensor

from gensys.core import Codec, Codes, Posterior
from gensys.data.encoding import Encode, Encoding, encode_block, encode_shard, plan, recover, tidy
from gensys.data.quarantine import check_quarantine, told
from gensys.data.sources import Source, open_source
from gensys.data.store import Store
from gensys.errors import RunError
from gensys.progress import Screen
from gensys.run import Spec
from gensys.run_folder import RunFolder

__all__ = ["EncodeJob", "encode", "predict", "source_of"]


def source_of(spec: Spec, data: str | None) -> Source:
    """What a codec's run encodes: `data`, or what it was trained on."""
    own = spec.load().source
    if data is None:
        return own
    other = open_source(data, own.shape[-1])
    if other.shape != own.shape:
        raise RunError(
            f"{data!r} holds data of shape {other.shape}, and the codec was trained on {own.shape}: give the like"
        )
    return other


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
            return Codes(found.indices.cpu(), found.size)
        return Posterior(found.mean.cpu(), found.logvar.cpu())

    return encode


@dataclass(frozen=True)
class EncodeJob:
    """Encode the rows of a shard and commit them.

    run, store, rows: absolute paths, of the codec's run, of the store to fill and of its manifest. old: of the store
    that is updated, "" = none. spec, weights: of the codec, as the driver read them. data: see `source_of`.
    """

    run: str
    store: str
    rows: str
    old: str
    spec: Spec
    weights: str
    data: str | None

    def load(self) -> Callable[[int], int]:
        encoder = _encoder(_codec(RunFolder(Path(self.run)), self.spec, self.weights))
        source, store, manifest = source_of(self.spec, self.data), Store.open(self.store), Store.open(self.rows)
        old = Store.open(self.old) if self.old else None

        def work(shard: int) -> int:
            store.commit(shard, encode_shard(store, shard, manifest, source, encoder, old))
            return len(store.rows_of(shard))

        return work


def encode(
    folder: RunFolder,
    out: Path,
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
    recover(out)
    spec, weights, encoding, _ = _plan(folder, out, data, shard, checkpoint, screen.line, damaged, update, mirror)
    if encoding is None:
        tidy(out)
        screen.line(f"{out}: the data have not changed; there is nothing to do")
        return Store.open(out)
    if found := encoding.source.quarantine():
        screen.line(f"{told(encoding.source, found)}; they are left out")
    if encoding.old:
        counts = encoding.manifest.counts
        screen.line(
            f"{out}: {counts['appended']:,} new rows, {counts['again']:,} to encode again, {counts['marked']:,} removed"
        )
    with encoding.alone():
        store = encoding.begin()
        run, place, rows = (str(path.resolve()) for path in (folder.path, store.path, encoding.rows))
        job = EncodeJob(run, place, rows, str(out.resolve()) if encoding.old else "", spec, weights, data)
        fill(store, job, "encode", "images", workers=workers, screen=screen, pool=pool)
        return encoding.finish(store)


def _plan(
    folder: RunFolder,
    out: Path,
    data: str | None,
    shard: int | None,
    checkpoint: str,
    tell: Callable[[str], None] | None,
    damaged: float | None,
    update: bool,
    mirror: bool,
) -> tuple[Spec, str, Encoding | None, Callable[[], None]]:
    """The codec's spec and weights, what is to be done, and a function that encodes one block."""
    spec, weights = folder.spec(), folder.weights_digest(checkpoint, tell)
    source, encoder = source_of(spec, data), _encoder(_codec(folder, spec, weights))
    check_quarantine(source, spec.damaged if damaged is None else damaged)
    example = encoder(torch.zeros(BLOCK, *source.shape))
    made_by = {"run": str(folder.path.resolve()), "weights": weights, "data": data or ""}
    size = check_shard(shard or default_shard(len(source)))
    encoding = plan(out, source, example, made_by, shard=size, chunk=BLOCK, update=update, mirror=mirror)
    good = np.setdiff1d(np.arange(min(len(source), 4 * BLOCK)), list(source.quarantine()))[:BLOCK]
    rows = np.concatenate([good, np.full(BLOCK - len(good), -1)])

    def block() -> None:
        encode_block(source, encoder, rows, mirror)

    return spec, weights, encoding, block


def predict(
    folder: RunFolder,
    out: Path,
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
    _, _, encoding, block = _plan(folder, out, data, shard, checkpoint, None, damaged, update, mirror)
    if encoding is None:
        return {"rows": len(Store.open(out)), "rows_to_encode": 0, "shards_to_make": 0, "bytes_to_write": 0}
    found = encoding.prediction()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker computes
    try:
        block()  # the first one is slower than all that follow
        begun = time.perf_counter()
        block()
        each = time.perf_counter() - begun
    finally:
        torch.set_num_threads(threads)
    blocks = found.pop("blocks_to_encode")
    return found | {"estimated_seconds": each * blocks / max(1, min(workers, found["shards_to_make"]))}


if __name__ == "__main__":
    from gensys.cli import main

    main("encode")
