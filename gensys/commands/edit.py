"""`gensys edit`: given images, edited by a path model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from gensys.arguments import absolute, overrides
from gensys.commands.options import (
    checkpoint_option,
    knobs_argument,
    out_option,
    quiet_option,
    run_argument,
    screen,
    workers_option,
)
from gensys.commands.wording import store_answer
from gensys.data.where import Where
from gensys.run_folder import RunFolder
from gensys.terminal import Answer, answering, keeping, quoted


@click.command()
@run_argument
@knobs_argument
@click.option("--images", metavar="FILE|DATA", required=True, help="An image, or a folder, .npz, ... of them.")
@click.option(
    "--mask",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="An image: what is white in it is drawn anew, what is black stays.",
)
@click.option(
    "--from",
    "start",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="T",
    help="Add noise up to this time, and take it away: 1 leaves nothing of an image, 0.1 changes little.",
)
@click.option("--invert", is_flag=True, help="Find the noise that an image is drawn from, and draw it with --label.")
@click.option(
    "--resamplings",
    type=click.IntRange(1),
    metavar="N",
    default=1,
    show_default=True,
    help="With --mask, how often each step is walked: more make both parts fit better.",
)
@click.option("--seed", type=int, metavar="N", default=0, show_default=True, help="Another seed gives other edits.")
@click.option("--label", metavar="CLASS", help="Class to draw, its name or number.  [default: that of each image]")
@out_option
@workers_option()
@checkpoint_option
@quiet_option
@answering
def edit(
    run: Path,
    knobs: Sequence[str],
    images: str,
    mask: Path | None,
    start: float | None,
    invert: bool,
    resamplings: int,
    seed: int,
    label: str | None,
    out: Where | None,
    workers: int,
    checkpoint: str,
    quiet: bool,
) -> Answer:
    """Edit given images with a diffusion or flow model.

    One of --mask, --from and --invert says how. The results are in RUN/edited.zarr unless --out names another store,
    with a picture of them beside it. Image i depends on the run, image i, the seed, i, its label and the knobs asked
    for. Knobs that do not touch the weights, such as steps=40, may be given anew.
    """
    if [mask is not None, start is not None, invert].count(True) != 1:
        raise click.UsageError("Give one of --mask FILE, --from T and --invert: they say what is done to the images.")
    if resamplings > 1 and mask is None:
        raise click.UsageError("--resamplings is for --mask: nothing else walks a step more than once.")
    from gensys.pipelines.edit import Edit
    from gensys.pipelines.edit import edit as pipeline

    out = out or run / "edited.zarr"
    keeping(f"The finished shards in {quoted(out)} are kept; the same command makes the others.")
    shown = screen(quiet)
    store = pipeline(
        RunFolder(run),
        out,
        absolute(images),
        Edit("" if mask is None else str(mask.resolve()), start, resamplings),
        seed=seed,
        label=label,
        overrides=overrides(knobs),
        workers=workers,
        screen=shown,
        checkpoint=checkpoint,
    )
    return store_answer(store, f"gensys verify {quoted(out)}", shown.counts)
