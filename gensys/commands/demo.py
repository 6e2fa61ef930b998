"""`gensys demo`: all of it, in minutes."""

from __future__ import annotations

from pathlib import Path

import click

from gensys.arguments import RUNS, absolute
from gensys.commands.options import folder_option, quiet_option, screen, workers_option
from gensys.commands.wording import facts, scores
from gensys.run import seconds_of
from gensys.terminal import Answer, answering, columns, duration, keeping, quoted


@click.command()
@folder_option(RUNS / "demo")
@click.option("--data", default="mnist", show_default=True, help="mnist, fashion or a folder of images.")
@click.option("--budget", metavar="TIME", default="4m", show_default=True, help="For all of it: 240, 90s, 4m.")
@click.option(
    "--samples", type=click.IntRange(1), metavar="N", default=1000, show_default=True, help="How many to draw."
)
@workers_option(None)
@quiet_option
@answering
def demo(run: Path, data: str, budget: str, samples: int, workers: int | None, quiet: bool) -> Answer:
    """Do all of it on this machine, in minutes.

    Trains a codec and a flow on its latents, samples, evaluates and writes a report. What is finished is not redone.
    """
    from gensys.doctor import cores
    from gensys.pipelines.demo import demo as pipeline

    keeping(f"What is finished in {quoted(run)} is kept; the same command goes on from there.")
    workers = cores() if workers is None else workers
    data = absolute(data)
    result = pipeline(run, data=data, budget=seconds_of(budget), workers=workers, samples=samples, screen=screen(quiet))
    stages = columns([[s["stage"], duration(s["seconds"]), s["detail"]] for s in result["stages"]])
    rest = facts({name: value for name, value in result.items() if name not in ("stages", "metrics")})
    return Answer(result, f"{scores(result['metrics'])}\n\n{stages}\n\n{rest}")
