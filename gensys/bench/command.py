"""The command `gensys bench`."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import click

from gensys.bench import SUITES
from gensys.terminal import debug_option, plain

__all__ = ["bench"]

_STDOUT = Path("-")


class Suite(click.Choice[str]):
    """The name of a suite."""

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        return f"The suites: {', '.join(self.choices)}."


@click.command()
@click.argument("suite", type=Suite(list(SUITES)))
@click.option("--peers", is_flag=True, help="Against other libraries too (pip install 'gensys[peers]').")
@click.option("--rows", "pattern", metavar="PATTERN", default="*", help="Only rows whose name, shape or dtype matches.")
@click.option(
    "--threads",
    type=click.IntRange(1),
    metavar="N",
    default=1,
    show_default=True,
    help="1: CPU time is measured. More: time on the wall, also against one thread.",
)
@click.option(
    "--rounds", type=click.IntRange(1), metavar="N", default=15, show_default=True, help="At most, of every row."
)
@click.option("--quick", is_flag=True, help="Tiny shapes, nothing compiled: see that everything runs.")
@click.option(
    "--json",
    "file",
    metavar="[FILE]",
    is_flag=False,
    flag_value=_STDOUT,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write one JSON object too; without FILE, answer with it on stdout.",
)
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@debug_option
def bench(
    suite: str, peers: bool, pattern: str, threads: int, rounds: int, quick: bool, file: Path | None, quiet: bool
) -> None:
    """Measure gensys against torch, torch.compile and others.

    Candidates are checked against each other, then timed in turns; a ratio is the median of what the rounds say, next
    to what the machine could do at most. `kernels` takes about six minutes, --rows less.
    """
    from gensys.bench.machine import pools

    pools(threads)  # before torch is loaded
    with redirect_stdout(sys.stderr) if file == _STDOUT else nullcontext():
        from gensys.bench.report import text
        from gensys.bench.row import Scope
        from gensys.bench.suite import run
        from gensys.bench.timing import Protocol
        from gensys.durable import replace
        from gensys.progress import Screen

        protocol = Protocol(rounds=rounds, fewest=min(rounds, Protocol.fewest), threads=threads)
        found = run(suite, Scope(peers, quick), protocol, Screen(quiet), pattern)
    document = json.dumps(plain(found), indent=1, allow_nan=False)
    if file is not None and file != _STDOUT:
        replace(file, f"{document}\n".encode())
    click.echo(document if file == _STDOUT else text(found))
    if found["failures"]:
        click.get_current_context().exit(1)
