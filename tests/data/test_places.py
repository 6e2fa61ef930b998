"""The same store wherever its files lie: in a directory, in memory, and in a bucket of an imitation of S3 (moto)."""

import itertools
import multiprocessing
import os
import sys
import uuid

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from gensys.commands.verify import verify
from gensys.data.cache import Cache, default_cache
from gensys.data.objects import ObjectPlace
from gensys.data.place import LocalPlace, open_place
from gensys.data.store import ArraySpec, Store
from gensys.durable import digest
from gensys.errors import ConfigError, NondeterminismError, StoreError

ARRAYS = {"x": ArraySpec((2, 3), "float16"), "label": ArraySpec((), "int64")}
ROWS, SHARD, CHUNK = 35, 4, 2


def content(rows):
    rows = np.asarray(rows, np.int64)
    return {"x": (rows[:, None, None] / 4 + np.arange(6).reshape(2, 3)).astype("f2"), "label": rows % 7}


def produce(where):
    store = Store.create(where, ARRAYS, ROWS, SHARD, CHUNK, {"a": 1})
    published = [store.commit(k, content(store.rows_of(k))) for k in store.missing()]
    store.seal({"b": 2})
    return sum(published)


def produce_in_process(where, barrier, published, environment):
    os.environ.update(environment)  # a fork server that other tests have started has that of its start
    barrier.wait()
    published.value = produce(where)


@pytest.fixture(params=["directory", "memory", "s3"])
def where(request, tmp_path, monkeypatch):
    """Where a new store may be made."""
    monkeypatch.setenv("GENSYS_CACHE", str(tmp_path / "cache"))
    if request.param == "directory":
        return str(tmp_path / "s.zarr")
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}/s.zarr"
    from obstore.store import MemoryStore

    memory = ObjectPlace(MemoryStore(), "memory://s.zarr", default_cache())
    opened = lambda where: memory if where == str(memory) else open_place(where)  # noqa: E731
    monkeypatch.setattr("gensys.data.store.open_place", opened)
    return str(memory)


@pytest.fixture
def truth(tmp_path):
    """Every file of a store in a directory that was made without disturbance."""
    produce(tmp_path / "truth.zarr")
    return contents(LocalPlace(tmp_path / "truth.zarr"))


def contents(place):
    names = [name for array in (*ARRAYS, "digests") for name in place.list(array)]
    return {name: place.read(name) for name in ["zarr.json", *names]}


def test_a_store_is_the_same_anywhere(where, truth):
    assert produce(where) == 9
    assert produce(where) == 0
    store = Store.open(where)
    assert contents(store.place) == truth
    assert store.sealed
    assert store.missing() == []
    assert store.verify() == []
    assert store.attributes == {"a": 1, "b": 2}
    rows = [34, 0, 3, 4, 17, 17]
    for name, wanted in content(rows).items():
        np.testing.assert_array_equal(store.read(name, rows), wanted)
    assert Store.create(where, ARRAYS, ROWS, SHARD, CHUNK, {"a": 1}).fingerprint == store.fingerprint
    with pytest.raises(StoreError, match="'rows' is 35 there and 36 here"):
        Store.create(where, ARRAYS, 36, SHARD, CHUNK, {"a": 1})


def test_nothing_is_there(where):
    with pytest.raises(StoreError, match="nothing is there"):
        Store.open(where)


def test_a_place_with_something_else(where):
    store = Store.create(where, ARRAYS, ROWS, SHARD, CHUNK, {})
    store.place.replace("thesis.tex", b"years of work")
    store.place.remove(["zarr.json"])
    with pytest.raises(StoreError, match=r"it holds no zarr\.json"):
        Store.create(where, ARRAYS, ROWS, SHARD, CHUNK, {})


def test_damage_is_found_and_repaired(where, truth):
    produce(where)
    store = Store.open(where)
    place, first, second = store.place, store.shard_file("x", 2), store.shard_file("label", 5)
    data = bytearray(place.read(first))
    data[3] ^= 1
    place.replace(first, bytes(data))
    place.remove([second])
    place.replace("label/zarr.json", b"{}")
    found = store.verify()
    assert [(p.shard, p.array) for p in found] == [(2, "x"), (5, "label"), (None, "label")]
    assert store.repair(found) == store.missing() == [2, 5]
    assert not store.sealed
    assert produce(where) == 2
    assert contents(place) == truth


