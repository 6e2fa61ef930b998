"""Several drivers fill one store: what they tell each other saves work, and nothing depends on it."""

import json
import multiprocessing
import time

import numpy as np
import pytest

from gensys.data.leases import Leases
from gensys.data.store import ArraySpec, Store

SHARDS = 24


def create(path):
    return Store.create(path, {"x": ArraySpec((4,), "int64")}, SHARDS * 2, 2, 2, {})


def make(store, shard):
    store.commit(shard, {"x": np.outer(store.rows_of(shard), [1, 2, 3, 4])})


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture
def quiet(tmp_path):
    store = create(tmp_path / "quiet.zarr")
    for shard in store.missing():
        make(store, shard)
    store.seal({})
    return files(store.path)


def drive(path, name, barrier, made):
    """What a driver with one slow worker does."""
    store = create(path)
    leases = Leases(store, 1, name=name, every=0.0)
    barrier.wait()
    for shard in leases.hand_out(store.missing()):
        time.sleep(0.02)
        make(store, shard)
        made.value += 1
    leases.close()
    store.seal({})


@pytest.mark.parametrize("names", [("0", "c"), ("5", "5d")])  # from opposite places; from one and the same
def test_two_drivers_share_the_work(tmp_path, quiet, names):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["zarr", "torch", "gensys.data.store"])
    barrier, counts = context.Barrier(2), [context.Value("i", 0) for _ in names]
    pair = [
        context.Process(target=drive, args=(tmp_path / "s.zarr", name, barrier, count))
        for name, count in zip(names, counts, strict=True)
    ]
    for process in pair:
        process.start()
    for process in pair:
        process.join(120)
        assert process.exitcode == 0
    total = sum(count.value for count in counts)
    assert SHARDS <= total <= SHARDS * 5 // 4  # without hints, both make everything: 48
    assert files(tmp_path / "s.zarr") == quiet


def test_a_lone_driver_does_everything_once(tmp_path):
    store = create(tmp_path / "s.zarr")
    leases = Leases(store, 3, name="7")
    handed = list(leases.hand_out(store.missing()))
    assert sorted(handed) == list(range(SHARDS))
    assert handed[0] == 7
    leases.close()
    assert list(Leases(store, 1).hand_out([])) == []
    assert not (store.path / "digests" / "leases").exists()


def test_what_another_is_at_comes_last_and_what_it_committed_not_at_all(tmp_path):
    store, other = create(tmp_path / "s.zarr"), create(tmp_path / "s.zarr")
    theirs = Leases(other, 3, name="0", every=0.0).hand_out(range(SHARDS))
    assert [next(theirs), next(theirs), next(theirs)] == [0, 1, 2]
    make(other, 1)
    ours = list(Leases(store, 1, name="18", every=0.0).hand_out(range(SHARDS)))
    assert ours == [*range(3, SHARDS), 0, 2]


@pytest.mark.parametrize(
    "word",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"shards": 3, "until": 1e30}',
        b'{"shards": [[1]], "until": 1050}',
        b'{"shards": [0, 1], "until": "soon"}',
        b'{"shards": [0, 1], "until": 999}',  # over
        b'{"shards": [0, 1], "until": 1e12}',  # of a broken clock
        b'{"until": 1050}',
        b"\xff\xfe",
    ],
)
def test_garbage_and_stale_leases_change_nothing(tmp_path, word):
    store = create(tmp_path / "s.zarr")
    store.place.replace("digests/leases/dead.json", word)
    handed = list(Leases(store, 1, name="0", clock=lambda: 1000.0).hand_out(range(SHARDS)))
    assert handed == list(range(SHARDS))


def test_a_lease_on_everything_changes_the_order_only(tmp_path, quiet):
    """Of a driver that died, or lies."""
    store = create(tmp_path / "s.zarr")
    word = {"shards": [*range(-5, 1000), "x"], "until": time.time() + 500}
    store.place.replace("digests/leases/dead.json", json.dumps(word).encode())
    leases = Leases(store, 1)
    for shard in leases.hand_out(store.missing()):
        make(store, shard)
    leases.close()
    store.seal({})
    assert files(store.path) == quiet
