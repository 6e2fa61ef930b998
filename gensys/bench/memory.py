"""The peak memory of a call, in a process of its own."""

from __future__ import annotations

import contextlib
import importlib
import re
import subprocess
import sys
from pathlib import Path

__all__ = ["peak"]

_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak(module: str, quick: bool, dtype: str, candidate: str) -> int | None:
    """Bytes of physical memory that a candidate of a module of rows needs: its weights, its states and its results.

    The module has a function builders(quick, dtype) -> {candidate: a function that makes its call}. What the process
    holds when all libraries are loaded is not counted. None where the system does not tell (it takes Linux's /proc).
    """
    if not _STATUS.exists():
        return None
    code = f"from gensys.bench.memory import _report; _report({module!r}, {quick}, {dtype!r}, {candidate!r})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"the process that measures the memory of {candidate!r} failed: {ran.stderr.strip()}")
    return int(ran.stdout.split()[-1])


def _report(module: str, quick: bool, dtype: str, candidate: str) -> None:
    """The body of the other process: prints the number."""
    builders = importlib.import_module(module).builders
    builders(True, dtype)[candidate]()()  # a tiny one, which loads and sets up the libraries
    before = _resident("VmRSS")
    call = builders(quick, dtype)[candidate]()
    call()  # allocates what stays
    with contextlib.suppress(OSError):  # forget the highest mark; if that is forbidden, the first call counts as well
        _REFERENCES.write_text("5")
    call()
    print(_resident("VmHWM") - before)


def _resident(name: str) -> int:
    """A number of /proc/self/status, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {name}")
    return 1024 * int(found[1])
