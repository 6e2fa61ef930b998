"""Encode a data set into a latent store: `gensys encode RUN --out Z.zarr`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from gensys.pipelines.pool import Pool

from gensys.core import Codec
from gensys.data.latents import create_latents, seal_latents
from gensys.data.sources import Source, open_source
from gensys.data.store import Store
from gensys.errors import RunError
from gensys.noise import Noise
from gensys.progress import Screen
from gensys.run import RunFolder

__all__ = ["EncodeJob", "encode", "source_of"]

_BLOCK = 64  # rows encoded at once: fixed, so that a row's bits do not depend on the size of the shards


def source_of(folder: RunFolder, data: str | None) -> Source:
    """What a codec's run encodes: `data`, or what it was trained on."""
    spec = folder.spec()
    return spec.load().source if data is None else open_source(data, int(spec.knobs.get("size", 32)))


def _codec(folder: RunFolder) -> Codec:
    model = folder.model()
    if not isinstance(model, Codec):
        raise RunError(
            f"{str(folder.path)!r} is a run of {folder.spec().recipe!r}, which has no latent space: encode with the "
            f"run of an autoencoder"
        )
    model.to(_device())
    return model


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class EncodeJob:
    """Encode the rows of a shard and commit them. run, store: paths. data: the source, or None for the run's own."""

    run: str
    store: str
    data: str | None

    def load(self) -> Callable[[int], int]:
        folder = RunFolder(Path(self.run))
        codec, source, store = _codec(folder), source_of(folder, self.data), Store.open(self.store)

        @torch.no_grad()
        def work(shard: int) -> int:
            rows = torch.tensor(store.rows_of(shard))
            means, logvars, labels = [], [], []
            for block in rows.split(_BLOCK):
                batch = source.batch(block, Noise(0, block))
                posterior = codec.encode(batch.x.to(_device()))
                means.append(posterior.mean.cpu())
                logvars.append(posterior.logvar.cpu())
                labels.append(batch.cond.get("label", torch.full_like(block, -1)))
            kind = store.config.arrays["mean"].dtype
            store.commit(
                shard,
                {
                    "mean": torch.cat(means).numpy().astype(kind),
                    "logvar": torch.cat(logvars).numpy().astype(kind),
                    "label": torch.cat(labels).numpy(),
                    "row": rows.numpy(),
                },
            )
            return len(rows)

        return work


def encode(
    folder: RunFolder,
    out: Path,
    *,
    data: str | None,
    shard: int,
    workers: int,
    screen: Screen,
    pool: Pool | None = None,
) -> Store:
    """Encode every row of a source with the codec of a run; goes on where an earlier call was stopped.

    The same run and data give the same bytes, whatever the number of workers.
    """
    source, codec = source_of(folder, data), _codec(folder)
    with torch.no_grad():
        row = torch.zeros(1, dtype=torch.int64)
        shape = codec.encode(source.batch(row, Noise(0, row)).x.to(_device())).mean.shape[1:]
    store = create_latents(
        out,
        source,
        tuple(shape),
        {"run": str(folder.path.resolve()), "weights": folder.weights_digest(), "data": data or ""},
        shard=shard,
        chunk=math.gcd(_BLOCK, shard),  # a shard is a whole number of chunks
    )
    missing = store.missing()
    if len(missing) < store.config.shards:
        done = store.config.shards - len(missing)
        screen.line(f"{out}: {done} of {store.config.shards} shards are there already")
    if missing:
        own = pool is None
        pool = pool or Pool(min(workers, len(missing)))
        try:
            with screen.phase("encode", sum(len(store.rows_of(k)) for k in missing), "images") as phase:
                pool.map(EncodeJob(str(folder.path), str(out), data), missing, lambda n: phase.update(phase.done + n))
        finally:
            if own:
                pool.close()
    if not store.sealed:
        seal_latents(store)
    return store


if __name__ == "__main__":
    from gensys.cli import main

    main("encode")
