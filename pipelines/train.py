"""Train a run: in this process, or on Ray Train's workers. `python pipelines/train.py RECIPE knob=value` works too.

Ray Train places the workers, wires their process group and starts them again when one dies. What they do is
`engine.train`; checkpoints, data order and log are ours and live in the run folder, so a restart goes on from the
newest whole checkpoint, whichever way the last process ended.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from gensys.pipelines.crew import Workers, show
from gensys.pipelines.observer import OBSERVATIONS
from gensys.pipelines.work import ORDERS, batches, work

from gensys import durable
from gensys.core import is_codec
from gensys.data.card import card
from gensys.data.joined_latents import latents_in, normalisation_of
from gensys.data.quarantine import check_quarantine, record, told, without
from gensys.doctor import environment
from gensys.engine.checkpoint import State, newest, read_state
from gensys.engine.parallel import World
from gensys.engine.precision import resolve
from gensys.engine.step import rounds
from gensys.errors import ConfigError, RunError, Terminated
from gensys.noise import Noise
from gensys.progress import Phase, Screen
from gensys.run import Spec
from gensys.run_folder import COSTS, RunFolder, open_codec, pinned

__all__ = ["plan", "train"]


def plan(spec: Spec, workers: int) -> dict[str, object]:
    """What a run would do; writes nothing. Time is measured on three steps of this machine."""
    run = spec.load()
    settings = run.settings
    torch.manual_seed(settings.seed)
    model = spec.model(run)
    damaged = check_quarantine(run.source, spec.damaged)
    run = replace(run, rows=without(run.rows, damaged))
    parameters = sum(p.numel() for p in model.parameters())
    first = batches(run, World())(0)
    seconds = 0.0
    for _ in range(3):  # the first is slow: allocation and kernel selection
        begun = time.perf_counter()
        for player in model.players:
            model.loss(first, Noise(settings.seed, first.ids), player).total.backward()
        seconds = time.perf_counter() - begun
    images, limit = settings.budget.images, settings.budget.seconds
    a_step = settings.batch * rounds(model.players)
    steps = -(-images // a_step) if images else int((limit or 0.0) / seconds)
    weights = 4 * sum(t.numel() for t in model.state_dict().values())
    return {
        "recipe": spec.recipe,
        "data": run.source.about,
        "shape": list(run.source.shape),
        "rows": len(run.rows),
        "damaged": len(damaged),
        "parameters": parameters,
        "batch": settings.batch,
        "steps": steps,
        "estimated_seconds": limit or round(steps * seconds, 1),
        "precision": resolve(settings.precision),
        "workers": workers,
        # weights, their average and AdamW's two moments, for every checkpoint that is kept and the one being written
        "disk_bytes": 4 * weights * (settings.keep + 1),
        # and in the one who saves, a copy of those four
        "memory_bytes": (5 * max(1, workers) + 4) * weights + first.x.numel() * 4 * 64,
    }


def _prepare(folder: RunFolder, spec: Spec, workers: int, fresh: bool, shard: bool, screen: Screen) -> Spec:
    """Create the folder, or check that it may be resumed. Returns the spec with the precision decided.

    What cannot work is refused here, before anything is written: knobs that do not fit, a codec that is gone.
    """
    # decided once: a run that is resumed, on other hardware perhaps, goes on in the format and parts it was begun in
    spec = pinned(spec)
    begun = folder.document() if folder.exists and not fresh else {"knobs": {}, "parts": 0, "damaged": None}
    if spec.knobs.get("precision") == "auto":
        spec = spec.with_knobs({"precision": begun["knobs"].get("precision") or resolve("auto")})
    damaged = begun["damaged"] if spec.damaged is None else spec.damaged
    spec = replace(spec, parts=spec.parts or begun["parts"], damaged=damaged)
    if fresh and spec.knobs.get("pairs") == str((folder.path / "pairs.zarr").resolve()):
        raise ConfigError(
            f"{str(folder.path)!r} is a round of reflow, which begins with the weights that drew its pairs: with "
            f"--fresh they would be lost. Give `gensys reflow` another --out"
        )
    if shard and (spec.parts or not workers):
        raise ConfigError(
            "--shard-weights is for --workers of 1 or more without --exact: gradients of shards are added in an order "
            "that depends on the number of workers"
        )
    run = spec.load()
    model = spec.model(run)
    units, named = (spec.parts, "parts (--exact)") if spec.parts else (run.settings.batch, "rows")
    if workers > units:
        raise ConfigError(f"'workers' must be at most the {units} {named} of a step, got {workers}: each needs one")
    if (latents := latents_in(run.source)) is not None:
        open_codec(latents)
    source = run.source
    found = check_quarantine(source, spec.damaged)
    rows = without(run.rows, found)
    if found:
        screen.line(f"{told(source, found)}; they are left out")
    data = card(source)
    data |= {"quarantined": record(source, found)} if found else {}
    if normalisation := normalisation_of(source):
        data["normalisation"] = normalisation
    if fresh:
        _clear(folder)
    if not folder.exists:
        kind = "codec" if is_codec(model) else "model"
        folder.create(spec, {"kind": kind, "data": data, "train_rows": len(rows)})
        durable.replace(folder.path / "env.json", (json.dumps(environment(), indent=2) + "\n").encode())
        return spec
    differences = folder.differences(spec)
    before = folder.document().get("data", data)["fingerprint"]
    if before != data["fingerprint"]:
        differences.append(f"the content of the data: {before[:12]} -> {data['fingerprint'][:12]}")
    elif set(folder.quarantined()) != set(found):  # the same bytes: another machine, or one that is too busy
        differences.append(f"rows that cannot be read: {len(folder.quarantined())} -> {len(found)}")
    if differences:
        raise RunError(
            f"{str(folder.path)!r} was started with another configuration: {'; '.join(differences)}. Choose "
            f"another --run, or --fresh to start anew"
        )
    return spec


@contextmanager
def _alone(folder: RunFolder) -> Iterator[None]:
    """Hold the folder's lock, so that no two processes train into it; the kernel releases it however this one ends."""
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        file = open(folder.path / ".lock", "w")  # noqa: SIM115 - closed below
    except OSError as error:
        raise RunError(
            f"the run folder {str(folder.path)!r} cannot be written: {error.strerror}; choose another with --run"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{str(folder.path)!r} is being trained by another process: wait for it, or choose another --run"
            ) from error
        yield


