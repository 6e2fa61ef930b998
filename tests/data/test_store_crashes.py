"""Writers that are killed: whatever is left, the next ones finish the store, and its bytes are those of a quiet run."""

import itertools
import multiprocessing
import os
import random
import resource
import signal
import time

import numpy as np
import pytest
from fatal import Fatal

from gensys.data.store import ArraySpec, Store
from gensys.errors import StoreError

ARRAYS = {"x": ArraySpec((3, 8), "float32"), "label": ArraySpec((), "int64")}
ROWS, SHARD, CHUNK = 19, 8, 4
# every way in which something becomes visible, durable or gone
POINTS = ("fsync", "link", "rename", "replace", "mkdir", "unlink", "rmdir")


def content(rows):
    rows = np.asarray(rows, np.int64)
    return {"x": np.sin(rows[:, None, None] + np.arange(24).reshape(3, 8)).astype("f4"), "label": rows % 10}


def produce(path, shards=None):
    """What an encoding process does; returns how many shards it published."""
    store = Store.create(path, ARRAYS, ROWS, SHARD, CHUNK, {"a": 1})
    published = 0
    for shard in store.missing() if shards is None else shards:
        published += store.commit(shard, content(store.rows_of(shard)))
    store.seal({"b": 2})
    return published


def mend(path):
    """What `gensys verify --repair` does, and the command that made the store after it."""
    Store.open(path).repair()
    return produce(path)


def die_at(path, point, counter, work=produce):
    """Work, and be killed at the `point`-th system call that matters; returns having counted them if it lives."""
    fatal = Fatal(point)
    fatal.wrap_system(POINTS)
    work(path)
    counter.value = fatal.calls


def produce_together(path, shards, barrier, published):
    barrier.wait()
    published.value = produce(path, shards)


def limited(path, limit, said):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        produce(path)
    except StoreError as error:
        said.value = str(error).encode()


@pytest.fixture(scope="module")
def processes():
    """Forks of a server that has imported all it needs: a process costs milliseconds instead of seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["zarr", "torch", "gensys.data.store"])
    return context


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    path = tmp_path_factory.mktemp("quiet") / "s.zarr"
    produce(path)
    return files(path)


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def run(process):
    process.start()
    process.join(60)
    code = process.exitcode
    process.close()
    return code


def check(path, quiet):
    """A store that was left at any instant is fit to go on with."""
    if path.exists():
        store = Store.open(path)
        assert all("not committed" in str(problem) for problem in store.verify())
        for shard in store.done():
            rows = store.rows_of(shard)
            np.testing.assert_array_equal(store.read("x", rows), content(rows)["x"])
        if store.sealed:
            assert store.missing() == []
    produce(path)
    assert Store.open(path).verify() == []
    assert files(path) == quiet
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.slow
def test_killed_at_every_point(tmp_path, processes, quiet):
    """Before each call that makes something visible or durable: a process for every one of the 60 or so."""
    counter = processes.Value("i", -1)
    (tmp_path / "whole").mkdir()
    assert run(processes.Process(target=die_at, args=(tmp_path / "whole" / "s.zarr", -1, counter))) == 0
    assert counter.value > 40
    for point in range(counter.value):
        folder = tmp_path / str(point)
        folder.mkdir()
        assert run(processes.Process(target=die_at, args=(folder / "s.zarr", point, counter))) == -signal.SIGKILL
        check(folder / "s.zarr", quiet)


@pytest.mark.slow
def test_repair_killed_at_many_points(tmp_path, processes, quiet):
    """Of a sealed store with a damaged shard: repairing again, after a kill at any instant, mends it."""
    counter, kills, damaged = processes.Value("i", -1), 0, [1]
    for point in itertools.count(step=5):
        path = tmp_path / str(point) / "s.zarr"
        produce(path)
        for shard in damaged:
            os.truncate(Store.open(path).file("x", shard), 50)
        if run(processes.Process(target=die_at, args=(path, point, counter, mend))) == 0:
            break
        kills += 1
        store = Store.open(path)
        if store.sealed:
            assert store.missing() == []
        intact = set(range(3)) - set(damaged)
        assert intact <= store.done()  # what is whole stays committed
        mend(path)
        assert files(path) == quiet
        assert store.verify() == []
    assert kills == -(-counter.value // 5) > 5
    assert files(path) == quiet


def test_killed_at_random_over_and_over(tmp_path, processes, quiet):
    """One store, writers that live for some milliseconds each, until one gets to the end."""
    path, kills, clock = tmp_path / "s.zarr", 0, random.Random(0)
    while not (path.exists() and Store.open(path).sealed):
        process = processes.Process(target=produce, args=(path,))
        process.start()
        time.sleep(clock.uniform(0.01, 0.05 + 0.01 * kills))
        process.kill()
        process.join()
        process.close()
        kills += 1
        if path.exists():
            assert all("not committed" in str(problem) for problem in Store.open(path).verify())
    assert kills >= 2
    assert files(path) == quiet


def test_two_writers_of_everything(tmp_path, processes, quiet):
    shards = range(3)
    for attempt in range(4):
        path = tmp_path / str(attempt) / "s.zarr"
        barrier, counts = processes.Barrier(2), [processes.Value("i", 0) for _ in range(2)]
        orders = (list(shards), list(shards) if attempt % 2 else list(reversed(shards)))
        pair = [
            processes.Process(target=produce_together, args=(path, order, barrier, count))
            for order, count in zip(orders, counts, strict=True)
        ]
        for process in pair:
            process.start()
        for process in pair:
            process.join(60)
            assert process.exitcode == 0
        assert sum(count.value for count in counts) == len(shards)  # each was published exactly once
        assert files(path) == quiet


def test_two_sealers(tmp_path, processes, quiet):
    for attempt in range(4):
        path = tmp_path / str(attempt) / "s.zarr"
        store = Store.create(path, ARRAYS, ROWS, SHARD, CHUNK, {"a": 1})
        for shard in store.missing():
            store.commit(shard, content(store.rows_of(shard)))
        barrier, counts = processes.Barrier(2), [processes.Value("i", -1) for _ in range(2)]
        pair = [processes.Process(target=produce_together, args=(path, [], barrier, count)) for count in counts]
        for process in pair:
            process.start()
        for process in pair:
            process.join(60)
            assert process.exitcode == 0
        assert [count.value for count in counts] == [0, 0]
        assert files(path) == quiet


def test_a_limit_on_file_size(tmp_path, processes, quiet):
    """The real system call fails in the middle of a file, as it does on a full disk."""
    path, said = tmp_path / "s.zarr", processes.Array("c", 2000)
    produce_shard = 8 * 24 * 4
    Store.create(path, ARRAYS, ROWS, SHARD, CHUNK, {"a": 1})
    assert run(processes.Process(target=limited, args=(path, produce_shard - 100, said))) == 0
    assert b"s.zarr" in said.value
    assert b"File too large" in said.value
    assert Store.open(path).done() == set()
    check(path, quiet)
