"""`gensys train`: train a recipe, or resume it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click

from gensys.arguments import RUNS, CrewSize, absolute, overrides
from gensys.commands.options import damaged_option, knobs_argument, quiet_option, recipe_argument, screen
from gensys.commands.wording import facts
from gensys.run import resolve
from gensys.run_folder import RunFolder
from gensys.terminal import Answer, answering, duration, keeping, quoted


@click.command()
@recipe_argument
@knobs_argument
@click.option(
    "--workers",
    "crew",
    type=CrewSize(),
    default="0",
    show_default=True,
    help="Ray workers; 0 = in this process, without Ray. MIN:MAX = as many as the cluster has room for: the group "
    "shrinks when a host is lost and grows when one comes.",
)
@click.option("--seed", type=int, metavar="N", help="The knob 'seed'.")
@click.option("--run", type=click.Path(path_type=Path), metavar="DIR", help="The run's folder.  [default: runs/RECIPE]")
@click.option("--fresh", is_flag=True, help="Start anew, even if the run is there.")
@click.option(
    "--exact",
    "parts",
    type=click.IntRange(1),
    metavar="[PARTS]",
    is_flag=False,
    flag_value=8,
    help="Compute each step in PARTS parts (8): the same bits for any number of workers up to PARTS.",
)
@damaged_option
@click.option(
    "--shard-weights",
    "shard",
    is_flag=True,
    help="Share out weights, their average and the optimizer's state among the workers: for models too large for one.",
)
@click.option(
    "--observe",
    is_flag=True,
    help="Let an actor of its own draw and measure the checkpoints while the workers train (observations.jsonl).",
)
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and write nothing.")
@quiet_option
@answering
def train(
    recipe: str,
    knobs: Sequence[str],
    crew: tuple[int, int],
    seed: int | None,
    run: Path | None,
    fresh: bool,
    parts: int | None,
    damaged: float | None,
    shard: bool,
    observe: bool,
    dry_run: bool,
    quiet: bool,
) -> Answer:
    """Train a recipe, or resume it.

    RECIPE is a name that `gensys list` shows, or ./file.py:function. Its knobs are set as knob=value; `gensys show
    RECIPE` explains them.
    """
    texts = overrides(knobs, seed)
    for name in {"data", "other", "pairs", "extractor"} & texts.keys():  # knobs that are paths
        texts[name] = absolute(texts[name])
    least, workers = crew
    if observe and not workers:
        raise click.UsageError("--observe takes --workers: a process that trains alone draws its pictures itself.")
    spec = replace(resolve(recipe, texts), parts=parts or 0, damaged=damaged)
    folder = RunFolder(run or RUNS / recipe.rpartition(":")[2])
    where = quoted(folder.path)

    from gensys.pipelines import train as pipeline

    if dry_run:
        plan = pipeline.plan(spec, workers)
        return Answer(plan, facts(plan))
    keeping(f"The checkpoints in {where} are kept; the same command (without --fresh) goes on from the newest.")
    state = pipeline.train(
        folder,
        spec,
        workers=workers,
        fresh=fresh,
        screen=screen(quiet),
        least=least,
        shard=shard,
        observe=observe,
    )
    document = {name: value for name, value in asdict(state).items() if name != "norms"}  # of use to the guard alone
    done = "trained" if state.finished else "stopped, unfinished, after"
    following = f"gensys {'encode' if is_codec(folder.path) else 'sample'} {where}"
    return Answer(
        {"run": folder.path.resolve(), **document},
        f"{where}: {done} {state.step:,} steps, {state.images:,} rows, {duration(state.seconds)}\n"
        f"next: {following if state.finished else 'the same command, which goes on'}",
    )


def is_codec(run: Path) -> bool:
    from gensys.report.reading import training

    return training(run).is_codec
