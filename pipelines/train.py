"""Train a run: in this process, or on Ray Train's workers. `python pipelines/train.py RECIPE knob=value` works too.

Ray Train places the workers, wires their process group and starts them again when one dies. What they do is
`engine.train`; checkpoints, data order and log are ours and live in the run folder, so a restart goes on from the
newest whole checkpoint, whichever way the last process ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from gensys.pipelines.pool import BLOCK, device
from gensys.pipelines.session import Session, stand_in
from ray.exceptions import RayTaskError

from gensys import durable
from gensys.core import Batch, Codec, Generative
from gensys.data import order
from gensys.data.latents import LatentSource
from gensys.data.prefetch import prefetch
from gensys.data.quarantine import check_quarantine, record, told, without
from gensys.data.sources import split
from gensys.doctor import cores, environment
from gensys.engine import log
from gensys.engine.checkpoint import State, newest, read_state
from gensys.engine.loop import Progress
from gensys.engine.loop import train as fit
from gensys.engine.parallel import World
from gensys.engine.precision import resolve
from gensys.engine.validation import validation_loss
from gensys.errors import ConfigError, GensysError, RunError, Terminated, TrainingError
from gensys.noise import Noise
from gensys.preview import draw
from gensys.progress import Phase, Screen
from gensys.run import Run, RunFolder, Spec, normalisation_of, open_codec

__all__ = ["Workers", "plan", "train"]

_ORDERS = ("job.json", "STOP", "FAILED")  # how the driver and the workers talk
_HELD_OUT = 512  # rows that a checkpoint is judged on: about four steps of work, as often as one is saved
_POLL = 0.25  # seconds between looks at the log of remote workers


def plan(spec: Spec, workers: int) -> dict[str, object]:
    """What a run would do; writes nothing. Time is measured on three steps of this machine."""
    run = spec.load()
    settings = run.settings
    torch.manual_seed(settings.seed)
    model = spec.model(run)
    damaged = check_quarantine(run.source, spec.damaged)
    run = replace(run, rows=without(run.rows, damaged))
    parameters = sum(p.numel() for p in model.parameters())
    batches = _batches(run, World())
    first = batches(0)
    seconds = 0.0
    for _ in range(3):  # the first is slow: allocation and kernel selection
        begun = time.perf_counter()
        loss = model.loss(first, Noise(settings.seed, first.ids), model.players[0])
        loss.total.backward()
        seconds = time.perf_counter() - begun
    images, limit = settings.budget.images, settings.budget.seconds
    steps = -(-images // settings.batch) if images else int((limit or 0.0) / seconds)
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


def _batches(run: Run, world: World) -> Callable[[int], Batch]:
    """step -> this worker's part of the global batch: a function of (seed, step) and the worker's place."""
    settings, n = run.settings, len(run.rows)

    def batch(step: int) -> Batch:
        rows = world.share(run.rows[order.rows(settings.seed, step, settings.batch, n)], settings.parts)
        return run.source.batch(rows, Noise(settings.seed, rows, step))

    return batch


def _score(run: Run, model: Generative) -> Callable[[Generative], float] | None:
    """How good averaged weights are: their loss on rows that are held out, evenly spaced, the same for every run.

    None for a game, whose losses say nothing of the kind, and where no row is held out.
    """
    rows = split(run.source)[1]
    rows = rows[~torch.isin(rows, run.rows)]
    rows = rows[:: max(1, len(rows) // _HELD_OUT)][:_HELD_OUT]
    if not len(rows) or len(set(model.players)) > 1:
        return None

    def score(average: Generative) -> float:
        blocks = (run.source.batch(block, Noise(0, block)) for block in rows.split(BLOCK))
        return validation_loss(average, blocks, run.settings.precision, device())

    return score


def _work(
    folder: RunFolder, spec: Spec, world: World, watch: Callable[[Progress], None] | None, stop: Callable[[], bool]
) -> State:
    """What every worker does, in whichever process."""
    run = spec.load()
    run = replace(run, rows=without(run.rows, folder.quarantined()))
    torch.manual_seed(run.settings.seed)  # the initial weights
    model = spec.model(run)

    def preview(average: Generative, step: int) -> None:
        draw(average, run, folder.path / "samples" / f"{step:08d}.png")

    return fit(
        model,
        prefetch(_batches(run, world)),
        run.settings,
        folder.path,
        world=world,
        device=device(),
        preview=preview,
        score=_score(run, model),
        watch=watch,
        stop=stop,
    )


def _prepare(folder: RunFolder, spec: Spec, workers: int, fresh: bool, screen: Screen) -> Spec:
    """Create the folder, or check that it may be resumed. Returns the spec with the precision decided.

    What cannot work is refused here, before anything is written: knobs that do not fit, a codec that is gone.
    """
    # decided once: a run that is resumed, on other hardware perhaps, goes on in the format and parts it was begun in
    begun = folder.document() if folder.exists and not fresh else {"knobs": {}, "parts": 0, "damaged": None}
    if spec.knobs.get("precision") == "auto":
        spec = spec.with_knobs({"precision": begun["knobs"].get("precision") or resolve("auto")})
    damaged = begun["damaged"] if spec.damaged is None else spec.damaged
    spec = replace(spec, parts=spec.parts or begun["parts"], damaged=damaged)
    run = spec.load()
    model = spec.model(run)
    units, named = (spec.parts, "parts (--exact)") if spec.parts else (run.settings.batch, "rows")
    if workers > units:
        raise ConfigError(f"'workers' must be at most the {units} {named} of a step, got {workers}: each needs one")
    if isinstance(run.source, LatentSource):
        open_codec(run.source)
    source = run.source
    found = check_quarantine(source, spec.damaged)
    rows = without(run.rows, found)
    if found:
        screen.line(f"{told(source, found)}; they are left out")
    data: dict[str, Any] = {"name": source.name, "about": source.about, "fingerprint": source.fingerprint()}
    data |= {"quarantined": record(source, found)} if found else {}
    if normalisation := normalisation_of(source):
        data["normalisation"] = normalisation
    if fresh:
        _clear(folder)
    if not folder.exists:
        kind = "codec" if isinstance(model, Codec) else "model"
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
    for name in ("checkpoints", "tensorboard", "samples", "ray", "judge", "latents.zarr", "samples.zarr"):
        with suppress(FileNotFoundError):
            shutil.rmtree(folder.path / name)
    kept = ("run.json", "env.json", "metrics.jsonl", "log.txt", *_ORDERS)
    drawn = ("samples.png", "reconstructions.png", "trajectory.png", "evaluation.json", "stages.json", "report.html")
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
) -> State:
    """Train, or resume, the run in `folder`.

    workers: 0 = in this process, on `threads` threads (None = torch's default). crew: workers that are waiting already.

    Raises: RunError if the folder holds another configuration; KeyboardInterrupt after a checkpoint was saved, and the
    Terminated kind of it after SIGTERM.
    """
    with _alone(folder):
        spec = _prepare(folder, spec, workers, fresh, screen)
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
                    state = _on_workers(folder, spec, phase, lambda: bool(asked), crew, workers)
            if asked and not state.finished:
                raise asked[0]
    return state


def _here(folder: RunFolder, spec: Spec, phase: Phase, asked: Callable[[], bool], threads: int | None) -> State:
    """Train in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if spec.parts else threads or before)  # the number of threads can change the bits too
    try:
        return _work(folder, spec, World(), lambda p: _show(phase, p.state, p.fraction, p.loss), asked)
    finally:
        torch.set_num_threads(before)


