"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gensys.arguments import NewStore, Place, RecipeName, complete_knob

if TYPE_CHECKING:
    from gensys.progress import Screen

recipe_argument = click.argument("recipe", type=RecipeName())
knobs_argument = click.argument("knobs", nargs=-1, metavar="[KNOB=VALUE]...", shell_complete=complete_knob)
run_argument = click.argument("run", type=Place(), metavar="RUN")


def folder_option(default: Path) -> Any:
    """--run of a command that makes several runs below one folder."""
    return click.option(
        "--run",
        type=click.Path(path_type=Path),
        metavar="DIR",
        default=default,
        show_default=True,
        help="The folder.",
    )


out_option = click.option(
    "--out", type=NewStore(), metavar="STORE", help="The store to write: a path, or s3://bucket/path."
)
shard_option = click.option(
    "--shard",
    type=click.IntRange(1),
    metavar="N",
    default=None,
    help="Rows per shard, a multiple of 64; a worker makes one at a time.  [default: by the number of rows]",
)
damaged_option = click.option(
    "--allow-damaged",
    "damaged",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Largest share of the data's rows that may be beyond reading; they are left out.  [default: 0.01]",
)
checkpoint_option = click.option(
    "--checkpoint",
    metavar="newest|best|STEP|ema:WIDTH",
    default="newest",
    show_default=True,
    help="Whose weights; best = of the lowest loss on held-out rows; ema:WIDTH = what gensys ema made.",
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Show no progress.")


def workers_option(default: int | None = 0) -> Any:
    """--workers; None = as many as there are cores, and at least one."""
    return click.option(
        "--workers",
        type=click.IntRange(1 if default is None else 0),
        metavar="N",
        default=default,
        show_default="the cores" if default is None else True,
        help="Ray workers." if default is None else "Ray workers; 0 = in this process, without Ray.",
    )


def screen(quiet: bool) -> Screen:
    from gensys.progress import Screen

    return Screen(quiet)
