"""`gensys reflow`: straighten a flow on pairs of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from gensys.arguments import overrides
from gensys.commands.options import (
    checkpoint_option,
    knobs_argument,
    quiet_option,
    run_argument,
    screen,
    workers_option,
)
from gensys.commands.wording import number
from gensys.run_folder import RunFolder
from gensys.terminal import Answer, answering, columns, keeping, quoted

NAMES = {
    "straightness": "straightness S, 0 = straight",
    "relative_straightness": "S / transport cost",
    "transport_cost": "transport cost",
    "one_step": "one step misses by (RMS)",
    "evaluations": "network calls of dopri5",
}


@click.command()
@run_argument
@knobs_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="NEW",
    help="The folder of the new run; further rounds are NEW-2, NEW-3, ...  [default: RUN-reflow]",
)
@click.option(
    "--pairs",
    type=click.IntRange(1),
    metavar="N",
    default=20_000,
    show_default=True,
    help="Pairs of noise and sample to draw and to train on.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    metavar="R",
    default=1,
    show_default=True,
    help="How often; each round draws from the run of the one before.",
)
@click.option(
    "--seed", type=click.IntRange(0), metavar="N", default=0, show_default=True, help="Another seed gives other pairs."
)
@workers_option()
@checkpoint_option
@quiet_option
@answering
def reflow(
    run: Path,
    knobs: Sequence[str],
    out: Path | None,
    pairs: int,
    rounds: int,
    seed: int,
    workers: int,
    checkpoint: str,
    quiet: bool,
) -> Answer:
    """Straighten a flow, so that it samples in fewer steps.

    Draws samples of RUN, a run of flow_matching, ot_cfm or rectified_flow, and trains a new run on them, each paired
    with the noise that it was drawn from, beginning with RUN's weights. Knobs of sampling (solver=rk4 steps=50
    guidance=2) say how the pairs are drawn, all others (budget=500k lr=5e-4) how the new run is trained.
    """
    from gensys.pipelines.reflow import reflow as pipeline

    new = out or run.with_name(f"{run.name}-reflow")
    keeping(f"The finished pairs and checkpoints in {quoted(new)} are kept; the same command goes on.")
    done = pipeline(
        RunFolder(run),
        RunFolder(new),
        pairs=pairs,
        rounds=rounds,
        seed=seed,
        overrides=overrides(knobs),
        workers=workers,
        checkpoint=checkpoint,
        screen=screen(quiet),
    )
    last = Path(done[-1]["run"])
    text = "\n\n".join(_told(document) for document in done)
    return Answer({"run": last, "rounds": done}, f"{text}\nnext: gensys sample {quoted(last)} solver=euler steps=1")


def _told(document: Mapping[str, Any]) -> str:
    """A round as a table, before and after."""
    rows = [["", "before", "after", "before / after"]]
    for name, title in NAMES.items():
        before, after = document["before"][name], document["after"][name]
        rows.append([title, number(before), number(after), number(before / after) if after else ""])
    where, pairs = quoted(Path(document["run"])), document["pairs"]
    return f"{where}: {document['steps']:,} steps on {pairs['rows']:,} pairs\n{columns(rows)}"
