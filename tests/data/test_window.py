"""Reading through memory maps: as fast as one file is for the bench to show; here, that memory stays flat."""

import gc
import multiprocessing
import resource
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from gensys.data import store as store_module
from gensys.data.store import ArraySpec, Store
from gensys.errors import StoreError

SHARD, CHUNK, ROW = 64, 64, 4096


def sparse(path, shards):
    """A store whose shard files are holes but for the first number of each row and the index: made in no time."""
    store = Store.create(path, {"x": ArraySpec((ROW // 8,), "int64")}, shards * SHARD, SHARD, CHUNK, {})
    store.commit(0, {"x": np.zeros((SHARD, ROW // 8), "i8")})
    tail = store.file("x", 0).read_bytes()[SHARD * ROW :]
    for shard in range(shards):
        with open(store.file("x", shard), "wb") as file:
            file.seek(SHARD * ROW)
            file.write(tail)
            for row in range(0, SHARD, 16):
                file.seek(row * ROW)
                file.write((shard * SHARD + row).to_bytes(8, "little"))
    index = np.ones((shards, 1, 16), np.uint8)  # digests that nobody looks at
    store.place.replace("digests/c.0.0.0", index.tobytes())
    return Store.open(path)


def maps():
    return Path("/proc/self/maps").read_text().count("/x/c.")


def read_all(path, said):
    """Read a store that is larger than the memory this process may have."""
    store = Store.open(path)
    rows = np.random.default_rng(0).permutation(len(store) // 16) * 16
    store.read("x", rows[:64])
    limit = psutil.Process().memory_info().data + (64 << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for begin in range(0, len(rows), 64):
        batch = rows[begin : begin + 64]
        if (store.read("x", batch)[:, 0] != batch).any():
            return
    try:
        np.ones(store.config.rows * ROW // 8)  # the limit bites: the whole store in memory is refused
    except MemoryError:
        said.value = 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
def test_memory_is_flat_in_the_size_of_the_store(tmp_path):
    sparse(tmp_path / "s.zarr", 600)  # 150 MiB; 64 MiB more than now are allowed
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["zarr", "torch", "gensys.data.store"])
    said = context.Value("i", 0)
    process = context.Process(target=read_all, args=(tmp_path / "s.zarr", said))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert said.value == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
def test_maps_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_OPEN_SHARDS", 8)
    gc.collect()  # what other tests have left
    store, before = sparse(tmp_path / "s.zarr", 40), maps()
    rows = np.random.default_rng(0).permutation(len(store) // 16) * 16
    for _ in range(3):
        np.testing.assert_array_equal(store.read("x", rows)[:, 0], rows)  # one batch of more shards than may be open
        assert maps() - before <= 8
        for begin in range(0, 100, 5):
            some = rows[begin : begin + 5]
            np.testing.assert_array_equal(store.read("x", some)[:, 0], some)
            assert maps() - before <= 8
    del store
    gc.collect()
    assert maps() == before


def test_threads_that_read_at_once(tmp_path, monkeypatch):
    """Each makes the others' maps go away."""
    monkeypatch.setattr(store_module, "_OPEN_SHARDS", 4)
    store, wrong = sparse(tmp_path / "s.zarr", 20), []

    def work(seed):
        generator = np.random.default_rng(seed)
        for _ in range(200):
            rows = generator.integers(0, len(store) // 16, 10) * 16
            if (store.read("x", rows)[:, 0] != rows).any():
                wrong.append(rows)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_file_that_cannot_be_mapped_leaves_the_others(tmp_path):
    store = sparse(tmp_path / "s.zarr", 4)
    store.file("x", 2).unlink()
    for _ in range(2):
        with pytest.raises(StoreError, match=r"shard 2 of .* cannot be read"):
            store.read("x", [0, 128, 192])
        np.testing.assert_array_equal(store.read("x", [0, 192])[:, 0], [0, 192])


def test_several_arrays_at_once(tmp_path):
    arrays = {"a": ArraySpec((2,), "float32"), "b": ArraySpec((), "int64")}
    store = Store.create(tmp_path / "s.zarr", arrays, 8, 4, 2, {})
    for shard in range(2):
        rows = np.arange(4) + 4 * shard
        store.commit(shard, {"a": np.stack([rows, -rows], 1).astype("f4"), "b": rows})
    b, a = store.read_many(("b", "a"), [7, 0, 3])
    assert (a.tolist(), b.tolist()) == ([[7, -7], [0, 0], [3, -3]], [7, 0, 3])
    assert store.read_many((), [0]) == []
    with pytest.raises(KeyError, match="'name' must be one of"):
        store.read_many(("a", "c"), [0])
