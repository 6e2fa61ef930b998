"""How far one driver goes: `python pipelines/simulate.py --json FILE [--only PART ...]`, for docs/scaling.py.

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
from collections.abc import Iterator, Sequence
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

from gensys.data import layout
from gensys.data.channel_moments import MOMENTS, moments_spec, shard_moments
from gensys.data.latents import statistics as channel_statistics
from gensys.data.store import ArraySpec, Store
from gensys.doctor import cores, environment
from gensys.durable import digest
from gensys.progress import Screen
from gensys.run import resolve
from gensys.run_folder import RunFolder

__all__ = ["Computing", "Sleeping", "measure"]

SHAPE = (4, 32, 32)  # latents of 256 x 256 images at a factor of 8
CHUNK = 64
ACTORS = (1, 2, 4, 8)
PARTS = ("handouts", "overhead", "encode", "sample", "commits", "markers")
TURNS = 5
WIDTHS = {"encode": "128", "sample": "64"}  # of the codec: for about half a minute of one worker's work
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
    """Seconds to take a shard's moments, to commit it, and to write as many bytes to one file and flush it."""
    with _folder() as folder:
        store = Store.create(folder / "s.zarr", _ARRAYS, rows * count, rows, CHUNK, {}, moments_spec(_ARRAYS))
        block = np.random.default_rng(0).standard_normal((rows, *SHAPE)).astype(np.float16)
        arrays = {"mean": block, "logvar": block, "state": np.zeros(rows, np.uint8)}
        summing = [_seconds(lambda k=k: shard_moments(store, k, arrays)) for k in range(count)]
        arrays[MOMENTS] = shard_moments(store, 0, arrays)[None]
        taken = [_seconds(lambda k=k: store.commit(k, arrays)) for k in range(count)]
        data = block.tobytes() * 2

        def plain(k: int) -> None:
            with open(folder / f"plain{k}", "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

        bare = [_seconds(lambda k=k: plain(k)) for k in range(count)]
        checking = _seconds(store.verify)
    return {
        "rows": rows,
        "bytes": len(data),
        "commit_seconds": statistics.median(taken),
        "write_seconds": statistics.median(bare),
        "moments_seconds": statistics.median(summing),
        "verify_bytes_per_second": len(data) * count / checking,
    }


def markers(count: int) -> dict[str, Any]:
    """Seconds to look what is committed in a store of so many shards, to merge the moments of all of them, to seal it,
    and to open it sealed. Of the shards' files only the moments are there, which are all that sealing reads.
    """
    with _folder() as folder:
        spec = moments_spec(_ARRAYS)
        store = Store.create(folder / "s.zarr", {"x": ArraySpec((), "uint8")}, count, 1, 1, {}, spec)
        moments = layout.encode(spec[MOMENTS], 1, 1, np.ones((1, *spec[MOMENTS].shape)))
        digests = {"x": "1" * 32, MOMENTS: digest(moments)}  # zeros would mean that it is not there
        record = {"rows": 1, "fingerprint": store.fingerprint, "digests": digests}
        for shard in range(count):
            marker = store.marker(shard)
            if shard % 1000 == 0:
                marker.parent.mkdir(parents=True)
            marker.write_text(json.dumps({"shard": shard, **record}, sort_keys=True))
            store.file(MOMENTS, shard).write_bytes(moments)
        before = psutil.Process().memory_info().rss
        scan = [_seconds(store.missing) for _ in range(3)]
        grown = psutil.Process().memory_info().rss - before
        merging = _seconds(lambda: channel_statistics(store))
        sealing = _seconds(lambda: store.seal({}))
        opening = _seconds(lambda: Store.open(folder / "s.zarr").content())
    return {
        "shards": count,
        "first_scan_seconds": scan[0],
        "scan_seconds": statistics.median(scan),
        "scan_memory_bytes": max(grown, 0),
        "merge_seconds": merging,
        "seal_seconds": sealing,
        "open_seconds": opening,
    }


def efficiency(session: Session, quick: bool, verb: str) -> dict[str, Any]:
    """Seconds to encode or to sample with one worker and with two, one thread each; in turns, and the median of each.

    The gain is the median of those of the turns, which a change of the machine's load between two turns leaves alone.
    """
    with _folder() as folder:
        tiny = {"budget": "64", "batch": "16", "precision": "fp32", "width": "8" if quick else WIDTHS[verb]}
        codec, flow = RunFolder(folder / "codec"), RunFolder(folder / "flow")
        train(codec, resolve("kl_autoencoder", {"data": "mnist", **tiny}), workers=0, fresh=False, screen=_QUIET)
        count = 256 if quick else 1024

        def encoding(pool: Pool, out: Path) -> None:
            encode(codec, out, data=None, shard=128, workers=0, screen=_QUIET, pool=pool)

        def sampling(pool: Pool, out: Path) -> None:
            more = {"seed": 0, "label": None, "overrides": {}, "shard": 64, "workers": 0}
            sample(flow, out, ids=range(count), screen=_QUIET, pool=pool, **more)

        if verb == "sample":
            encode(codec, folder / "z.zarr", data=None, shard=None, workers=0, screen=_QUIET)
            tiny |= {"data": str(folder / "z.zarr"), "width": "16" if quick else "128"}
            train(flow, resolve("latent_dit", tiny), workers=0, fresh=False, screen=_QUIET)
        job = encoding if verb == "encode" else sampling
        pools = {workers: Pool(workers, session, cpus=0) for workers in (1, 2)}
        taken: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(1 if quick else 1 + TURNS):
            for workers, pool in pools.items():
                out = folder / f"{turn}-{workers}.zarr"
                taken[workers].append(_seconds(lambda p=pool, o=out: job(p, o)))
                shutil.rmtree(out)
        for pool in pools.values():
            pool.close()
    one, two = (taken[workers] if quick else taken[workers][1:] for workers in (1, 2))  # at first a worker loads
    gains = [a / b for a, b in zip(one, two, strict=True)]
    median = statistics.median
    return {"one": median(one), "two": median(two), "gain": median(gains), "gains": gains}


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


def measure(quick: bool, only: Sequence[str] = PARTS) -> dict[str, Any]:
    """The parts named, and the machine. quick: tiny, to see that it works; the figures then mean nothing."""
    shards = 200 if quick else 2000
    load: dict[str, float] = {}
    document: dict[str, Any] = {"quick": quick, "machine": {"cores": cores(), **environment()}, "load": load}

    def asked(part: str) -> bool:
        if part in only:
            load[part] = os.getloadavg()[0]
        return part in only

    with Session(max(ACTORS)) as session:
        session.ready()
        if asked("handouts"):
            document["handouts"] = [handouts(session, n, shards, 0.0) for n in (ACTORS[:2] if quick else ACTORS)]
            document["busy"] = handouts(session, ACTORS[-1], shards // 5, 0.02)
        if asked("overhead"):
            document["overhead"] = overhead(session, 0.2 if quick else 10.0)
        for verb in ("encode", "sample"):
            if asked(verb):
                document[verb] = efficiency(session, quick, verb)
    if asked("commits"):
        document["commits"] = [commits(rows, 2 if quick else 5) for rows in ((64,) if quick else (256, 1024, 4096))]
    if asked("markers"):
        document["markers"] = markers(2000 if quick else MARKERS)
        document["driver_bytes"] = psutil.Process().memory_info().rss
    return document


@click.command()
@click.option("--json", "target", type=click.Path(path_type=Path), required=True, help="Where the figures go.")
@click.option("--quick", is_flag=True, help="Tiny, to see that it works: the figures mean nothing.")
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="Measure this part, and keep FILE's others.")
def main(target: Path, quick: bool, only: Sequence[str]) -> None:
    """Measure what docs/scaling.py extrapolates from."""
    before = json.loads(target.read_text()) if only else {}
    now = measure(quick, only or PARTS)
    now["load"] = before.get("load", {}) | now["load"]
    target.write_text(json.dumps(before | now, indent=2) + "\n")


if __name__ == "__main__":
    from gensys.pipelines.simulate import main as program  # workers import its jobs by this name

    program()
