"""What the scripts of this folder share: a part of a page that a script owns between two comments, and the verbs."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import click

__all__ = ["Answer", "gensys", "part", "put"]


class Answer(NamedTuple):
    """What a command said, and the seconds of a processor that it took."""

    said: dict[str, Any]
    seconds: float


def gensys(*words: str) -> Answer:
    """The command as a user gives it, without Ray and on one thread. Raises: ClickException if it fails."""
    command = [sys.executable, "-m", "gensys", *words, "--workers", "0", "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise click.ClickException(f"`gensys {' '.join(words)}` failed: {done.stdout[-2000:]}")
    return Answer(json.loads(done.stdout), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def part(page: Path, name: str, script: str) -> str:
    """What stands in `page` between the marks of the part `name`, marks and all.

    Raises: ValueError if the page has no such marks.
    """
    begin, end = f"<!-- {name}: written by docs/{script} -->", f"<!-- end of {name} -->"
    found = re.search(f"{re.escape(begin)}.*?{re.escape(end)}", page.read_text(), flags=re.DOTALL)
    if found is None:
        raise ValueError(f"{page.name} has no lines {begin!r} and {end!r}, which say where the part belongs")
    return found.group()


def put(page: Path, name: str, script: str, lines: Iterable[str]) -> None:
    """Put `lines` in place of what stands in `page` between the marks of the part `name`, as `part` finds it."""
    old = part(page, name, script)
    first, *_, last = old.splitlines()
    page.write_text(page.read_text().replace(old, "\n".join([first, *lines, last])))