def _on_workers(
    folder: RunFolder, spec: Spec, phase: Phase, asked: Callable[[], bool], crew: Workers | None, workers: int
) -> State:
    """Train on Ray's workers: those that wait already, or new ones."""
    used = crew or Workers(workers, folder)
    try:
        return used.train(spec, phase, asked)
    finally:
        if crew is None:
            used.close()


def _show(phase: Phase, state: State, fraction: float, loss: float) -> None:
    """Throughput and the time left count from the first step that is seen: starting up is not training."""
    if phase.done == 0.0:
        phase.start(fraction, state.images)
    phase.update(fraction, f"step {state.step:,}  loss {loss:.4f}", state.images)


class Workers:
    """Ray Train workers that start in the background and wait until they are told what to train.

    The order is a file, job.json: the fields of a Spec. Importing torch and wiring the process group take
    longer than encoding a small data set, so a program that knows it will train starts its crew early.
    """

    def __init__(self, workers: int, folder: RunFolder, session: Session | None = None) -> None:
        self.workers = workers
        self._own = session is None
        self.session = session or Session(workers)
        self.folder = folder.path.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in _ORDERS:
            (self.folder / name).unlink(missing_ok=True)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, name="ray-train", daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        try:
            self.session.require(self.workers, 1.0, 1.0 if torch.cuda.is_available() else 0.0)
            import ray.train
            from ray.train.torch import TorchConfig, TorchTrainer

            trainer = TorchTrainer(
                _ray_worker,
                train_loop_config={
                    "folder": str(self.folder),
                    "threads": max(1, cores() // self.workers),
                    "directory": os.getcwd(),
                },
                scaling_config=ray.train.ScalingConfig(
                    num_workers=self.workers, use_gpu=torch.cuda.is_available(), resources_per_worker=None
                ),
                torch_config=TorchConfig(backend="nccl" if torch.cuda.is_available() else "gloo"),
                run_config=ray.train.RunConfig(
                    name="train",
                    storage_path=str(self.folder / "ray"),
                    failure_config=ray.train.FailureConfig(max_failures=3),  # worker deaths, each costing a restart
                ),
            )
            trainer.fit()
        except BaseException as error:  # told in the main thread, by `train`
            self._error = error

    def train(self, spec: Spec, phase: Phase, asked: Callable[[], bool]) -> State:
        """Give the order and follow the log until the workers are done."""
        settings = spec.load().settings
        durable.replace(self.folder / "job.json", json.dumps(asdict(spec)).encode())
        told, loss = False, float("nan")
        while self._thread.is_alive():
            self._thread.join(_POLL)
            if asked() and not told:
                told = True
                (self.folder / "STOP").touch()
            if (line := log.last(self.folder)) is not None:
                state = State(int(line["step"]), int(line["images"]), line["seconds"])
                loss = line.get("loss", loss)
                _show(phase, state, settings.budget.progress(state), loss)
        if self._error is not None:
            raise _told(self._error)
        at = newest(self.folder / "checkpoints")
        if at is None:
            raise TrainingError(
                f"the workers left no checkpoint in {str(self.folder)!r}: see {str(self.folder / 'ray')!r}"
            )
        return read_state(at)

    def close(self) -> None:
        """Send waiting workers home, and Ray too if it was started for them."""
        if self._thread.is_alive():
            (self.folder / "STOP").touch()
            self._thread.join(timeout=30)
        if self._own:
            self.session.close()
        for name in _ORDERS:
            (self.folder / name).unlink(missing_ok=True)


def _told(error: BaseException) -> BaseException:
    """What to raise for what Ray Train raised: the worker's own error where it is one that a person can mend.

    Several workers fail when one does, since it no longer answers the others: their errors say less.
    """
    failures: list[BaseException] = [
        getattr(failure, "_base_exc", failure) for failure in getattr(error, "worker_failures", {}).values()
    ]
    for kind in (GensysError, OSError):
        for failure in [*failures, error]:
            if isinstance(failure, kind):
                return failure
    first = failures[0] if failures else getattr(error, "controller_failure", error)
    lines = str(first).strip().splitlines() or ["no text"]
    text = lines[-1 if isinstance(first, RayTaskError) else 0]  # of a task it is a traceback, whose last line says it
    wrapped = TrainingError(f"training on Ray's workers failed: {type(first).__name__}: {text}")
    wrapped.__cause__ = error
    return wrapped


def _ray_worker(config: dict[str, Any]) -> None:
    """Runs on every worker: wait for the order, then train."""
    import ray.train

    torch.set_num_threads(config["threads"])
    stand_in(config["directory"])
    folder = Path(config["folder"])
    if not folder.is_dir():
        raise RunError(f"{str(folder)!r} is not on the host of a worker: give a --run that all hosts share")
    job, leave, failed = (folder / name for name in _ORDERS)
    if failed.exists():  # a restart after an error that no restart mends
        raise TrainingError(failed.read_text())
    while not job.exists():
        if leave.exists():
            return
        time.sleep(_POLL)
    spec = Spec(**json.loads(job.read_text()))
    if spec.parts:
        torch.set_num_threads(1)
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    try:
        _work(RunFolder(folder), spec, world, None, leave.exists)
    except GensysError as error:
        durable.replace(failed, str(error).encode())
        raise


if __name__ == "__main__":
    from gensys.cli import main

    main("train")
