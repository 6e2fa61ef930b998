"""Encode a data set into a latent store: `gensys encode RUN --out Z.zarr`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from gensys.pipelines.pool import BLOCK, Pool, check_shard, default_shard, device, fill

from gensys.core import Codec
from gensys.data.latents import create_latents, seal_latents
from gensys.data.quarantine import check_quarantine, told, without
from gensys.data.sources import Source, open_source
from gensys.data.store import Store
from gensys.errors import RunError
from gensys.noise import Noise
from gensys.progress import Screen
from gensys.run import RunFolder, Spec

__all__ = ["EncodeJob", "encode", "source_of"]


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


@dataclass(frozen=True)
class EncodeJob:
    """Encode the rows of a shard and commit them.

    run, store: absolute paths. spec, weights: of the codec, as the driver read them. data: see `source_of`.
    """

    run: str
    store: str
    spec: Spec
    weights: str
    data: str | None

    def load(self) -> Callable[[int], int]:
        codec = _codec(RunFolder(Path(self.run)), self.spec, self.weights)
        source, store = source_of(self.spec, self.data), Store.open(self.store)

        @torch.no_grad()
        def work(shard: int) -> int:
            rows = torch.tensor(store.rows_of(shard))
            means, logvars, labels = [], [], []
            for block in rows.split(BLOCK):
                batch = source.batch(block, Noise(0, block))
                posterior = codec.encode(batch.x.to(device()))
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
    shard: int | None,
    workers: int,
    screen: Screen,
    pool: Pool | None = None,
    damaged: float | None = None,
) -> Store:
    """Encode every row of a source with the codec of a run; goes on where an earlier call was stopped.

    The same run and data give the same bytes, whatever the number of workers. damaged: the largest share of the rows
    that may be beyond reading, None = that of the run.
    """
    spec, weights = folder.spec(), folder.weights_digest()
    source, codec = source_of(spec, data), _codec(folder, spec, weights)
    found = check_quarantine(source, spec.damaged if damaged is None else damaged)
    if found:
        screen.line(f"{told(source, found)}; they are left out")
    with torch.no_grad():
        row = without(torch.arange(len(source)), found)[:1]
        shape = codec.encode(source.batch(row, Noise(0, row)).x.to(device())).mean.shape[1:]
    store = create_latents(
        out,
        source,
        tuple(shape),
        {"run": str(folder.path.resolve()), "weights": weights, "data": data or ""},
        shard=check_shard(shard or default_shard(len(source))),
        chunk=BLOCK,
    )
    job = EncodeJob(str(folder.path.resolve()), str(out.resolve()), spec, weights, data)
    fill(store, job, "encode", "images", workers=workers, screen=screen, pool=pool)
    if not store.sealed:
        seal_latents(store)
    return store


if __name__ == "__main__":
    from gensys.cli import main

    main("encode")
