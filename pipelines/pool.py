"""A pool of workers that do the shards of a job: Ray actors, or this process itself.

A job is a small frozen value that a worker loads once (a model, a data source) and then applies to shard numbers. Its
result must depend on the shard alone, so who does it, and how often, changes nothing: a shard whose worker died is done
again by another. Every worker computes on one thread, because the number of threads can change the last bit of a sum:
one core and a cluster give the same bytes.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import ray
import torch
from gensys.pipelines.session import Session, stand_in
from gensys.pipelines.shards import Counts, Order, Shards
from ray.exceptions import RayActorError, RayTaskError

from gensys.data.leases import Leases
from gensys.data.store import Store
from gensys.errors import ConfigError, GensysError
from gensys.progress import Screen
from gensys.run_folder import RunFolder

__all__ = ["BLOCK", "Job", "Pool", "by_blocks", "check_shard", "default_shard", "device", "fill"]

BLOCK = 64  # rows computed at once, at fixed places: see `fill`

_ATTEMPTS = 3  # a shard that killed three workers would kill the fourth: tell the user
_LOOK_EVERY = 1.0  # seconds between looks at who is late
_QUIET = 5.0  # seconds without a word of any worker, after which Ray itself is looked at


class Job(Protocol):
    """A frozen value, equal to itself after a journey to another process."""

    def load(self) -> Callable[[int], int]:
        """Open what is needed; returns a function that does one shard and says how many rows it had."""
        ...


class _Worker:
    """Runs in an actor (or here): keeps the loaded job between shards."""

    def __init__(self, directory: str) -> None:
        torch.set_num_threads(1)
        stand_in(directory)
        self._job: Job | None = None
        self._work: Callable[[int], int] | None = None

    def load(self, job: Job) -> None:
        """Returns once the worker is up and the job is loaded: only then can it be late with a shard."""
        if job != self._job or self._work is None:
            self._work = job.load()
            self._job = job

    def run(self, job: Job, shard: int) -> int:
        self.load(job)
        assert self._work is not None
        return self._work(shard)


class Pool:
    """workers = 0: in this process. cpus: what each actor reserves of Ray; 0 when stages of one program take turns."""

    def __init__(self, workers: int, session: Session | None = None, cpus: float = 1.0) -> None:
        self.workers, self.session, self._cpus = workers, session, cpus
        self._own = workers > 0 and session is None
        self._actor: Any = None  # makes one
        self._actors: list[Any] = []
        self._starting = threading.Thread(target=self._start, name="pool", daemon=True)
        self._error: BaseException | None = None
        self.counts = Counts()  # of the latest job
        if workers:
            self._starting.start()

    def _start(self) -> None:
        """Create the actors as soon as Ray is there; they import torch while this process does something else."""
        try:
            self.session = self.session or Session(self.workers)
            # a pool that takes turns with others reserves nothing; else several workers may share a GPU
            gpus = 1 / math.ceil(self.workers / torch.cuda.device_count()) if torch.cuda.is_available() else 0.0
            gpus = gpus if self._cpus else 0.0
            self.session.require(self.workers, self._cpus, gpus)
            # not started again by Ray: a call to an actor that is coming back fails like one to an actor that dies
            self._actor = ray.remote(num_cpus=self._cpus, num_gpus=gpus, max_restarts=0)(_Worker)
            self._actors = [self._actor.remote(os.getcwd()) for _ in range(self.workers)]
        except BaseException as error:  # raised again where the pool is first used
            self._error = error

    def map(self, job: Job, shards: Iterable[int], done: Callable[[int], None]) -> None:
        """Do all shards, each taken when a worker is there for it; done(rows) is called as each one ends, in any order.

        A worker is given its next shard when it has committed the last one, so a slow disk slows the work down and
        fills no memory. A shard whose worker is silent for too long is given to another one too (see `Shards.late`).

        Raises: the GensysError of a shard, or one that says which shard no worker survived.
        """
        self.counts = Counts()
        if not self.workers:
            threads = torch.get_num_threads()
            worker = _Worker(os.getcwd())
            try:
                for shard in shards:
                    done(worker.run(job, shard))
            finally:
                torch.set_num_threads(threads)
            return
        self._starting.join()
        if self._error is not None:
            raise self._error
        pending = Shards(shards)
        # a shard is given only to a worker that has started: one that finds no place must not hold a shard back
        running = {actor.load.remote(job): (actor, Order(None, 0.0)) for actor in self._actors}
        idle: list[Any] = []
        heard = time.monotonic()
        while not pending.finished:
            while idle and (order := pending.take(time.monotonic())):
                actor = idle.pop()
                running[actor.run.remote(job, order.shard)] = actor, order
            arrived, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK_EVERY)
            if arrived:
                heard = time.monotonic()
            elif time.monotonic() > heard + _QUIET and self.session:
                heard = time.monotonic()
                self.session.require_host()
            for reference in arrived:
                actor, order = running.pop(reference)
                rows = self._answer(reference, order, pending)
                if rows is None:
                    actor = self._replace(actor)
                    running[actor.load.remote(job)] = actor, Order(None, 0.0)
                    continue
                idle.append(actor)
                if pending.done(order, time.monotonic()):
                    done(rows)
            for actor, order in running.values():
                if pending.late(order, time.monotonic()):
                    self._doubt(actor, order, pending)
        for actor, order in running.values():
            if order.shard is not None:  # another has done it: the next job is not to wait for this
                self._replace(actor)

    def _answer(self, reference: Any, order: Order, pending: Shards) -> int | None:
        """How many rows a worker has done; None if it died."""
        try:
            return ray.get(reference) or 0
        except RayActorError as error:
            if order.ended:
                return None
            self.counts.deaths += 1
            if pending.lost(order) >= _ATTEMPTS * (len(self._actors) if order.shard is None else 1):
                what = (
                    "its workers died as they started"
                    if order.shard is None
                    else f"shard {order.shard} ended {_ATTEMPTS} workers"
                )
                raise GensysError(
                    f"{what} (killed, or out of memory): what is committed is kept; use fewer --workers or smaller "
                    f"shards, and run the same command again"
                ) from error
            return None
        except RayTaskError as error:
            if isinstance(error.cause, GensysError):
                raise error.cause from None  # what went wrong, without the layers between
            raise

    def _replace(self, actor: Any) -> Any:
        """End a worker, if it has not ended yet, and start another in its place."""
        ray.kill(actor)
        self.counts.restarts += 1
        self._actors[self._actors.index(actor)] = fresh = self._actor.remote(os.getcwd())
        return fresh

    def _doubt(self, actor: Any, order: Order, pending: Shards) -> None:
        """Let another worker do a late shard as well, which is harmless; end the worker if it stays silent."""
        if order.overdue:
            order.ended = True
            ray.kill(actor)
        else:
            order.overdue = True
            self.counts.stragglers += 1
            pending.again(order)

    def close(self) -> None:
        """End the actors, and Ray if it was started for them."""
        if not self.workers:
            return
        self._starting.join()
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        if self._own and self.session is not None:
            self.session.close()


def device() -> torch.device:
    """Where this process computes: the first GPU that it sees, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_shard(rows: int) -> int:
    """Rows per shard where the user names none: about sixteen shards, of 64 to 4096 rows.

    A function of the number of rows alone, so that the same command gives the same store on any machine.
    """
    return min(4096, max(BLOCK, -(-rows // (16 * BLOCK)) * BLOCK))


def check_shard(shard: int) -> int:
    """Refuse a shard that would cut a block: a matrix product may round a row differently among other rows."""
    if shard < BLOCK or shard % BLOCK:
        raise ConfigError(
            f"'shard' must be a multiple of {BLOCK}, got {shard}; try {max(1, round(shard / BLOCK)) * BLOCK}"
        )
    return shard


def by_blocks(ids: range, block: Callable[[int], Mapping[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    """The rows `ids` of arrays that are computed in whole blocks: block(b) holds the rows b * BLOCK ... of all."""
    numbers = range(ids.start // BLOCK, (ids.stop - 1) // BLOCK + 1)
    blocks = [block(number) for number in numbers]
    rows = slice(ids.start - numbers.start * BLOCK, ids.stop - numbers.start * BLOCK)
    return {name: np.concatenate([arrays[name] for arrays in blocks])[rows] for name in blocks[0]}


def fill(
    store: Store,
    job: Job,
    verb: str,
    unit: str,
    *,
    workers: int,
    screen: Screen,
    pool: Pool | None,
    folder: RunFolder | None = None,
) -> None:
    """Do the shards that a store lacks, with a bar; says how many are there already. pool: one that is running.
    folder: the run that keeps what it took.

    Several drivers may fill a store at once; what another commits meanwhile is left out.
    """
    missing = store.missing()
    if len(missing) < store.config.shards:
        done = store.config.shards - len(missing)
        screen.line(f"{store.where}: {done} of {store.config.shards} shards are there already")
    if not missing:
        return
    used = pool or Pool(min(workers, len(missing)))
    leases = Leases(store, used.workers)
    try:
        with screen.phase(verb, sum(len(store.rows_of(k)) for k in missing), unit) as phase:
            try:
                used.map(job, leases.hand_out(missing), lambda rows: phase.update(phase.done + rows, str(used.counts)))
            finally:
                if folder is not None and phase.done:  # of a run that was interrupted too
                    folder.spent(verb, round(phase.done), time.monotonic() - phase.begun, used.workers)
            screen.counts[verb] = {unit: round(phase.done), **asdict(used.counts)}
    finally:
        leases.close()
        if pool is None:
            used.close()
