"""What a person sees while work goes on: one bar per phase with throughput and time left, or plain lines in a log.

Everything goes to stderr, so that stdout carries results alone (and JSON stays JSON).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Phase", "Screen"]

_LINE_EVERY = 10.0  # seconds between lines where there is no terminal: a log file should not fill up


@dataclass
class Phase:
    """One phase that is under way; `update` may be called as often as one likes."""

    title: str
    total: float
    unit: str
    screen: Screen
    bar: Progress | None = None
    task: TaskID | None = None
    begun: float = 0.0
    said: float = 0.0
    done: float = 0.0
    note: str = ""

    def update(self, done: float, note: str = "", amount: float | None = None) -> None:
        """done: how much of `total`; note: a few words such as "loss 0.42"; amount: what the throughput counts."""
        now = time.monotonic()
        self.done = done
        counted = done if amount is None else amount
        rate = counted / max(now - self.begun, 1e-9)
        self.note = f"{rate:,.0f} {self.unit}/s" + (f"  {note}" if note else "")
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=min(done, self.total), note=self.note)
        elif now - self.said >= _LINE_EVERY:
            self.said = now
            left = (now - self.begun) * (self.total / done - 1.0) if done else float("inf")
            left_text = f", {left:.0f} s left" if left < 1e6 else ""
            self.screen.line(f"{self.title}: {100 * done / self.total:.0f}%, {self.note}{left_text}")


class Screen:
    """Where progress is shown. quiet: nothing but errors."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """One line for the person at the terminal."""
        if not self.quiet:
            self.console.print(text, markup=False)

    @contextmanager
    def phase(self, title: str, total: float, unit: str) -> Iterator[Phase]:
        """A bar from 0 to `total` with throughput (in `unit` a second) and the time left; closes with one line."""
        phase = Phase(title, max(total, 1e-9), unit, self, begun=time.monotonic(), said=time.monotonic())
        if self.quiet:
            yield phase
            return
        if not self.console.is_terminal:
            yield phase
        else:
            columns = (
                TextColumn("{task.description:<22}"),
                BarColumn(bar_width=28),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            with Progress(*columns, console=self.console, transient=True) as phase.bar:
                phase.task = phase.bar.add_task(title, total=phase.total, note="")
                yield phase
        seconds = time.monotonic() - phase.begun
        self.line(f"{title}: {seconds:.1f} s  {phase.note}".rstrip())
