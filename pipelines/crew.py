"""Ray Train's workers: started early, told what to train by files, resized and started again as hosts come and go.

A group of workers has one size from start to end. When one of them dies, or hangs, all are started again; when hosts
come (`least` < `workers`), the group is told to save and to leave, and a larger one goes on from that very step. Either
way it goes on from the newest whole checkpoint: where the number of workers changes no bit, nor does what happened.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from gensys.pipelines.observer import Observer
from gensys.pipelines.session import Session, stand_in
from gensys.pipelines.work import ORDERS, POLL, said, work

from gensys import durable
from gensys.doctor import cores
from gensys.engine import log
from gensys.engine.checkpoint import State, newest, read_state
from gensys.engine.parallel import World
from gensys.errors import GensysError, RunError, TrainingError
from gensys.progress import Phase
from gensys.run import Spec
from gensys.run_folder import RunFolder

__all__ = ["Workers", "show"]

_SILENCE = 300  # seconds that a worker waits for another: rank 0 draws and saves meanwhile, which takes a minute or two
_PLACING = 15  # seconds for Ray to place a group: after a loss it counts the lost host at first
_LOOK_EVERY = 5.0  # seconds between looks whether Ray is alive on this host
_MONITOR = 60.0  # seconds between looks for new hosts: a change costs about 15, so more often would not pay


def show(phase: Phase, state: State, fraction: float, loss: float, workers: int = 0, restarts: int = 0) -> None:
    """Throughput and the time left count from the first step that is seen: starting up is not training."""
    if phase.done == 0.0:
        phase.start(fraction, state.images)
    crew = f"  {workers} worker{'s' * (workers != 1)}" if workers else ""
    crew += f"  {restarts} restart{'s' * (restarts != 1)}" if restarts else ""
    phase.update(fraction, f"step {state.step:,}  loss {loss:.4f}{crew}", state.images)


class Workers:
    """Ray Train workers that start in the background and wait until they are told what to train.

    The order is a file, job.json: the fields of a Spec. Importing torch and wiring the process group take
    longer than encoding a small data set, so a program that knows it will train starts its crew early.

    workers: how many, or at most how many with least > 0: as many as the cluster has room for, and at least `least`.
    shard: see gensys/engine/sharding.py. observe: grids are drawn by an observer (see observer.py), not by the workers.
    """

    def __init__(
        self,
        workers: int,
        folder: RunFolder,
        session: Session | None = None,
        *,
        least: int = 0,
        shard: bool = False,
        observe: bool = False,
    ) -> None:
        self.workers, self.least, self.shard, self.observe = workers, least, shard, observe
        self._own = session is None
        self.session = session or Session(workers)
        self.folder = folder.path.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ORDERS:
            (self.folder / name).unlink(missing_ok=True)
        self.failures: list[str] = []  # of the observer, in words
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, name="ray-train", daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        try:
            gpu = torch.cuda.is_available()
            self.session.require(self.least or self.workers, 1.0, 1.0 if gpu else 0.0)
            import ray.train
            from gensys.pipelines.foreman import Foreman
            from ray.train.torch import TorchConfig, TorchTrainer

            # a worker that hangs alone is in no collective: Ray's own look at it is what notices
            os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", str(_SILENCE))
            if self.least:
                os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(_PLACING))
            foreman: Any = Foreman(self.folder)  # of another kind than Ray Train's type says, and takes
            trainer = TorchTrainer(
                _ray_worker,
                train_loop_config={
                    "folder": str(self.folder),
                    "threads": max(1, cores() // self.workers),
                    "directory": os.getcwd(),
                    "shard": self.shard,
                    "previews": not self.observe,
                },
                scaling_config=ray.train.ScalingConfig(
                    num_workers=(self.least, self.workers) if self.least else self.workers,
                    use_gpu=gpu,
                    elastic_resize_monitor_interval_s=_MONITOR,
                ),
                torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=_SILENCE),
                run_config=ray.train.RunConfig(
                    name="train",
                    storage_path=str(self.folder / "ray"),
                    failure_config=ray.train.FailureConfig(max_failures=-1),  # the foreman counts
                    callbacks=[foreman],
                ),
            )
            trainer.fit()
        except BaseException as error:  # told in the main thread, by `train`
            self._error = error

    def train(self, spec: Spec, phase: Phase, asked: Callable[[], bool]) -> State:
        """Give the order and follow the log until the workers are done."""
        settings = spec.load().settings
        durable.replace(self.folder / "job.json", json.dumps(asdict(spec)).encode())
        told, loss, looked = False, float("nan"), time.monotonic()
        observer = Observer(self.folder) if self.observe else None
        while self._thread.is_alive():
            self._thread.join(POLL)
            if time.monotonic() > looked + _LOOK_EVERY:
                looked = time.monotonic()
                self.session.require_host()
            if observer:
                observer.watch()
            if asked() and not told:
                told = True
                (self.folder / "STOP").touch()
            if (line := log.last(self.folder)) is not None:
                state = State(int(line["step"]), int(line["images"]), line["seconds"])
                crew = int(line.get("workers", 0)), int(line.get("restarts", 0))
                loss = line.get("loss", loss)
                show(phase, state, settings.budget.progress(state), loss, *crew)
        if self._error is not None:
            raise _told(self._error)
        if observer:
            observer.close()
            self.failures = observer.failures
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
        for name in ORDERS:
            (self.folder / name).unlink(missing_ok=True)


def _told(error: BaseException) -> BaseException:
    """What to raise for what Ray Train raised: the foreman's own error, or one that says where it comes from."""
    inner = getattr(error, "controller_failure", error)
    for failure in (error, inner):
        if isinstance(failure, GensysError | OSError):
            return failure
    wrapped = TrainingError(f"training on Ray's workers failed: {said(inner)}")
    wrapped.__cause__ = error
    return wrapped


class _PausedError(Exception):
    """Ends a worker that has saved before a planned change; the foreman knows why."""


def _ray_worker(config: dict[str, Any]) -> None:
    """Runs on every worker: wait for the order, then train."""
    import ray.train

    torch.set_num_threads(config["threads"])
    stand_in(config["directory"])
    folder = Path(config["folder"])
    if not folder.is_dir():
        raise RunError(f"{str(folder)!r} is not on the host of a worker: give a --run that all hosts share")
    job, leave, pause, paused, crew = (folder / name for name in ORDERS)
    while not job.exists():
        if leave.exists():
            return
        time.sleep(POLL)
    spec = Spec(**json.loads(job.read_text()))
    if spec.parts:
        torch.set_num_threads(1)
    context = ray.train.get_context()
    restarts = json.loads(crew.read_bytes())["restarts"]
    world = World(context.get_world_rank(), context.get_world_size(), restarts)
    state = work(
        RunFolder(folder),
        spec,
        world,
        None,
        lambda: leave.exists() or pause.exists(),
        config["shard"],
        config["previews"],
    )
    if pause.exists() and not state.finished and not leave.exists():
        if world.rank == 0:
            paused.touch()
        raise _PausedError
