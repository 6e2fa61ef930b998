"""The page of a run that is being trained, written again and again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from gensys.report.page import write_report
from gensys.report.reading import training

__all__ = ["watch"]


def watch(folder: Path, seconds: float, out: Path | None = None, sleep: Callable[[float], None] = time.sleep) -> Path:
    """Write the report of a run every so many seconds until its training is finished; returns the page's path.

    A browser that has the page open loads it anew as often: no port is opened, it reads the file again. The last page,
    also that of a watch that is interrupted, does not ask for that. Raises RunError if `folder` is no run.
    """
    try:
        while not training(folder).state.get("finished", False):
            write_report(folder, out, refresh=max(1, math.ceil(seconds)))
            sleep(seconds)
    finally:
        page = write_report(folder, out)
    return page
