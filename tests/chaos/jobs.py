"""The jobs that are disturbed, what they leave, and how that is held against what an undisturbed run leaves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from click.testing import CliRunner
from killer import Job, processes

from gensys.cli import cli
from gensys.data.store import Store

__all__ = ["Verdict", "gensys", "here", "leftovers", "made", "prepare", "small_disk", "verdict"]

SHARD = 64
SHARDS = 79  # of the 5,000 images, and of as many samples
HERE = Path(__file__).parent
HOW_IT_WENT = ("seconds", "workers", "restarts", "peak_bytes")
RAY = {
    # Ray's own patience with a coordinator that is gone is a minute
    "RAY_gcs_rpc_server_reconnect_timeout_s": "6",
    "RAY_worker_register_timeout_seconds": "300",  # Ray ends a worker that a busy machine does not start in a minute
}


def gensys(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command, env = [sys.executable, "-m", "gensys", *words], {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)


def here(*words: str) -> tuple[int, str]:
    """The same in this process, which has imported all it needs: (exit code, all that was said). For --workers 0."""
    result = CliRunner().invoke(cli, words, prog_name="gensys")
    return result.exit_code, result.output


def prepare(root: Path, *, broken: bool = False) -> None:
    """recipes.py, and the runs `codec` and `flow`, of few steps. broken: with the negative control's writer."""
    text = (HERE / "recipes.py").read_text()
    (root / "recipes.py").write_text(text + ((HERE / "control.py").read_text() if broken else ""))
    for name in ("codec", "flow"):
        code, said = here("train", str(root / "recipes.py:") + name, "data=mnist", "--run", str(root / name), "-q")
        assert code == 0, said


def job(name: str, root: Path, folder: Path, workers: int, steps: int = 0, disk: Path | None = None) -> Job:
    """encode, sample or train into `folder` (or the disk); steps: of train."""
    folder.mkdir()
    out = disk or folder
    if name == "train":
        words = (
            "train",
            str(root / "recipes.py:flow"),
            "data=mnist",
            f"budget={16 * steps}",
            "--run",
            str(out / "run"),
        )
        words += ("--exact", "2", "--workers", str(workers), "-q")
        return Job(name, folder, words, lambda: _step(out / "run" / "metrics.jsonl") / steps, disk)
    path = out / f"{name}.zarr"
    words = (name, str(root / {"encode": "codec", "sample": "flow"}[name]), "--out", str(path), "--shard", str(SHARD))
    words += ("--workers", str(workers), "-q", *(("--seeds", "0:5000") if name == "sample" else ()))
    return Job(name, folder, words, lambda: _shards(path) / SHARDS, disk)


def _shards(path: Path) -> int:
    """How many shards' files of one array are there: whoever writes them, and however they are committed."""
    return len(list(path.glob("label/c.*")))


def _step(log: Path) -> int:
    with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
        return json.loads(log.read_text().rsplit("\n", 2)[-2])["step"]
    return 0


def made(job: Job) -> dict[str, bytes]:
    """All that a finished job leaves and that must not depend on what happened to it, by name."""
    out = job.disk or job.folder
    if job.name != "train":
        path = out / f"{job.name}.zarr"
        return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
    newest = max((out / "run" / "checkpoints").glob("*/COMMITTED")).parent
    files = {f"{newest.name}/{file.name}": file.read_bytes() for file in newest.glob("*.safetensors")}
    lines = [{k: v for k, v in line.items() if k not in HOW_IT_WENT} for line in _steps(out / "run" / "metrics.jsonl")]
    return {**files, "metrics.jsonl": json.dumps(lines).encode()}


def _steps(log: Path) -> list[dict[str, float]]:
    """The lines of steps; what is known of a checkpoint has lines of its own, as checkpoints come by the clock."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if "val_loss" not in line]


@dataclass
class Verdict:
    """What a disturbed job left, held against an undisturbed one's. lost, extra, differing: names of files.

    twice, absent: rows of a store (steps of a log) that are there more than once, or not at all.
    """

    lost: list[str]
    extra: list[str]
    differing: list[str]
    twice: list[int] = field(default_factory=list)
    absent: list[int] = field(default_factory=list)
    verified: str = ""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.extra or self.differing or self.twice or self.absent or self.verified)


def verdict(disturbed: Job, quiet: Mapping[str, bytes]) -> Verdict:
    """Compare every byte, count every row, and ask `gensys verify`."""
    found = made(disturbed)
    both = found.keys() & quiet.keys()
    result = Verdict(
        sorted(quiet.keys() - both), sorted(found.keys() - both), sorted(n for n in both if found[n] != quiet[n])
    )
    out = disturbed.disk or disturbed.folder
    if disturbed.name == "train":
        steps = [line["step"] for line in _steps(out / "run" / "metrics.jsonl")]
        result.twice = [step for step in set(steps) if steps.count(step) > 1]
        return result
    path = out / f"{disturbed.name}.zarr"
    code, said = here("verify", str(path))
    result.verified = said if code else ""
    store = Store.open(path)
    with contextlib.suppress(Exception):  # of a store that is damaged, which is told above
        numbers, counts = np.unique(
            store.read("id" if disturbed.name == "sample" else "row", range(len(store))), return_counts=True
        )
        result.twice = numbers[counts > 1].tolist()
        result.absent = sorted(set(range(len(store))) - set(numbers.tolist()))
    return result


def leftovers(folder: Path, seconds: float = 30.0) -> list[str]:
    """The processes of a job that are alive so long after its end; they are then killed."""
    until = time.monotonic() + seconds
    while (alive := processes(folder)) and time.monotonic() < until:
        time.sleep(0.2)
    found = []
    for process in alive:
        with contextlib.suppress(psutil.Error):
            found.append(" ".join(process.cmdline())[:200])
            process.kill()
    return found


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[str]:
    """A file system of its own at `path` while the block runs; gives why there is none, or ""."""
    path.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        yield "takes root and `mount`, for a small file system"
        return
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True, text=True
    )
    if tried.returncode:
        yield f"mount: {tried.stderr.strip()}"
        return
    try:
        yield ""
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
