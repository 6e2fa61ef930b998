"""How much memory a process has needed."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

__all__ = ["peak_bytes"]

_STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """The largest resident memory of this process so far.

    On Linux from its status (VmHWM, in KiB), which begins anew with a program; `getrusage`, which stands in elsewhere,
    begins there with what the process that started this one had.
    """
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) << 10
    # in KiB on the BSDs, in bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)
