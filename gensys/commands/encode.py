"""`gensys encode`: data into a store of latents."""

from __future__ import annotations

from pathlib import Path

import click

from gensys.arguments import absolute
from gensys.commands.options import (
    checkpoint_option,
    damaged_option,
    out_option,
    quiet_option,
    run_argument,
    screen,
    shard_option,
    workers_option,
)
from gensys.commands.wording import facts, store_answer
from gensys.data.where import Where, resolved
from gensys.run_folder import RunFolder
from gensys.terminal import Answer, answering, keeping, quoted


@click.command()
@run_argument
@click.option("--data", help="What to encode.  [default: the run's training data]")
@out_option
@shard_option
@click.option("--update", is_flag=True, help="Bring a finished store up to date: encode new and changed items only.")
@click.option("--mirror", is_flag=True, help="Encode the mirrored images as well; training then takes either.")
@click.option(
    "--aspect",
    "ratio",
    type=click.FloatRange(1.0),
    metavar="RATIO",
    help="Keep the aspect ratios of images, up to RATIO: a store for each of several shapes, trained on as one.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and how long it would take.")
@workers_option()
@damaged_option
@checkpoint_option
@quiet_option
@answering
def encode(
    run: Path,
    data: str | None,
    out: Where | None,
    shard: int | None,
    update: bool,
    mirror: bool,
    ratio: float | None,
    dry_run: bool,
    workers: int,
    damaged: float | None,
    checkpoint: str,
    quiet: bool,
) -> Answer:
    """Encode data into a store of latents.

    RUN is the run of a codec, such as kl_autoencoder. The store is RUN/latents.zarr unless --out names another.
    """
    out = out or run / "latents.zarr"
    data = None if data is None else absolute(data)
    folder = RunFolder(run)
    if ratio is not None and (update or dry_run):
        raise click.UsageError("--aspect makes several stores: it goes neither with --update nor with --dry-run.")
    if dry_run:
        from gensys.pipelines.encode import predict

        found = predict(
            folder,
            out,
            data=data,
            shard=shard,
            workers=workers,
            checkpoint=checkpoint,
            damaged=damaged,
            update=update,
            mirror=mirror,
        )
        return Answer({"store": resolved(out), **found}, facts(found))
    from gensys.pipelines.encode import encode as pipeline

    keeping(f"The finished shards in {quoted(out)} are kept; the same command makes the others.")
    shown, following = screen(quiet), f"gensys train latent_dit data={quoted(out)}"
    if ratio is not None:
        from gensys.pipelines.encode import encode_by_aspect

        joined = encode_by_aspect(
            folder,
            out,
            data=data,
            ratio=ratio,
            shard=shard,
            workers=workers,
            checkpoint=checkpoint,
            screen=shown,
            damaged=damaged,
            mirror=mirror,
        )
        shapes = {part.name: len(part) for part in joined.parts}
        text = f"{len(joined):,} latents in {quoted(out)}: {joined.about}\nnext: {following}"
        return Answer({"store": resolved(out), "rows": len(joined), "shapes": shapes, "counts": shown.counts}, text)
    store = pipeline(
        folder,
        out,
        data=data,
        shard=shard,
        workers=workers,
        screen=shown,
        checkpoint=checkpoint,
        damaged=damaged,
        update=update,
        mirror=mirror,
    )
    if "codes" in store.config.arrays:
        following = f"gensys train vq_prior data={quoted(out)}"
    return store_answer(store, following, shown.counts)
