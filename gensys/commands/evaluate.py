"""`gensys evaluate`: the scores of a run or of a store of samples."""

from __future__ import annotations

from pathlib import Path

import click

from gensys.arguments import Place
from gensys.commands.options import checkpoint_option, quiet_option, screen
from gensys.commands.wording import facts, scores
from gensys.terminal import Answer, answering, quoted


@click.command()
@click.argument("target", type=Place(), metavar="RUN|STORE")
@click.option("--quick", is_flag=True, help="Only what the moments of gensys sample --moments give; reads no samples.")
@click.option(
    "--bits",
    type=click.IntRange(0),
    metavar="N",
    default=0,
    help="Also the likelihood, in bits per dimension, of N held-out rows, where the model has one.",
)
@click.option(
    "--predict",
    metavar="COLUMN",
    help="Of a table: what models that are trained on samples predict of held-out rows.  [default: the last column]",
)
@checkpoint_option
@quiet_option
@answering
def evaluate(target: Path, quick: bool, bits: int, predict: str | None, checkpoint: str, quiet: bool) -> Answer:
    """Score a run or a store of samples.

    Metrics with their 95 % intervals, what real data score, and the protocol they were taken under.
    """
    from gensys.pipelines.evaluate import evaluate as pipeline

    shown = screen(quiet)
    result = pipeline(target, checkpoint=checkpoint, screen=shown, quick=quick, bits=bits, predict=predict)
    return Answer(
        result,
        f"{scores(result['metrics'])}\n\n{facts(result['protocol'])}\n\nwritten: {quoted(Path(result['file']))}",
    )
