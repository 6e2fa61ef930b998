"""What a person sees while work goes on: one bar per phase with throughput and time left, or plain lines in a log.

Everything goes to stderr, so that stdout carries results alone (and JSON stays JSON).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

__all__ = ["Phase", "Screen"]

_LINE_EVERY = 10.0  # seconds between lines where there is no terminal: a log file should not fill up


def _clock(seconds: float) -> str:
    """m:ss, or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass
class Phase:
    """One phase that is under way; `update` may be called as often as one likes."""

    title: str
    total: float
    unit: str
    screen: Screen
    bar: Progress | None = None
    task: TaskID | None = None
    begun: float = field(default_factory=time.monotonic)
    said: float = field(default_factory=time.monotonic)
    done: float = 0.0
    first: float = 0.0
    before: float = 0.0
    note: str = ""

    def start(self, done: float, amount: float) -> None:
        """Count throughput and time left from here: what came before was not done now, or was no work."""
        self.begun, self.first, self.before = time.monotonic(), done, amount

    def update(self, done: float, note: str = "", amount: float | None = None) -> None:
        """done: how much of `total`; note: a few words such as "loss 0.42"; amount: what the throughput counts."""
        now = time.monotonic()
        self.done = done
        spent = max(now - self.begun, 1e-9)
        rate = ((done if amount is None else amount) - self.before) / spent
        pace = f"{rate:,.0f} {self.unit}/s" if rate >= 1 or not rate else f"{60 * rate:,.0f} {self.unit}/min"
        self.note = pace + (f"  {note}" if note else "")
        left = _clock(spent * (self.total - done) / (done - self.first)) if self.first < done <= self.total else "-:--"
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=min(done, self.total), eta=left, note=self.note)
        elif now - self.said >= _LINE_EVERY:
            self.said = now
            self.screen.line(f"{self.title}: {done / self.total:.0%}, {self.note}, {left} left")


class Screen:
    """Where progress is shown: the terminal, unless quiet, and the logs of the runs that `log_to` named.

    counts: by the title of a phase, what was counted in it: for --json.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._logs: list[Path] = []
        self.counts: dict[str, dict[str, int]] = {}

    @contextmanager
    def log_to(self, path: Path) -> Iterator[None]:
        """Append what is said in this block to a run's log.txt too, with the time."""
        self._logs.append(path)
        try:
            yield
        finally:
            self._logs.remove(path)

    def line(self, text: str) -> None:
        """One line for the person at the terminal."""
        for path in self._logs:
            with open(path, "a") as log:
                log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}\n")
        if not self.quiet:
            self.console.print(text, markup=False)

    @contextmanager
    def phase(self, title: str, total: float, unit: str) -> Iterator[Phase]:
        """A bar from 0 to `total` with throughput (in `unit` a second) and the time left; closes with one line."""
        phase = Phase(title, max(total, 1e-9), unit, self)
        if self.quiet or not self.console.is_terminal:
            yield phase
        else:
            fixed = Column(no_wrap=True, overflow="ellipsis")
            columns = (
                TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=len(title))),
                BarColumn(bar_width=16, table_column=Column(no_wrap=True, min_width=16)),
                TextColumn("{task.percentage:>3.0f}%", table_column=Column(no_wrap=True, min_width=4)),
                TextColumn("eta {task.fields[eta]}", table_column=Column(no_wrap=True, min_width=9)),
                TextColumn("{task.fields[note]}", table_column=fixed),  # the one that gives way on a narrow terminal
            )
            with Progress(*columns, console=self.console, transient=True) as phase.bar:
                phase.task = phase.bar.add_task(title, total=phase.total, eta="-:--", note="")
                yield phase
        self.line(f"{title}: {_clock(time.monotonic() - phase.begun)}  {phase.note}".rstrip())
