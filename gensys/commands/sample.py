"""`gensys sample`: samples into a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from gensys.arguments import SeedRange, overrides
from gensys.commands.options import (
    checkpoint_option,
    knobs_argument,
    out_option,
    quiet_option,
    run_argument,
    screen,
    shard_option,
    workers_option,
)
from gensys.commands.wording import next_verb, store_answer
from gensys.data.where import Where
from gensys.run_folder import RunFolder
from gensys.terminal import Answer, answering, keeping, quoted


@click.command()
@run_argument
@knobs_argument
@click.option("--seeds", "ids", type=SeedRange(), help="Which samples to draw.  [default: 0:64, or every row given]")
@click.option(
    "--seed",
    type=int,
    metavar="N",
    default=0,
    show_default=True,
    help="Another seed gives other samples.",
)
@click.option("--label", metavar="CLASS", help="Class to draw, its name or number.  [default: every class in turn]")
@click.option(
    "--table",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What each sample is to be, .csv, .jsonl, .parquet: row i is sample i; columns label, guidance, seed, vector.",
)
@click.option(
    "--data",
    metavar="DATA",
    help="Images of your own that a translator is to translate, into the domain --label: anything that training takes.",
)
@click.option("--latents", is_flag=True, help="Store what is drawn before it is decoded; see gensys decode.")
@click.option(
    "--moments", is_flag=True, help="Sum features meanwhile, so that gensys evaluate --quick need not read the samples."
)
@out_option
@shard_option
@workers_option()
@checkpoint_option
@quiet_option
@answering
def sample(
    run: Path,
    knobs: Sequence[str],
    ids: range | None,
    seed: int,
    label: str | None,
    table: Path | None,
    data: str | None,
    latents: bool,
    moments: bool,
    out: Where | None,
    shard: int | None,
    workers: int,
    checkpoint: str,
    quiet: bool,
) -> Answer:
    """Draw samples into a store.

    The store is RUN/samples.zarr (RUN/drawn.zarr with --latents) unless --out names another. The knobs that do not
    touch the weights, such as steps=40, may be given anew. Sample i depends on the run, the seed, i, the knobs asked
    for, and the label asked for or its row of the table: any range, any number of workers and any size of shard give
    the same images. A translator's samples are translations of held-out images, or of --data.
    """
    from gensys.pipelines.sample import sample as pipeline

    out = out or run / ("drawn.zarr" if latents else "samples.zarr")
    keeping(f"The finished shards in {quoted(out)} are kept; the same command makes the others.")
    shown = screen(quiet)
    store = pipeline(
        RunFolder(run),
        out,
        ids=ids,
        seed=seed,
        label=label,
        overrides=overrides(knobs),
        shard=shard,
        workers=workers,
        checkpoint=checkpoint,
        screen=shown,
        table=table,
        data=data,
        latents=latents,
        moments=moments,
    )
    following = f"gensys {'decode' if latents else next_verb(out)} {quoted(out)}"
    return store_answer(store, following, shown.counts)
