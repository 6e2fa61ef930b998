"""What this machine has, what of gensys would run on it and why, and how to mend what is missing.

`environment` gives the plain facts that a run keeps in its env.json; `consultation` judges them. Ray is asked for its
version only: loading it takes seconds, and whether it starts is for the first run with workers to say.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click

from gensys.run import nearest
from gensys.terminal import columns, size

__all__ = ["DATA", "VARIABLES", "Check", "Consultation", "consultation", "cores", "environment", "memory"]

DATA = (
    "mnist",
    "fashion",
    "8gaussians",
    "25gaussians",
    "moons",
    "checkerboard",
    "spirals",
)  # the named data sets, known here without loading torch
VARIABLES = {
    "GENSYS_CACHE": "the folder where shards of stores in buckets are kept",
    "GENSYS_CACHE_BYTES": "how much of them is kept",
    "GENSYS_CUDA": "0 leaves the CUDA kernels out when gensys is built",
    "GENSYS_KERNELS": "forces an implementation of the kernels (reference, native, ...)",
    "GENSYS_NATIVE": "0 switches the compiled kernels off",
    "GENSYS_TORCH": "the torch that the set-up installs",
}
_GIB = 2**30
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # as x86 and ARM kernels name the instructions


@dataclass(frozen=True)
class Check:
    """One line of the doctor. state: a note is something that can be had and is not needed. remedy: "" if none."""

    part: str
    state: Literal["ok", "note", "problem"]
    finding: str
    remedy: str = ""


@dataclass(frozen=True)
class Consultation:
    """What the doctor found. kernels: the rows of `dispatch.table`."""

    facts: dict[str, Any]
    checks: list[Check]
    kernels: list[dict[str, str]]

    @property
    def problems(self) -> list[Check]:
        return [check for check in self.checks if check.state == "problem"]

    def document(self) -> dict[str, Any]:
        """For --json."""
        return {"environment": self.facts, "checks": [asdict(check) for check in self.checks], "kernels": self.kernels}

    def text(self) -> str:
        """For a person."""
        colour = {"ok": "green", "note": "yellow", "problem": "red"}
        rows: list[list[str]] = []
        for check in self.checks:
            rows.append([click.style(check.state, fg=colour[check.state]), check.part, check.finding])
            if check.remedy:
                rows.append(["", "", f"-> {check.remedy}"])
        kernels = [["op", "device", "dtype", "runs", "why"], *(list(kernel.values()) for kernel in self.kernels)]
        notes, bad = sum(check.state == "note" for check in self.checks), len(self.problems)
        verdict = f"{bad} problem{'s' if bad != 1 else ''}, {notes} note{'s' if notes != 1 else ''}"
        well = "" if bad else ": gensys runs here"
        return f"{columns(rows)}\n\nkernels: what would run\n{columns(kernels)}\n\n{verdict}{well}"


# ---------------------------------------------------------------------------------------------------------- plain facts


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cores() -> int:
    """The cores that this process may use, which in a container or a batch job are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """The bytes of memory that this process may use: those of the machine, or of its container."""
    import psutil

    limits = [psutil.virtual_memory().total]
    for file in _CGROUPS:
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):  # no such control group, or the word "max"
            continue
    return min(limits)


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; {} where there is none."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def environment() -> dict[str, Any]:
    """The facts that tell one run's surroundings from another's. No paths and no host name: env.json may be shared."""
    import torch

    from gensys import native

    info = _cpuinfo()
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "gensys": _version("gensys"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{package: _version(package) for package in ("ray", "zarr", "numpy", "triton")},
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": info.get("model name") or info.get("Model") or platform.processor() or platform.machine(),
        "cores": cores(),
        "memory_bytes": memory(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "native_isa": None if native.extension is None else native.extension.isa(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


# -------------------------------------------------------------------------------------------------------------- checks


def consultation() -> Consultation:
    """Look at everything; takes as long as loading torch does."""
    try:
        import torch  # noqa: F401
    except (ImportError, OSError) as error:  # not there, or one of its shared libraries is not
        remedy = "pip install --force-reinstall torch   or   make clean-all demo   in the folder of gensys"
        return Consultation({}, [Check("torch", "problem", f"cannot be loaded: {error}", remedy)], [])
    from gensys.kernels import dispatch

    facts = environment()
    checks = [
        *_python(facts),
        *_torch(facts),
        *_machine(facts),
        *_places(Path.cwd(), Path("/dev/shm"), facts["memory_bytes"]),
        *_compiled(),
        *_packages(facts),
        *_variables(os.environ),
        *_data(),
    ]
    return Consultation(facts, checks, [row._asdict() for row in dispatch.table()])


def _python(facts: dict[str, Any]) -> Iterator[Check]:
    if facts["gensys"] is None:
        yield Check(
            "gensys", "note", "runs from its source, not installed: the command `gensys` and its pipelines are missing",
            "python3 bootstrap.py run   or   pip install --no-build-isolation -e .   in its folder",
        )  # fmt: skip
    else:
        yield Check("gensys", "ok", facts["gensys"])
    yield Check("python", "ok", f"{facts['python']} ({platform.python_implementation()}), {facts['os']}")


def _torch(facts: dict[str, Any]) -> Iterator[Check]:
    import torch

    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    yield Check(
        "torch",
        "ok",
        f"{facts['torch']}, {facts['threads']} threads, BLAS {blas[1] if blas else '?'}, kernels for {facts['isa']}",
    )
    if facts["threads"] > facts["cores"]:
        yield Check(
            "threads",
            "problem",
            f"torch uses {facts['threads']} threads on {facts['cores']} cores, which makes all of them wait",
            f"export OMP_NUM_THREADS={facts['cores']}",
        )
    if facts["gpus"]:
        yield Check("gpu", "ok", f"{', '.join(facts['gpus'])}; CUDA {torch.version.cuda}")
    elif shutil.which("nvidia-smi") and torch.version.cuda is None:
        remedy = "install the CUDA build of torch; make with GENSYS_TORCH=... chooses it"
        yield Check("gpu", "note", "there is one, but this torch was built for the CPU only", remedy)
    else:
        yield Check("gpu", "ok", "none that this torch can use: everything runs on the CPU")


def _machine(facts: dict[str, Any]) -> Iterator[Check]:
    info = _cpuinfo()
    flags = f"{info.get('flags', '')} {info.get('Features', '')}".split()
    fast = [flag for flag in _BF16 if flag in flags]
    yield Check(
        "cpu", "ok", f"{facts['cpu']}, {facts['cores']} core{'s' if facts['cores'] != 1 else ''} for this process"
    )
    yield Check(
        "bf16", "ok", f"in hardware ({', '.join(fast)})" if fast else "not in the CPU's hardware: fp32 is used there"
    )
    state = "ok" if facts["memory_bytes"] >= 4 * _GIB else "note"
    remedy = "" if state == "ok" else "small batches, and --workers 0: a worker takes about 0.5 GiB"
    yield Check("memory", state, size(facts["memory_bytes"]), remedy)


def _places(work: Path, shared: Path, total: int) -> Iterator[Check]:
    """work: where runs are written. shared: where Ray keeps its objects. total: memory in bytes."""
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        if free < min(0.3 * total, 2 * _GIB):
            remedy = "--workers 0 needs none; in a container: docker run --shm-size=2g, or a memory-backed emptyDir"
            yield Check(str(shared), "note", f"{size(free)} free: Ray will be slow, or not start", remedy)
        else:
            yield Check(str(shared), "ok", f"{size(free)} free")
    free = shutil.disk_usage(work).free
    if not os.access(work, os.W_OK):
        yield Check(
            "disk", "problem", "this folder cannot be written", "go to another, or name one with --run and --out"
        )
    elif free < _GIB:
        yield Check("disk", "problem", f"{size(free)} free here: a run takes up to 1 GiB", "free some space")
    else:
        yield Check("disk", "ok", f"{size(free)} free here")


def _compiler() -> str | None:
    """The C++ compiler that a build would take."""
    named = shlex.split(os.environ.get("CXX", ""))[:1]
    return next((found for name in named or ["c++", "g++", "clang++"] if (found := shutil.which(name))), None)


def _has_header() -> bool:
    return Path(sysconfig.get_path("include"), "Python.h").exists()


def _compiled() -> Iterator[Check]:
    from gensys import native

    compiler, header = _compiler(), _has_header()
    extension = native.extension
    if extension is not None:
        isas = ", ".join(extension.isas())
        yield Check("native", "ok", f"compiled kernels run for {extension.isa()} (this CPU has {isas})")
    missing = [
        *([] if compiler else ["g++"]),
        *([] if header else [f"python{sys.version_info[0]}.{sys.version_info[1]}-dev"]),
    ]
    tools = f"{compiler or 'no C++ compiler'}, {'Python.h' if header else 'no Python.h'}"
    yield Check("compiler", "ok" if extension or not missing else "note", tools)
    if extension is None:
        first = f"apt-get install {' '.join(missing)} (or your system's packages of these), then   " if missing else ""
        remedy = f"{first}pip install --no-build-isolation -e .   in the folder of gensys"
        if os.environ.get("GENSYS_NATIVE") == "0":
            remedy = "unset GENSYS_NATIVE"
        yield Check("native", "note", f"no compiled kernels, torch does the work: {native.why_missing}", remedy)


def _packages(facts: dict[str, Any]) -> Iterator[Check]:
    for name, needed in (("ray", "for --workers above 0"), ("zarr", "for other readers of the stores")):
        if facts[name] is None:
            yield Check(name, "problem", f"missing; needed {needed}", f"pip install {name}")
        else:
            yield Check(name, "ok", facts[name])
    for extra, missing in sorted(_extras().items()):
        if missing:
            yield Check(
                f"extra {extra}", "note", "not complete (not needed to run)", f"pip install {shlex.join(missing)}"
            )
        else:
            yield Check(f"extra {extra}", "ok", "installed")


def _extras() -> dict[str, list[str]]:
    """extra -> its requirements that are not installed, as pip takes them; {} if gensys itself is not installed."""
    found: dict[str, list[str]] = {}
    try:
        declared = importlib.metadata.requires("gensys") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    for line in declared:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
        system = re.search(r"sys_platform\s*==\s*['\"]([^'\"]+)['\"]", marker)
        if extra and (system is None or system[1] == sys.platform):
            missing = found.setdefault(extra[1], [])
            name = re.match(r"[\w.-]+", requirement)
            if name and _version(name[0]) is None:
                missing.append(requirement.replace(" ", ""))
    return found


def _variables(environ: Mapping[str, str]) -> Iterator[Check]:
    """A variable that nobody reads is a typing error, and would be believed to work."""
    for name in sorted(name for name in environ if name.startswith("GENSYS_")):
        if name in VARIABLES:
            yield Check(name, "ok", f"is {environ[name]!r}: {VARIABLES[name]}")
        else:
            remedy = f"unset it.{nearest(name, list(VARIABLES))}"
            yield Check(name, "problem", "is set, and nothing reads it", remedy)


def _data() -> Iterator[Check]:
    from gensys.data.sources import open_source
    from gensys.errors import DataError

    for name in DATA:
        try:
            source = open_source(name)
            what = f"images of {len(source.classes)} classes" if source.classes else "points of the plane"
            yield Check(f"data {name}", "ok", f"{len(source):,} {what}")
        except DataError as error:
            finding, _, remedy = str(error).rpartition(": ")
            yield Check(f"data {name}", "note", finding, remedy)
