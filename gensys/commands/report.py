"""`gensys report`: the page of a run, or of several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from gensys.arguments import RUNS, Place
from gensys.errors import ConfigError
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
@answering
def report(runs: Sequence[Path], out: Path | None, seconds: float | None) -> Answer:
    """Write the report.html of a run from what is in its folder.

    The animation of sampling, trajectory.png, is drawn first if it is not there. Of several runs, one page is made that
    has them side by side.
    """
    from gensys.report import add_trajectory, watch, write_report, write_reports

    if len(runs) > 1:
        if seconds is not None:
            raise ConfigError(f"'watch' is for one run, got {len(runs)}: give one of them")
        path = write_reports(runs, out or RUNS / "report.html")
    else:
        (run,) = runs
        if seconds is not None:
            keeping(f"The page {quoted(out or run / 'report.html')} is as new as the run was.")
            watch(run, seconds, out)
        add_trajectory(run)
        path = write_report(run, out)
    return Answer({"report": path.resolve()}, str(path.resolve()))
