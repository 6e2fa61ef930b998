"""`gensys ema`: averaged weights of another length."""

from __future__ import annotations

from pathlib import Path

import click

from gensys.commands.options import run_argument
from gensys.errors import ConfigError
from gensys.run_folder import RunFolder
from gensys.terminal import Answer, answering, quoted


@click.command()
@run_argument
@click.option("--width", type=float, required=True, metavar="W", help="Of the average, as a fraction of the run.")
@click.option("--step", type=click.IntRange(1), metavar="N", help="Where it ends.  [default: the last snapshot]")
@answering
def ema(run: Path, width: float, step: int | None) -> Answer:
    """Make averaged weights of any length from the snapshots of a run.

    The run is trained with snapshots=32, say; more of them reach further. Widths from 0.03 to 0.2 are usual. What is
    made lies in RUN/ema, and --checkpoint ema:W of sample, encode and evaluate takes it.
    """
    try:
        made = RunFolder(run).average(width, step)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    path = (run / "ema" / f"{width:g}.safetensors").resolve()
    document = {
        "weights": path,
        "width": width,
        "step": made.step,
        "snapshots": made.snapshots,
        "mismatch": made.mismatch,
    }
    text = (
        f"{path}\nwidth {width:g} at step {made.step:,}, of {made.snapshots} averages; its profile is met to within "
        f"{made.mismatch:.2%}\nnext: gensys sample {quoted(run)} --checkpoint ema:{width:g}"
    )
    return Answer(document, text)
