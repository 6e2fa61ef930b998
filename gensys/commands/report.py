"""`gensys report`: the page of a run, or of several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from gensys.arguments import RUNS, Place
from gensys.commands.options import quiet_option, screen
from gensys.errors import ConfigError, GensysError
from gensys.run_folder import RunFolder
from gensys.terminal import Answer, answering, keeping, quoted


@click.command()
@click.argument("runs", type=Place(), metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The page.  [default: RUN/report.html, of several runs/report.html]",
)
@click.option(
    "--watch",
    "seconds",
    type=click.FloatRange(1),
    metavar="SECONDS",
    help="Write the page as often while the run trains, until it is finished.",
)
@click.option(
    "--nfe",
    metavar="STEPS,...",
    help="Also draw 500 samples with each of these numbers of steps, and show what they are worth: --nfe 2,5,10.",
)
@quiet_option
@answering
def report(runs: Sequence[Path], out: Path | None, seconds: float | None, nfe: str | None, quiet: bool) -> Answer:
    """Write the report.html of a run from what is in its folder.

    What it shows beside what is there is made first, once: the animation of sampling, and of the samples in
    samples.zarr the nearest training images and a map. Of several runs, one page is made that has them side by side.
    """
    from gensys.report import add_trajectory, complete, watch, write_report, write_reports

    if len(runs) > 1:
        for name, given in (("watch", seconds), ("nfe", nfe)):
            if given is not None:
                raise ConfigError(f"{name!r} is for one run, got {len(runs)}: give one of them")
        path = write_reports(runs, out or RUNS / "report.html")
        return Answer({"report": path.resolve()}, str(path.resolve()))
    (run,) = runs
    counts = _counts(nfe) if nfe is not None else []
    if seconds is not None:
        keeping(f"The page {quoted(out or run / 'report.html')} is as new as the run was.")
        watch(run, seconds, out)
    shown = screen(quiet)
    try:
        add_trajectory(run)
    except GensysError as error:  # as when samples are of weights that are gone: the rest of the report stands
        shown.line(f"left out of the report: {error}")
    if not complete(run):  # only then what needs the data, and takes its time to import
        from gensys.pipelines.gallery import add_map, add_neighbours

        for add in (add_neighbours, add_map):
            try:
                add(run, shown)
            except GensysError as error:  # as when the data are gone: the rest of the report does not need them
                shown.line(f"left out of the report: {error}")
    if counts:
        from gensys.pipelines.tradeoff import add_tradeoff

        keeping(f"What is finished in {quoted(run / 'nfe')} is kept; the same command makes the others.")
        add_tradeoff(RunFolder(run), counts, screen=shown)
    path = write_report(run, out)
    return Answer({"report": path.resolve()}, str(path.resolve()))


def _counts(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"'nfe' is a list of numbers of steps, such as 2,5,10, got {text!r}") from None
