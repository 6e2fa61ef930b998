"""What the figures were measured on: the processor by what it can do, the libraries, and how busy it was.

A machine is named by its processor, never by its host name, so that a file of figures may be shared.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["BUSY", "load", "machine", "pools"]

BUSY = 0.5
"""More runnable processes than this, on average over the last minute, disturb a measurement."""

_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_VARIABLES = ("THP_MEM_ALLOC_ENABLE", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "GENSYS_", "ONEDNN_")
_FLAGS = ("sse2", "avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve", "sve2")
_PACKAGES = ("numpy", "triton", "diffusers", "faiss-cpu", "vector-quantize-pytorch", "zuko", "normflows", "zarr")
_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def pools(threads: int) -> None:
    """Give every thread pool that is made from now on this many threads; to be called before torch is loaded."""
    os.environ.update(dict.fromkeys(_POOLS, str(threads)))
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)


def load() -> float | None:
    """Processes that wanted to run, on average over the last minute; None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def machine() -> dict[str, Any]:
    """The facts of this machine and process, as a report and a JSON file hold them."""
    import torch

    from gensys import native
    from gensys.doctor import cores, memory

    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    onednn = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
    versions = {name: version for name in _PACKAGES if (version := _version(name)) is not None}
    return {
        "architecture": platform.machine(),
        "cpu": _cpu(),
        "features": _features(),
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "native_isa": None if native.extension is None else native.extension.isa(),
        "cores": cores(),
        "caches": _caches(),
        "memory_bytes": memory(),
        "huge_pages": _huge_pages(),
        "os": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "blas": blas[1] if blas else None,
        "onednn": onednn[1] if onednn else None,
        **versions,
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(_VARIABLES)},
        "load": load(),
    }


def _cpu() -> str | None:
    """Who made the processor and what it is called: whether oneDNN or MKL multiplies faster depends on it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _features() -> list[str]:
    """The instruction sets that matter here, of the first processor; [] where the system does not list them."""
    try:
        text = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return []
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    there = flags[1].split() if flags else []
    return [flag for flag in _FLAGS if flag in there]


def _caches() -> dict[str, str]:
    """{"L1": "48K", "L2": "1024K", ...}: the data caches of the first core."""
    found: dict[str, str] = {}
    for index in sorted(_CACHES.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction":
            found[f"L{level}"] = size
    return found


def _huge_pages() -> str | None:
    """The mode of transparent huge pages: whether a fresh megabyte costs one page fault or 256."""
    try:
        chosen = re.search(r"\[(\w+)\]", _THP.read_text())
    except OSError:
        return None
    return chosen[1] if chosen else None
