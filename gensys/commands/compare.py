"""`gensys compare`: families of models against each other."""

from __future__ import annotations

from pathlib import Path

import click

from gensys.arguments import RUNS, absolute
from gensys.commands.options import folder_option, quiet_option, screen, workers_option
from gensys.run import seconds_of
from gensys.terminal import Answer, answering, columns, keeping, quoted


@click.command()
@folder_option(RUNS / "comparison")
@click.option("--data", default="mnist", show_default=True, help="mnist, fashion or a folder of images in classes.")
@click.option("--budget", metavar="TIME", default="4m", show_default=True, help="Processor time a training.")
@click.option("--families", metavar="A,B,...", default="", help="Which contenders.  [default: all]")
@click.option("--seeds", type=click.IntRange(1), metavar="N", default=3, show_default=True, help="Runs of each.")
@click.option(
    "--samples", type=click.IntRange(6), metavar="N", default=1000, show_default=True, help="How many each run draws."
)
@workers_option()
@quiet_option
@answering
def compare(
    run: Path, data: str, budget: str, families: str, seeds: int, samples: int, workers: int, quiet: bool
) -> Answer:
    """Measure every family on the same data.

    Trained for the same time of a processor, each from several seeds: likelihood, quality, coverage, speed and
    stability of VAEs, VQ models, GANs, flows, diffusion and flow matching, in one table and a page of plots. What is
    finished is not redone; --workers runs are trained side by side.
    """
    from gensys.pipelines.compare import CONTENDERS, Plan
    from gensys.pipelines.compare import compare as pipeline
    from gensys.report.comparison import rows_of, table, write_comparison

    keeping(f"The finished runs in {quoted(run)} are kept; the same command goes on.")
    names = tuple(name.strip() for name in families.split(",") if name.strip()) or tuple(CONTENDERS)
    plan = Plan(absolute(data), seconds_of(budget), names, seeds, samples)
    document = pipeline(run, plan, workers=workers, screen=screen(quiet))
    page = write_comparison(run, document)
    across = [list(line) for line in zip(*table(rows_of(document)), strict=True)]  # titles are longer than values
    return Answer(document | {"page": page.resolve()}, f"{columns(across)}\n\nwritten: {quoted(page)}")