def test_writers_that_disagree(where, truth):
    produce(where)
    store, late = Store.open(where), content(range(4))
    late["label"][1] += 1
    answers = iter([False])
    with pytest.MonkeyPatch.context() as patch:
        real = Store.committed
        patch.setattr(Store, "committed", lambda self, shard: next(answers, None) or real(self, shard))
        with pytest.raises(NondeterminismError, match="'label' came out different"):
            store.commit(0, late)
    assert store.commits.publish(0, store.record(0)["digests"]) is False
    assert contents(store.place) == truth


def test_the_primitives(where):
    place = Store.create(where, ARRAYS, ROWS, SHARD, CHUNK, {}).place
    assert not place.vacant()
    assert place.publish("x/a", b"1")
    assert not place.publish("x/a", b"2")
    assert place.read("x/a") == b"1"
    place.replace("x/a", b"3")
    place.replace("x/b/c", b"4")
    assert (place.measure("x/a"), place.measure("x/none")) == ((1, digest(b"3")), None)
    with place.open("x/a", digest(b"3")) as file:
        assert file.read() == b"3"
    assert (place.exists("x/a"), place.exists("x/none")) == (True, False)
    assert sorted(place.list("x")) == ["x/a", "x/b/c", "x/zarr.json"]
    assert list(place.list("none")) == []
    place.remove(["x/a", "x/b/c", "x/none"])
    assert sorted(place.list("x")) == ["x/zarr.json"]
    with pytest.raises(FileNotFoundError):
        place.read("x/a")


def test_clearing_leaves_nothing_of_a_store_and_all_of_others(where, truth):
    produce(where)
    store = Store.open(where)
    store.place.clear()
    assert store.place.vacant()
    store.place.clear()
    assert produce(where) == 9
    assert contents(store.place) == truth


def test_a_clearing_that_is_cut_leaves_a_store_to_be_filled(tmp_path, monkeypatch, truth):
    """Cut after every single object, of a store whose shards are committed."""
    from obstore.store import MemoryStore

    class Cut:
        def __init__(self):
            self._store, self.left = MemoryStore(), 0

        def __getattr__(self, name):
            return getattr(self._store, name)

        def delete(self, names):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return self._store.delete(names)

    monkeypatch.setattr("gensys.data.objects._BATCH", 1)
    for count in itertools.count():
        place = ObjectPlace(Cut(), "memory://s.zarr", Cache(tmp_path / "cache", 1 << 20))
        with monkeypatch.context() as patch:
            patch.setattr("gensys.data.store.open_place", lambda where, place=place: place)
            store = Store.create("memory://s.zarr", ARRAYS, ROWS, SHARD, CHUNK, {"a": 1})
            for shard in store.missing():
                store.commit(shard, content(store.rows_of(shard)))
            place._store.left = count
            try:
                place.clear()
            except KeyboardInterrupt:
                place._store.left = 1 << 30
                produce("memory://s.zarr")
                assert contents(place) == truth
                assert Store.open("memory://s.zarr").verify() == []
            else:
                break
    assert count > 30
    assert place.vacant()


def test_the_command_line_verifies_a_bucket(bucket):
    where = f"{bucket}/{uuid.uuid4().hex}/s.zarr"
    produce(where)
    Store.open(where).place.remove(["label/c.3"])
    result = CliRunner().invoke(verify, [where])
    assert f"{where}: 1 problem" in result.output
    assert f"gensys verify {where} --repair" in result.output
    assert "taken back: 1 shard." in CliRunner().invoke(verify, [where, "--repair"]).output
    assert produce(where) == 1
    assert f"{where}: 35 rows in 9 shards, all well (sealed)" in CliRunner().invoke(verify, [where]).output


