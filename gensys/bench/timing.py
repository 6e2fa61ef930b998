"""How calls are timed against each other: in turns, on one clock, compared round by round.

In every round each call gives one sample, in an order that rotates, so that none of them always follows the same
other one. A short call is repeated within its sample, because a clock has a resolution. What is compared are samples
of the same round: their ratio does not change when the whole machine slows down, and the median of the ratios does not
change when a few rounds are disturbed.

One thread is timed by the CPU time of the process, which does not run while another process has the core; several
threads by the time on the wall, which needs an idle machine.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat

__all__ = ["Call", "Clock", "Protocol", "Sample", "Spread", "clock", "measure", "order", "spread"]

Call = Callable[[], object]
"""What is timed. What it returns is looked at once, before."""

Clock = Callable[[], tuple[float, float]]
"""(CPU time of the process, time on the wall), in seconds."""


def clock() -> tuple[float, float]:
    """The clocks of this machine."""
    return time.process_time(), time.perf_counter()


@dataclass(frozen=True)
class Protocol:
    """rounds: at most. fewest: rounds that are never left out. seconds: when they are over, `fewest` rounds are enough.
    shortest: the seconds that a sample lasts at least. cool: a call that is shorter than this many seconds is made once
    before its sample begins, so that it finds its own data in the caches and not those of its predecessor.
    """

    rounds: int = 15
    fewest: int = 3
    seconds: float = 5.0
    shortest: float = 2e-3
    cool: float = 0.05
    threads: int = 1

    @property
    def timed(self) -> str:
        """The clock that counts, "cpu" or "wall"."""
        return "cpu" if self.threads == 1 else "wall"


@dataclass(frozen=True)
class Sample:
    """Seconds per call, on both clocks."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Spread:
    """The median of some numbers and the quartiles around it."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles; of one number all three are that number."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def order(names: Sequence[str], number: int) -> list[str]:
    """Who goes first in a round: the names rotated by one a round, and every other turn of the wheel backwards."""
    turn, start = divmod(number, len(names))
    rotated = [*names[start:], *names[:start]]
    return rotated[::-1] if turn % 2 else rotated


def measure(calls: Mapping[str, Call], protocol: Protocol, clock: Clock = clock) -> dict[str, list[Sample]]:
    """The samples of every call, one a round, as many of each: round i of one belongs to round i of the others.

    Every call must have been made once before, so that what it compiles, allocates or caches is there.
    """
    with _undisturbed():
        repeats: dict[str, int] = {}
        primed: dict[str, bool] = {}
        for name, call in calls.items():
            repeats[name], seconds = _calibrated(call, protocol.shortest, clock)
            primed[name] = seconds < protocol.cool
        samples: dict[str, list[Sample]] = {name: [] for name in calls}
        begun = clock()[1]
        for number in range(protocol.rounds):
            if number >= protocol.fewest and clock()[1] - begun > protocol.seconds:
                break
            for name in order(list(calls), number):
                if primed[name]:
                    calls[name]()
                samples[name].append(_sample(calls[name], repeats[name], clock))
    return samples


def _sample(call: Call, repeats: int, clock: Clock) -> Sample:
    cpu, wall = clock()
    for _ in repeat(None, repeats):
        call()
    cpu_end, wall_end = clock()
    return Sample((cpu_end - cpu) / repeats, (wall_end - wall) / repeats)


def _calibrated(call: Call, shortest: float, clock: Clock) -> tuple[int, float]:
    """(how often a call is made in a sample, seconds of one call)."""
    repeats = 1
    while True:
        seconds = _sample(call, repeats, clock).wall
        if seconds * repeats >= shortest:
            return repeats, seconds
        # aim a little beyond, and at least double: the first calls of a loop are slower than the later ones
        repeats = max(2 * repeats, math.ceil(1.2 * shortest / max(seconds, 1e-9)))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without the garbage collector, which would run in whose sample it likes."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
