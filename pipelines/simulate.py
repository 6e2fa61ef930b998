"""How far one driver goes: `python pipelines/simulate.py --json FILE`, for docs/scaling.py.

The pool, the store and its commits are the real ones; the encoders of the simulation sleep. What is real work (the
efficiency of two workers, the overhead of Ray) wants an idle machine.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import torch
from gensys.pipelines.encode import encode
from gensys.pipelines.pool import Pool
from gensys.pipelines.sample import sample
from gensys.pipelines.session import Session
from gensys.pipelines.train import train

from gensys.data.latents import statistics as channel_statistics
from gensys.data.store import ArraySpec, Store
from gensys.doctor import cores, environment
from gensys.progress import Screen
from gensys.run import resolve
from gensys.run_folder import RunFolder

__all__ = ["Computing", "Sleeping", "measure"]

SHAPE = (4, 32, 32)  # latents of 256 x 256 images at a factor of 8
CHUNK = 64
ACTORS = (1, 2, 4, 8)
MARKERS = 250_000  # 10^9 rows in shards of 4096 are 244,141
_QUIET = Screen(quiet=True)
_ARRAYS = {name: ArraySpec(SHAPE, "float16") for name in ("mean", "logvar")} | {"state": ArraySpec((), "uint8")}


@dataclass(frozen=True)
class Sleeping:
    """An encoder that only takes its time, in seconds a shard."""

    seconds: float

    def load(self) -> Any:
        def work(shard: int) -> int:
            time.sleep(self.seconds)
            return 1

        return work


@dataclass(frozen=True)
class Computing:
    """Matrix products, so many a shard, on one thread."""

    products: int

    def load(self) -> Any:
        a = torch.ones(256, 256) / 256

        def work(shard: int) -> int:
            x = a
            for _ in range(self.products):
                x = x @ a
            return 1

        return work


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="gensys-simulate-", dir=os.environ.get("TMPDIR")))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _seconds(call: Any) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def handouts(session: Session, actors: int, shards: int, seconds: float) -> dict[str, Any]:
    """Shards a second that one driver hands out to actors that sleep `seconds` over each."""
    pool = Pool(actors, session, cpus=0)
    try:
        pool.map(Sleeping(0.0), range(4 * actors), lambda rows: None)  # all are up
        process = psutil.Process()
        cpu, taken = process.cpu_times(), _seconds(lambda: pool.map(Sleeping(seconds), range(shards), lambda r: None))
        used = process.cpu_times()
    finally:
        pool.close()
    return {
        "actors": actors,
        "sleep": seconds,
        "shards": shards,
        "per_second": shards / taken,
        "driver_cpu_per_shard": (used.user + used.system - cpu.user - cpu.system) / shards,
    }


def commits(rows: int, count: int) -> dict[str, Any]:
    """Seconds to commit a shard of latents, and to write as many bytes to one file and flush it."""
    with _folder() as folder:
        store = Store.create(folder / "s.zarr", _ARRAYS, rows * count, rows, CHUNK, {})
        block = np.random.default_rng(0).standard_normal((rows, *SHAPE)).astype(np.float16)
        arrays = {"mean": block, "logvar": block, "state": np.zeros(rows, np.uint8)}
        taken = [_seconds(lambda k=k: store.commit(k, arrays)) for k in range(count)]
        data = block.tobytes() * 2

        def plain(k: int) -> None:
            with open(folder / f"plain{k}", "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

        bare = [_seconds(lambda k=k: plain(k)) for k in range(count)]
        reading = _seconds(lambda: channel_statistics(store))
        checking = _seconds(store.verify)
    return {
        "rows": rows,
        "bytes": len(data),
        "commit_seconds": statistics.median(taken),
        "write_seconds": statistics.median(bare),
        "statistics_bytes_per_second": len(data) * count / reading,
        "verify_bytes_per_second": len(data) * count / checking,
    }


def markers(count: int) -> dict[str, Any]:
    """Seconds to look what is committed in a store of so many shards, to seal it, and to open it sealed."""
    with _folder() as folder:
        store = Store.create(folder / "s.zarr", {"x": ArraySpec((), "uint8")}, count, 1, 1, {})
        digests = {"x": "1" * 32}  # zeros would mean that it is not there
        record = {"rows": 1, "fingerprint": store.fingerprint, "digests": digests}
        for shard in range(count):
            marker = store.marker(shard)
            if shard % 1000 == 0:
                marker.parent.mkdir(parents=True)
            marker.write_text(json.dumps({"shard": shard, **record}, sort_keys=True))
        before = psutil.Process().memory_info().rss
        scan = [_seconds(store.missing) for _ in range(3)]
        grown = psutil.Process().memory_info().rss - before
        sealing = _seconds(lambda: store.seal({}))
        opening = _seconds(lambda: Store.open(folder / "s.zarr").content())
    return {
        "shards": count,
        "first_scan_seconds": scan[0],
        "scan_seconds": statistics.median(scan),
        "scan_memory_bytes": max(grown, 0),
        "seal_seconds": sealing,
        "open_seconds": opening,
    }


def efficiency(session: Session, quick: bool) -> dict[str, Any]:
    """Encoding and sampling: seconds with one worker and with two, one thread each."""
    found: dict[str, Any] = {}
    with _folder() as folder:
        tiny = {"budget": "64", "batch": "16", "precision": "fp32", "width": "8" if quick else "64"}
        codec, flow = RunFolder(folder / "codec"), RunFolder(folder / "flow")
        train(codec, resolve("kl_autoencoder", {"data": "mnist", **tiny}), workers=0, fresh=False, screen=_QUIET)
        encode(codec, folder / "z.zarr", data=None, shard=None, workers=0, screen=_QUIET)
        tiny |= {"data": str(folder / "z.zarr"), "width": "16" if quick else "128"}
        train(flow, resolve("latent_dit", tiny), workers=0, fresh=False, screen=_QUIET)
        count = 256 if quick else 2048

        def encoding(pool: Pool, out: Path) -> None:
            encode(codec, out, data=None, shard=128, workers=0, screen=_QUIET, pool=pool)

        def sampling(pool: Pool, out: Path) -> None:
            more = {"seed": 0, "label": None, "overrides": {}, "shard": 64, "workers": 0}
            sample(flow, out, ids=range(count), screen=_QUIET, pool=pool, **more)

        for name, job in (("encode", encoding), ("sample", sampling)):
            taken = {}
            for workers in (1, 2):
                pool = Pool(workers, session, cpus=0)
                job(pool, folder / f"{name}-{workers}-first.zarr")  # the worker has loaded and touched all it needs
                taken[workers] = _seconds(lambda n=name, w=workers, p=pool, j=job: j(p, folder / f"{n}-{w}.zarr"))
                pool.close()
            found[name] = {"one": taken[1], "two": taken[2], "gain": taken[1] / taken[2]}
    return found


def overhead(session: Session, seconds: float) -> dict[str, Any]:
    """Shards of `seconds` of computing: in this process, and by one worker. In turns, the faster of two each."""
    torch.set_num_threads(1)
    probe = Computing(2000).load()
    products = max(1, round(2000 * seconds / _seconds(lambda: probe(0))))
    job, pool, bare = Computing(products), Pool(1, session, cpus=0), Pool(0)
    pool.map(job, [0], lambda rows: None)
    taken: dict[str, list[float]] = {"bare": [], "ray": []}
    for _ in range(2):
        taken["bare"].append(_seconds(lambda: bare.map(job, [0, 1], lambda rows: None)))
        taken["ray"].append(_seconds(lambda: pool.map(job, [0, 1], lambda rows: None)))
    pool.close()
    loop, ray = min(taken["bare"]), min(taken["ray"])
    return {"shard_seconds": loop / 2, "bare": loop, "ray": ray, "overhead": ray / loop - 1}


def measure(quick: bool) -> dict[str, Any]:
    """All of it. quick: tiny, to see that it works; the figures then mean nothing."""
    shards = 200 if quick else 2000
    with Session(max(ACTORS)) as session:
        session.ready()
        document: dict[str, Any] = {
            "quick": quick,
            "machine": {"cores": cores(), "load": os.getloadavg()[0], **environment()},
            "handouts": [handouts(session, n, shards, 0.0) for n in (ACTORS[:2] if quick else ACTORS)],
            "busy": handouts(session, ACTORS[-1], shards // 5, 0.02),
            "overhead": overhead(session, 0.2 if quick else 10.0),
            "efficiency": efficiency(session, quick),
        }
    document["commits"] = [commits(rows, 2 if quick else 5) for rows in ((64,) if quick else (256, 1024, 4096))]
    document["markers"] = markers(2000 if quick else MARKERS)
    return {**document, "driver_bytes": psutil.Process().memory_info().rss, "load_after": os.getloadavg()[0]}


@click.command()
@click.option("--json", "target", type=click.Path(path_type=Path), required=True, help="Where the figures go.")
@click.option("--quick", is_flag=True, help="Tiny, to see that it works: the figures mean nothing.")
def main(target: Path, quick: bool) -> None:
    """Measure what docs/scaling.py extrapolates from."""
    target.write_text(json.dumps(measure(quick), indent=2) + "\n")


if __name__ == "__main__":
    from gensys.pipelines.simulate import main as program  # workers import its jobs by this name

    program()
