"""Families of models against each other, on the same data, for the same time of a processor: `gensys compare`.

Every contender is trained from several seeds, a process of its own for each, on one thread, and then sampled and scored
as `gensys sample` and `gensys evaluate` do it. One that models the latents of a codec pays for the codec as well: a
third of the time goes there. A run that is finished is not done again; what is known of it lies in its folder:

    FOLDER/CONTENDER/SEED/    the run, with samples.zarr, samples.png, evaluation.json and cell.json
    FOLDER/CODEC/SEED/        the codec that contenders of this seed share, with latents.zarr
    FOLDER/judge/             the classifier that scores them all
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from gensys.pipelines.encode import encode
from gensys.pipelines.evaluate import evaluate
from gensys.pipelines.pool import Pool
from gensys.pipelines.real import judge_of
from gensys.pipelines.sample import sample

from gensys import durable
from gensys.data.sources import open_source
from gensys.engine.checkpoint import newest, read_state
from gensys.errors import ConfigError, GensysError
from gensys.progress import Screen
from gensys.run import nearest, resolve
from gensys.run_folder import RunFolder

__all__ = ["CONTENDERS", "Contender", "Plan", "compare"]

_CODEC_SHARE = 1 / 3  # of the time: reconstructions bound what a model of latents can reach
_LOOK_EVERY = 0.2  # seconds between looks at how much memory a training takes
_BITS = 256  # held-out rows whose likelihood is taken: half a percent of a bit between two digits of MNIST


@dataclass(frozen=True)
class Contender:
    """A recipe with its knobs. codec: the recipe whose latents it models; "" = it models the data."""

    recipe: str
    knobs: Mapping[str, str]
    codec: str = ""


_UNGUIDED = {"guidance": "1"}  # guidance trades coverage for fidelity: a comparison of its own

CONTENDERS: dict[str, Contender] = {
    "vae": Contender("vae", {}),
    "vq_prior": Contender("vq_prior", {}, codec="vq_vae"),
    "gan": Contender("gan", {}),
    "wgan_gp": Contender("wgan_gp", {}),
    "stylegan2": Contender("stylegan2", {}),
    "realnvp": Contender("realnvp", {}),
    "glow": Contender("glow", {}),
    "ddpm": Contender("ddpm", {}),
    "flow_matching": Contender("flow_matching", {}),
    "latent_dit": Contender("latent_dit", _UNGUIDED, codec="kl_autoencoder"),
}
"""One or two of every family, with the defaults of its recipe."""


@dataclass(frozen=True)
class Plan:
    """What a comparison is. data: what `open_source` opens. seconds: of the processor, to train
    each run for. samples: of each."""

    data: str
    seconds: float
    contenders: tuple[str, ...]
    seeds: int = 3
    samples: int = 1000

    def __post_init__(self) -> None:
        for name in self.contenders:
            if name not in CONTENDERS:
                meant = nearest(name, [*CONTENDERS])
                raise ConfigError(f"'families' has {name!r}, which is none of {', '.join(CONTENDERS)}.{meant}")
        if not self.contenders or len(set(self.contenders)) < len(self.contenders):
            raise ConfigError(f"'families' must be different contenders, got {', '.join(self.contenders) or 'none'}")
        if self.seconds < 3 or min(self.seeds, self.samples) < 1:
            raise ConfigError(
                f"'budget' must be 3 s or more, 'seeds' and 'samples' 1 or more, got {self.seconds:g} s, {self.seeds} "
                f"and {self.samples}"
            )

    @property
    def codecs(self) -> tuple[str, ...]:
        """The codecs that they need, each once."""
        return tuple(dict.fromkeys(CONTENDERS[name].codec for name in self.contenders if CONTENDERS[name].codec))


@dataclass(frozen=True)
class Cell:
    """One run: a contender, or a codec, and a seed."""

    name: str
    seed: int


@dataclass(frozen=True)
class CompareJob:
    """Train the k-th of `cells`, and score it if it is a contender. folder: absolute. A run that fails is told so in
    its cell: that a family fails is a result."""

    folder: str
    plan: Plan
    cells: tuple[Cell, ...]

    def load(self) -> Callable[[int], int]:
        def work(k: int) -> int:
            cell = self.cells[k]
            place = Path(self.folder) / cell.name / str(cell.seed)
            try:
                score = _codec if cell.name in self.plan.codecs else _run
                found = score(place, self.plan, cell)
            except GensysError as error:
                found = {"failed": str(error)}
            known = {"name": cell.name, "seed": cell.seed, "plan": _told(self.plan)}
            durable.replace(place / "cell.json", durable.with_digest(known | found))
            return 1

        return work


def _told(plan: Plan) -> dict[str, Any]:
    """What a cell depends on, of the plan."""
    return {name: value for name, value in asdict(plan).items() if name in ("data", "seconds", "samples")}


def _trained(place: Path, recipe: str, knobs: Mapping[str, str]) -> dict[str, Any]:
    """Train in a process of its own, whose CPU time and largest memory are its own too."""
    place.mkdir(parents=True, exist_ok=True)
    words = ["train", recipe, *(f"{name}={value}" for name, value in knobs.items()), "--run", str(place)]
    command = [sys.executable, "-m", "gensys", *words, "--workers", "0", "--quiet"]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    cpu, peak = 0.0, 0
    with open(place / "train.err", "w+b") as said:
        process = psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, env=environ)
        while process.poll() is None:  # asked of the process: what the kernel tells of it in the end, its parent is in
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess), process.oneshot():
                times, memory = process.cpu_times(), process.memory_info()
                cpu, peak = times.user + times.system, max(peak, memory.rss)
            time.sleep(_LOOK_EVERY)
        if process.returncode:
            said.seek(0)
            raise GensysError(said.read().decode(errors="replace").strip()[-500:] or f"status {process.returncode}")
    folder = RunFolder(place)
    at = newest(place / "checkpoints")
    if at is None:
        raise GensysError(f"{str(place)!r} has no checkpoint")
    state, spec = read_state(at), folder.spec()
    model = spec.model()
    return {
        "recipe": recipe,
        "knobs": dict(spec.knobs),
        "steps": state.step,
        "rows": state.images,
        "passes": state.images / folder.document()["train_rows"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "evaluations": model.evaluations,
        "train_seconds": state.seconds,
        "train_cpu": cpu,
        "peak_bytes": peak,
    }


def _codec(place: Path, plan: Plan, cell: Cell) -> dict[str, Any]:
    seconds = f"cpu:{plan.seconds * _CODEC_SHARE:.1f}s"
    found = _trained(place, cell.name, {"data": plan.data, "budget": seconds, "seed": str(cell.seed)})
    quiet = Screen(quiet=True)
    encode(RunFolder(place), place / "latents.zarr", data=None, shard=None, workers=0, screen=quiet)
    return found


def _run(place: Path, plan: Plan, cell: Cell) -> dict[str, Any]:
    contender = CONTENDERS[cell.name]
    data, seconds = plan.data, plan.seconds
    if contender.codec:
        codec = place.parents[1] / contender.codec / str(cell.seed)
        about = _read(codec)
        if about is None or "failed" in about:
            raise GensysError(f"its codec failed: {(about or {}).get('failed', 'it is not there')}")
        data, seconds = str(codec / "latents.zarr"), plan.seconds * (1 - _CODEC_SHARE)
    knobs = {"data": data, "budget": f"cpu:{seconds:.1f}s", "seed": str(cell.seed), **contender.knobs}
    found = _trained(place, contender.recipe, knobs)
    quiet = Screen(quiet=True)
    judge = place / "judge"
    if not judge.exists():
        shutil.copytree(place.parents[1] / "judge", judge)  # the same for all: it need not be trained again
    begun = time.process_time()
    sample(
        RunFolder(place),
        place / "samples.zarr",
        ids=range(plan.samples),
        seed=0,
        label=None,
        overrides={},
        shard=None,
        workers=0,
        screen=quiet,
    )
    sampling = time.process_time() - begun
    scored = evaluate(place, screen=quiet, bits=_BITS)
    return found | {
        "sample_cpu": sampling * 1000 / plan.samples,
        "metrics": scored["metrics"],
        "protocol": scored["protocol"],
        "codec": contender.codec,
    }


def _read(place: Path) -> dict[str, Any] | None:
    """What is known of a finished cell; None if it is not finished, or damaged."""
    try:
        return durable.without_digest(json.loads((place / "cell.json").read_text()))
    except (FileNotFoundError, ValueError):
        return None


def compare(folder: Path, plan: Plan, *, workers: int, screen: Screen) -> dict[str, Any]:
    """Train, sample and score all that is not done yet, `workers` runs side by side; returns what compare.json holds.

    Raises: GensysError if the data cannot be judged; what fails of a single run is told in its cell.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = open_source(plan.data)
    screen.line(f"data: {source.about}")
    judge_of(source, folder / "judge")
    for name in plan.contenders:  # refused here, before an hour of work
        resolve(CONTENDERS[name].recipe, {"data": plan.data, **CONTENDERS[name].knobs})
    pool = Pool(workers)
    try:
        for names, what in ((plan.codecs, "codecs"), (plan.contenders, "contenders")):
            cells = [Cell(name, seed) for seed in range(plan.seeds) for name in names]
            left = tuple(cell for cell in cells if not _done(folder, plan, cell))
            if len(left) < len(cells):
                screen.line(f"{what}: {len(cells) - len(left)} of {len(cells)} runs are there already")
            if left:
                job = CompareJob(str(folder.resolve()), plan, left)
                with screen.phase(what, len(left), "runs") as phase:
                    pool.map(job, range(len(left)), lambda done: phase.update(phase.done + done))
    finally:
        pool.close()
    runs = (folder / name / str(seed) for name in (*plan.codecs, *plan.contenders) for seed in range(plan.seeds))
    cells = [_read(place) for place in runs]
    document = {"plan": asdict(plan), "data": source.about, "cells": cells}
    durable.replace(folder / "compare.json", durable.with_digest(document))
    return document


def _done(folder: Path, plan: Plan, cell: Cell) -> bool:
    """Whether a cell is finished as this plan wants it. One of another plan is done anew, and one that failed too."""
    place = folder / cell.name / str(cell.seed)
    known = _read(place)
    if known is not None and "failed" not in known and known["plan"] == _told(plan):
        return True
    if known is not None:
        shutil.rmtree(place)
    return False


if __name__ == "__main__":
    from gensys.cli import main

    main("compare")