def _clear(folder: RunFolder) -> None:
    """Remove what the verbs wrote into a run's folder, and nothing else: what was made from old weights goes too."""
    stores = ("latents.zarr", "latents.text.zarr", ".latents.zarr.rows", "samples.zarr", "drawn.zarr", "edited.zarr")
    for name in ("checkpoints", "snapshots", "ema", "tensorboard", "samples", "ray", "judge", "nfe", *stores):
        with suppress(FileNotFoundError):
            shutil.rmtree(folder.path / name)
    kept = ("run.json", "env.json", "metrics.jsonl", OBSERVATIONS, "log.txt", COSTS, *ORDERS)
    drawn = (
        "samples.png",
        "samples.csv",
        "edited.png",
        "reconstructions.png",
        "trajectory.png",
        "map.json",
        "neighbours.json",
        "neighbours.png",
        "evaluation.json",
        "stages.json",
        "report.html",
        "reflow.json",
    )
    for name in (*kept, *drawn):
        (folder.path / name).unlink(missing_ok=True)


@contextmanager
def _interruptible() -> Iterator[list[KeyboardInterrupt]]:
    """Ctrl-C and SIGTERM ask the loop to save and leave: what came is put on the list. A second one does not wait."""
    asked: list[KeyboardInterrupt] = []

    def ask(signum: int, frame: object) -> None:
        asked.append(Terminated() if signum == signal.SIGTERM else KeyboardInterrupt())
        if len(asked) > 1:
            raise asked[-1]

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    old = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


def train(
    folder: RunFolder,
    spec: Spec,
    *,
    workers: int,
    fresh: bool,
    screen: Screen,
    crew: Workers | None = None,
    threads: int | None = None,
    least: int = 0,
    shard: bool = False,
    observe: bool = False,
) -> State:
    """Train, or resume, the run in `folder`.

    workers: 0 = in this process, on `threads` threads (None = torch's default). crew: workers that are waiting already.
    least: as many workers as there is room for, from `least` to `workers`; 0 = all of them, or none. shard: whether new
    workers share out the weights, see gensys/engine/sharding.py. observe: whether an actor of its own draws and
    measures checkpoints meanwhile, see observer.py.

    Raises: RunError if the folder holds another configuration; KeyboardInterrupt after a checkpoint was saved, and the
    Terminated kind of it after SIGTERM.
    """
    with _alone(folder):
        spec = _prepare(folder, spec, workers, fresh, shard, screen)
        at = newest(folder.path / "checkpoints", screen.line)
        if at is not None:
            state = read_state(at)
            if state.finished:
                screen.line(f"{folder.path} is finished: {state.step:,} steps (configuration unchanged)")
                return state
            screen.line(f"{folder.path} resumes at step {state.step:,} (configuration unchanged)")
        with screen.log_to(folder.path / "log.txt"), _interruptible() as asked:
            with screen.phase(f"train {folder.path.name}", 1.0, "images") as phase:
                if workers == 0 and crew is None:
                    state = _here(folder, spec, phase, lambda: bool(asked), threads)
                else:
                    used = crew or Workers(workers, folder, least=least, shard=shard, observe=observe)
                    try:
                        state = used.train(spec, phase, lambda: bool(asked))
                    finally:
                        if crew is None:
                            used.close()
                    for failure in used.failures:
                        screen.line(failure)
            if asked:  # also of a run that has just ended: what would come next is not wanted either
                raise asked[0]
    return state


def _here(folder: RunFolder, spec: Spec, phase: Phase, asked: Callable[[], bool], threads: int | None) -> State:
    """Train in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if spec.parts else threads or before)  # the number of threads can change the bits too
    try:
        return work(folder, spec, World(), lambda p: show(phase, p.state, p.fraction, p.loss), asked)
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    from gensys.cli import main

    main("train")
