"""`gensys report`: the page of a run."""

from __future__ import annotations

from pathlib import Path

import click

from gensys.commands.options import run_argument
from gensys.terminal import Answer, answering


@click.command()
@run_argument
@answering
def report(run: Path) -> Answer:
    """Write the report.html of a run from what is in its folder.

    The animation of sampling, trajectory.png, is drawn first if it is not there.
    """
    from gensys.report import add_trajectory, write_report

    add_trajectory(run)
    path = write_report(run)
    return Answer({"report": path.resolve()}, str(path.resolve()))
