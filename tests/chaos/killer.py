"""Kills, stops and starves the processes of a job, gives its command again when it ended, until the job is through.

When is drawn in terms of the job's own progress: each disturbance has a point between 0 and 1 and happens as soon as
the job has come that far. So a slow machine is disturbed as often as a fast one, and a job that was set back is left
alone until it has caught up: there always is an end.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

__all__ = ["Event", "Job", "Story", "disturb", "plan", "processes"]

KILL, PAUSE, FULL = "SIGKILL", "SIGSTOP, SIGCONT", "disk full"
VICTIMS = ("worker", "raylet", "coordinator", "driver", "disk")
_LATEST = 0.85  # of the progress: what comes later might find the job done
_PATIENCE = 300.0  # seconds without progress or end: a job that hangs, on a machine that may be busy with others
_STOPPED = (1.0, 4.0)  # seconds that a stopped process rests, drawn uniformly
_STARVED = 20.0  # seconds that a disk stays full if nobody ends of it


@dataclass(frozen=True)
class Job:
    """A command of gensys. folder: private to it; its processes are those whose current directory this is.

    words: the command. progress: how far it is, 0 to 1. disk: a small file system that it alone writes to, or None.
    """

    name: str
    folder: Path
    words: tuple[str, ...]
    progress: Callable[[], float]
    disk: Path | None = None


@dataclass
class Event:
    """A disturbance. at: progress from which it is due. seconds: until the job had come further than it was then."""

    kind: str
    victim: str
    at: float
    seconds: float | None = None
    restarts: int = 0


@dataclass
class Story:
    """What happened to a job. missed: disturbances that found it done. said: the last words of each driver."""

    job: str
    events: list[Event] = field(default_factory=list)
    missed: list[Event] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        return sum(event.kind == KILL for event in self.events)


def plan(dice: random.Random, counts: Mapping[tuple[str, str], int]) -> list[Event]:
    """counts: how many of each (kind, victim). Their order and places are drawn."""
    events = [Event(kind, victim, 0.0) for (kind, victim), count in counts.items() for _ in range(count)]
    dice.shuffle(events)
    places = sorted(dice.uniform(0.0, _LATEST) for _ in events)
    return [Event(event.kind, event.victim, at) for event, at in zip(events, places, strict=True)]


def processes(folder: Path) -> list[psutil.Process]:
    """The living processes whose current directory is this folder: Ray's servers and workers keep their driver's."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):  # gone meanwhile, or a zombie, which has none
            if os.readlink(f"/proc/{pid}/cwd") == str(folder):
                found.append(psutil.Process(pid))
    return found


def _role(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        first = (process.cmdline() or [""])[0]
        if first.startswith("ray::"):  # Ray writes there what the process is
            return "worker" if "Worker" in first else ""
        return {"gcs_server": "coordinator", "raylet": "raylet"}.get(Path(first).name, "")
    return ""


class _Driver:
    """The command, running; what it says goes to a file, since its children may hold a pipe open after its end."""

    def __init__(self, job: Job, number: int, environment: Mapping[str, str]) -> None:
        self.log = job.folder / f"driver.{number}.log"
        with open(self.log, "wb") as file:
            command = [sys.executable, "-m", "gensys", *job.words]
            self.process = subprocess.Popen(
                command, cwd=job.folder, env={**os.environ, **environment}, stdout=file, stderr=file
            )

    def said(self) -> str:
        return self.log.read_text(errors="replace")


def disturb(job: Job, events: Sequence[Event], dice: random.Random, environment: Mapping[str, str]) -> Story:
    """Run the job to its end under these events. Raises AssertionError if it hangs, fails by itself, or shows a bug."""
    story, due, stopped = Story(job.name), list(events), list[tuple[float, psutil.Process]]()
    begun = moved = time.monotonic()
    filler = None if job.disk is None else job.disk / "filler"
    driver, furthest, struck, filled = _Driver(job, 0, environment), 0.0, False, 0.0
    happened = dict[int, float]()
    try:
        while True:
            now, at, code = time.monotonic(), job.progress(), driver.process.poll()
            for pair in [pair for pair in stopped if now >= pair[0]]:
                stopped.remove(pair)
                _send(pair[1], signal.SIGCONT)
            if at > furthest:
                furthest, moved = at, now
                for number, when in happened.items():
                    story.events[number].seconds = now - when
                happened.clear()
            if filler and filler.exists() and (code is not None or now > filled + _STARVED):
                filler.unlink()
            if code is not None:
                story.said.append(driver.said())
                if code == 0:
                    break
                assert struck, f"{job.name} ended with {code} although nothing happened to it:\n{story.said[-1]}"
                assert "Traceback (most recent" not in story.said[-1], story.said[-1]
                assert "bug of gensys" not in story.said[-1], story.said[-1]
                story.events[-1].restarts += 1
                driver, struck, moved = _Driver(job, len(story.said), environment), False, now
            elif (found := _next(job, driver, due, at, dice)) is not None:
                event, victim = found
                due.remove(event)
                if event.kind == FULL:
                    assert filler is not None
                    _fill(filler)
                    filled = now
                elif event.kind == PAUSE:
                    _send(victim, signal.SIGSTOP)
                    stopped.append((now + dice.uniform(*_STOPPED), victim))
                else:
                    _send(victim, signal.SIGKILL)
                happened[len(story.events)] = now
                story.events.append(event)
                struck = True
            assert now < moved + _PATIENCE, f"{job.name} hangs at {at:.0%} after {story.events[-3:]}:\n{driver.said()}"
            time.sleep(0.02)
    finally:
        for _, process in stopped:
            _send(process, signal.SIGCONT)
        if driver.process.poll() is None:
            driver.process.kill()
        driver.process.wait()
        if filler:
            filler.unlink(missing_ok=True)
    story.missed, story.seconds = due, time.monotonic() - begun
    return story


def _next(
    job: Job, driver: _Driver, due: Sequence[Event], at: float, dice: random.Random
) -> tuple[Event, psutil.Process] | None:
    """The first event that is due and whose victim is there. Others go before one whose victim is not: workers whose
    raylet is dead may go on for a while, as far as to the end."""
    for event in due:
        if at >= event.at and (victim := _victim(job, driver, event, dice)) is not None:
            return event, victim
    return None


def _victim(job: Job, driver: _Driver, event: Event, dice: random.Random) -> psutil.Process | None:
    """Whom it meets; None if nobody of that kind is there yet."""
    if event.victim in ("driver", "disk"):
        return psutil.Process(driver.process.pid)
    there = [process for process in processes(job.folder) if _role(process) == event.victim]
    return dice.choice(there) if there else None


def _send(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)  # psutil looks whether it still is the same process


def _fill(path: Path) -> None:
    """Take all the room that a file system has left."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
