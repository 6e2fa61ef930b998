"""`gensys encode`: data into a store of latents."""

from __future__ import annotations

from pathlib import Path

import click

from gensys.arguments import absolute
from gensys.commands.options import (
    damaged_option,
    out_option,
    quiet_option,
    run_argument,
    screen,
    shard_option,
    workers_option,
)
from gensys.commands.wording import store_answer
from gensys.run import RunFolder
from gensys.terminal import Answer, answering, keeping, quoted


@click.command()
@run_argument
@click.option("--data", help="What to encode.  [default: the run's training data]")
@out_option
@shard_option
@workers_option()
@damaged_option
@quiet_option
@answering
def encode(
    run: Path,
    data: str | None,
    out: Path | None,
    shard: int | None,
    workers: int,
    damaged: float | None,
    quiet: bool,
) -> Answer:
    """Encode data into a store of latents.

    RUN is the run of a codec, such as kl_autoencoder. The store is RUN/latents.zarr unless --out names another.
    """
    from gensys.pipelines.encode import encode as pipeline

    out = out or run / "latents.zarr"
    keeping(f"The finished shards in {quoted(out)} are kept; the same command makes the others.")
    data = None if data is None else absolute(data)
    store = pipeline(
        RunFolder(run), out, data=data, shard=shard, workers=workers, screen=screen(quiet), damaged=damaged
    )
    return store_answer(store, f"gensys train latent_dit data={quoted(out)}")