def test_processes_that_race_for_a_bucket(bucket, truth):
    """Every shard is published exactly once, by whichever process, and the store is the one of a quiet run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["zarr", "torch", "gensys.data.store"])
    where = f"{bucket}/{uuid.uuid4().hex}/race.zarr"
    barrier, counts = context.Barrier(3), [context.Value("i", -1) for _ in range(3)]
    racing = [
        context.Process(target=produce_in_process, args=(where, barrier, count, dict(os.environ))) for count in counts
    ]
    for process in racing:
        process.start()
    for process in racing:
        process.join(120)
        assert process.exitcode == 0
    store = Store.open(where)
    assert store.verify() == []
    assert contents(store.place) == truth
    assert sum(count.value for count in counts) == 9
    group = zarr.open_group(store=zarr.storage.ObjectStore(store.place._store, read_only=True), mode="r")
    np.testing.assert_array_equal(group["x"][:], content(range(ROWS))["x"])


class Faulty:
    """A store of obstore whose puts fail as a network does: before they arrive, or with the answer lost."""

    def __init__(self, store, arrives):
        self._store, self._arrives, self.left, self.failed = store, arrives, 0, 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    def put(self, *arguments, **options):
        from obstore.exceptions import GenericError

        self.left -= 1
        if self.left >= 0:
            return self._store.put(*arguments, **options)
        if self._arrives:
            self._store.put(*arguments, **options)
        self.failed += 1
        raise GenericError("connection reset by peer")


@pytest.mark.parametrize("arrives", [False, True])
def test_puts_that_fail_half_way(tmp_path, monkeypatch, truth, arrives):
    """At every put in turn: an error that names the store, nothing torn, and the same command goes on."""
    from obstore.store import MemoryStore

    faulty = Faulty(MemoryStore(), arrives)
    cache = Cache(tmp_path / "cache", 1 << 20)
    monkeypatch.setattr("gensys.data.store.open_place", lambda where: ObjectPlace(faulty, str(where), cache))
    failures = 0
    while True:
        faulty.left = failures
        try:
            produce("memory://s.zarr")
        except StoreError as raised:
            error = str(raised)
        else:
            break
        assert "memory://s.zarr" in error
        assert "connection reset by peer" in error
        failures += 1
    assert failures >= 3
    assert contents(ObjectPlace(faulty, "", cache)) == truth


def test_another_is_faster(tmp_path):
    """A replacement that loses looks again, and gives up when it always does."""
    from obstore.store import MemoryStore

    class Contested(Faulty):
        def put(self, name, data, mode):
            if self.left > 0 and isinstance(mode, dict):
                self.left -= 1
                self._store.put(name, b"other")
            return self._store.put(name, data, mode=mode)

    contested = Contested(MemoryStore(), False)
    place = ObjectPlace(contested, "memory://s.zarr", Cache(tmp_path, 100))
    place.replace("a", b"1")
    contested.left = 3
    place.replace("a", b"2")
    assert place.read("a") == b"2"
    contested.left = 100
    with pytest.raises(OSError, match="written by others"):
        place.replace("a", b"3")


# -- URLs and the cache -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["s3://bucket", "s3://", "s3:///x", "gs://b/", "ftp://a/b", "http://a/b"])
def test_bad_urls(where):
    with pytest.raises(StoreError, match=r"s3://bucket/path\.zarr|no place for a store"):
        open_place(where)


def test_the_library_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(StoreError, match=r"needs obstore, not installed here: pip install 'gensys\[objects\]'"):
        open_place("s3://bucket/s.zarr")


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with pytest.raises(StoreError, match=r"s3://bucket/s\.zarr"):  # plain http was not allowed
        Store.open("s3://bucket/s.zarr")


def test_the_cache_is_bounded_and_shared(tmp_path):
    cache, fetched = Cache(tmp_path, 25), []

    def fetch(data):
        def call():
            fetched.append(data)
            return data

        return call

    def get(data):
        with cache.open(digest(data), fetch(data)) as file:
            assert file.read() == data

    for data in (b"a" * 10, b"b" * 10, b"a" * 10):
        get(data)
    assert len(fetched) == 2
    os.utime(tmp_path / digest(b"b" * 10)[:2] / digest(b"b" * 10), (1, 1))  # used longest ago
    get(b"c" * 10)
    assert len(fetched) == 3
    get(b"a" * 10)
    assert len(fetched) == 3
    get(b"b" * 10)
    assert len(fetched) == 4
    get(b"d" * 50)  # larger than all of it: kept until the next one comes
    assert [p.stat().st_size for p in tmp_path.glob("*/*")] == [50]
    with pytest.raises(StoreError, match="not what was committed"):
        cache.open(digest(b"e"), lambda: b"f")
    assert len(list(tmp_path.glob("*/*"))) == 1


def test_a_cache_of_a_bad_size(monkeypatch):
    monkeypatch.setenv("GENSYS_CACHE_BYTES", "lots")
    with pytest.raises(ConfigError, match="GENSYS_CACHE_BYTES must be a number of bytes, got 'lots'"):
        default_cache()
