import errno
import itertools
import json
import os
import pickle
import re
import shutil

import google_crc32c
import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st

from gensys import durable
from gensys.data.store import ArraySpec, Problem, Store
from gensys.errors import DataError, NondeterminismError, StoreError

ARRAYS = {"x": ArraySpec((2, 3), "float16"), "label": ArraySpec((), "int64"), "image": ArraySpec((1, 4, 4), "uint8")}
ROWS, SHARD, CHUNK = 19, 8, 4  # the last shard is partial, and so is its last chunk
ATTRIBUTES = {"codec": {"weights": "abc", "run": "r"}, "classes": ["a", "b"]}


def create(path, **changes):
    options = {"arrays": ARRAYS, "rows": ROWS, "shard": SHARD, "chunk": CHUNK, "attributes": ATTRIBUTES} | changes
    return Store.create(path, **options)


def content(rows):
    """The true content of any rows: a function of the row, as an encoder's is."""
    rows = np.asarray(rows, np.int64)
    each = lambda shape: rows.reshape(-1, *(1,) * len(shape)) + np.arange(np.prod(shape)).reshape(1, *shape)  # noqa: E731
    return {"x": (each((2, 3)) / 8).astype("f2"), "label": rows % 3 - 1, "image": each((1, 4, 4)).astype("u1")}


def fill(store, shards=None):
    for shard in store.missing() if shards is None else shards:
        assert store.commit(shard, content(store.rows_of(shard)))
    return store


@pytest.fixture
def full(tmp_path):
    store = fill(create(tmp_path / "s.zarr"))
    store.seal({"normalisation": {"mean": [0.5]}})
    return store


def files(path):
    """Everything below a folder: path -> content."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_round_trip(full):
    assert full.sealed
    assert full.done() == {0, 1, 2}
    assert full.missing() == []
    assert full.verify() == []
    assert [len(full.rows_of(k)) for k in range(3)] == [8, 8, 3]
    assert full.attributes == {**ATTRIBUTES, "normalisation": {"mean": [0.5]}}
    truth = content(range(ROWS))
    for name, spec in ARRAYS.items():
        read = full.read(name, range(ROWS))
        assert read.dtype == spec.dtype
        np.testing.assert_array_equal(read, truth[name])


def test_any_zarr_reader_opens_it(full):
    """Warnings are errors here, so zarr-python finds no stranger in the group, consolidated or not."""
    truth = content(range(ROWS))
    for consolidated in (None, False):
        group = zarr.open_group(full.path, mode="r", use_consolidated=consolidated)
        assert {name for name, _ in group.members(max_depth=None)} == {*ARRAYS, "digests"}
        for name in ARRAYS:
            np.testing.assert_array_equal(group[name][:], truth[name])
            np.testing.assert_array_equal(zarr.open_array(full.path / name, mode="r")[5:17], truth[name][5:17])
        assert group.attrs["codec"] == ATTRIBUTES["codec"]
        assert group["digests"].attrs["arrays"] == sorted(ARRAYS)
    np.testing.assert_array_equal(zarr.open(full.path)["digests"][:], full.digests())


def test_an_unfinished_store_opens_too(tmp_path):
    store = fill(create(tmp_path / "s.zarr"), [1])
    group = zarr.open(store.path, mode="r")
    np.testing.assert_array_equal(group["x"][8:16], content(range(8, 16))["x"])
    assert (store.done(), store.missing(), store.sealed) == ({1}, [0, 2], False)
    np.testing.assert_array_equal(store.read("x", [15, 8]), content([15, 8])["x"])
    with pytest.raises(StoreError, match=r"shard 2 of .* is not committed"):
        store.read("x", [9, 16])


@given(rows=st.lists(st.integers(0, ROWS - 1), max_size=40), kind=st.sampled_from(["list", "numpy", "torch", "int32"]))
def test_rows_come_as_asked(module_store, rows, kind):
    asked = {
        "list": lambda: rows,
        "numpy": lambda: np.array(rows, np.int64),
        "torch": lambda: torch.tensor(rows, dtype=torch.int64),
        "int32": lambda: np.array(rows, np.int32),
    }[kind]()
    truth = content(rows)
    for name in ARRAYS:
        np.testing.assert_array_equal(module_store.read(name, asked), truth[name])


@pytest.fixture(scope="module")
def module_store(tmp_path_factory):
    return fill(create(tmp_path_factory.mktemp("store") / "s.zarr"))


@pytest.mark.parametrize("rows", [[-1], [ROWS], [0, 3, ROWS], [[0]], [0.5], np.array([2**63], np.uint64)])
def test_rows_out_of_range(full, rows):
    with pytest.raises(IndexError, match="'rows' must"):
        full.read("x", rows)


def test_unknown_names(full):
    with pytest.raises(KeyError, match="'name' must be one of"):
        full.read("y", [0])
    with pytest.raises(IndexError, match="'shard' must lie in"):
        full.rows_of(3)


def test_what_is_read_is_a_copy(full):
    full.read("x", [0])[:] = 7
    np.testing.assert_array_equal(full.read("x", [0]), content([0])["x"])
    assert full.verify() == []


def test_it_pickles_as_its_path(full):
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(full)).read("x", [18]), content([18])["x"])


def test_zeros_are_written_too(tmp_path):
    """zarr-python leaves chunks of zeros out by default, and then a file could not be mapped."""
    store = create(tmp_path / "s.zarr")
    zeros = {name: np.zeros((8, *spec.shape), spec.dtype) for name, spec in ARRAYS.items()}
    store.commit(0, zeros)
    assert not store.read("x", range(8)).any()


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "uint8", "uint16", "int8", "int32", "int64"])
@pytest.mark.parametrize(("rows", "shard", "chunk"), [(1, 1, 1), (3, 4, 2), (9, 3, 3), (8, 8, 1)])
def test_sizes_and_dtypes(tmp_path, dtype, rows, shard, chunk):
    store = Store.create(tmp_path / "s.zarr", {"a": ArraySpec((3,), dtype)}, rows, shard, chunk, {})
    truth = np.arange(rows * 3).reshape(rows, 3).astype(dtype)
    for k in store.missing():
        store.commit(k, {"a": truth[list(store.rows_of(k))]})
    store.seal({})
    np.testing.assert_array_equal(store.read("a", range(rows)), truth)
    np.testing.assert_array_equal(zarr.open(store.path)["a"][:], truth)


# -- creating ---------------------------------------------------------------------------------------------------------


def test_creating_twice_is_opening(tmp_path):
    fill(create(tmp_path / "s.zarr"), [0])
    assert create(tmp_path / "s.zarr").done() == {0}
    assert create(tmp_path / "s.zarr", attributes={**ATTRIBUTES, "classes": ("a", "b")}).done() == {0}
    assert list(tmp_path.iterdir()) == [tmp_path / "s.zarr"]


def test_an_empty_folder_will_do(tmp_path):
    (tmp_path / "s.zarr").mkdir()
    assert fill(create(tmp_path / "s.zarr")).verify() == []


@pytest.mark.parametrize(
    ("change", "both"),
    [
        ({"rows": 20}, "'rows' is 19 there and 20 here"),
        ({"shard": 12}, "'shard' is 8 there and 12 here"),
        (
            {"arrays": {**ARRAYS, "x": ArraySpec((2, 3), "float32")}},
            '\'arrays.x.dtype\' is "float16" there and "float32"',
        ),
        ({"arrays": {"x": ARRAYS["x"]}}, "'arrays.image' is .* there and null here"),
        (
            {"attributes": {**ATTRIBUTES, "codec": {"weights": "def", "run": "r"}}},
            '\'attributes.codec.weights\' is "abc" there and "def" here',
        ),
    ],
)
def test_another_configuration_is_refused(tmp_path, change, both):
    create(tmp_path / "s.zarr")
    with pytest.raises(StoreError, match=both):
        create(tmp_path / "s.zarr", **change)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"arrays": {}}, "at least one array"),
        ({"arrays": {"digests": ArraySpec((), "int64")}}, "'digests'"),
        ({"arrays": {"../x": ArraySpec((), "int64")}}, "identifier"),
        ({"rows": 0}, "positive"),
        ({"shard": 6}, "multiple of 'chunk'"),
        ({"attributes": {"a": float("nan")}}, "without NaN"),
        ({"attributes": {"a": object()}}, "JSON"),
        ({"attributes": {"gensys_store": 1}}, "keeps for itself"),
    ],
)
def test_bad_configurations(tmp_path, change, reason):
    with pytest.raises(StoreError, match=reason):
        create(tmp_path / "s.zarr", **change)
    assert not any(tmp_path.iterdir())


def test_bad_specs():
    with pytest.raises(StoreError, match="'dtype' must be one of"):
        ArraySpec((1,), "bfloat16")
    with pytest.raises(StoreError, match="positive lengths"):
        ArraySpec((0,), "int64")


def test_what_is_not_a_store(tmp_path):
    with pytest.raises(StoreError, match="nothing is there"):
        Store.open(tmp_path / "s.zarr")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("years of work")
    for name in ("file", "folder"):
        with pytest.raises(StoreError, match=r"is not a store: it holds no zarr\.json"):
            create(tmp_path / name)
    zarr.create_group(tmp_path / "other", attributes={"a": 1})
    with pytest.raises(StoreError, match="another writer"):
        create(tmp_path / "other")
    (tmp_path / "other" / "zarr.json").write_text('{"attributes":')
    with pytest.raises(StoreError, match="damaged"):
        Store.open(tmp_path / "other")
    assert (tmp_path / "folder" / "thesis.tex").read_text() == "years of work"


def test_edited_attributes_are_noticed(full):
    file = full.path / "zarr.json"
    file.write_text(file.read_text().replace('"abc"', '"abd"'))
    with pytest.raises(StoreError, match="edited"):
        Store.open(full.path)


# -- committing -------------------------------------------------------------------------------------------------------


def test_only_one_commit_publishes(tmp_path):
    store = create(tmp_path / "s.zarr")
    assert store.commit(1, content(range(8, 16)))
    assert not store.commit(1, content(range(8, 16)))
    assert store.done() == {1}
    assert not any((store.path / "digests" / "attempts").iterdir())


def test_a_difference_is_an_alarm(full):
    before = files(full.path)
    changed = content(range(8, 16))
    changed["x"][3, 1, 2] += 0.125
    with pytest.raises(NondeterminismError, match=r"shard 1 .* 'x' came out different"):
        full.commit(1, changed)
    assert files(full.path) == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a.pop("x"), "'arrays' must be"),
        (lambda a: a.update(y=a["x"]), "'arrays' must be"),
        (lambda a: a.update(x=a["x"].astype("f4")), r"must be \(8, 2, 3\) of float16, got \(8, 2, 3\) of float32"),
        (lambda a: a.update(x=a["x"][:7]), r"got \(7, 2, 3\)"),
        (lambda a: a.update(x=a["x"][:, :1]), r"got \(8, 1, 3\)"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, change, reason):
    store, arrays = create(tmp_path / "s.zarr"), content(range(8))
    change(arrays)
    with pytest.raises(StoreError, match=reason):
        store.commit(0, arrays)
    assert store.done() == set()


@pytest.mark.parametrize("damage", ["torn", "flipped", "whole"])
def test_a_file_without_marker_is_not_trusted(tmp_path, full, damage):
    """What a writer left that died before its marker, and that a bad disk may have changed since."""
    store = create(tmp_path / "other.zarr")
    data = bytearray(full.file("x", 0).read_bytes())
    if damage == "torn":
        del data[50:]
    elif damage == "flipped":
        data[3] ^= 1
    store.file("x", 0).write_bytes(data)
    assert store.missing() == [0, 1, 2]
    fill(store)
    store.seal({"normalisation": {"mean": [0.5]}})
    assert files(store.path) == files(full.path)


def test_a_writer_may_be_swept_away(tmp_path, full, monkeypatch):
    """Others finish the store and seal it between any two steps of one that is slow: it sees that, and agrees."""
    points = 0
    for point in itertools.count():
        path = tmp_path / str(point) / "s.zarr"
        store, other = create(path), create(path)
        write, calls = durable.write, itertools.count()

        def late(path, data, calls=calls, point=point, other=other, write=write):
            if next(calls) == point:
                monkeypatch.setattr("gensys.data.place.write", write)
                fill(other)
                other.seal({"normalisation": {"mean": [0.5]}})
            write(path, data)

        monkeypatch.setattr("gensys.data.place.write", late)
        published = store.commit(0, content(range(8)))
        if next(calls) <= point:
            break
        points += 1
        assert not published
        assert files(path) == files(full.path)
    assert points == 4  # three arrays and the marker


@pytest.mark.parametrize("step", ["write", "sync_directory"])
def test_a_creator_may_be_swept_away(tmp_path, full, monkeypatch, step):
    """Others make the store, fill it and seal it between any two steps of one that is slow: it opens theirs."""
    points, real = 0, getattr(durable, step)
    for point in itertools.count():
        path, calls = tmp_path / str(point) / "s.zarr", itertools.count()

        def late(*given, calls=calls, point=point, path=path):
            if next(calls) == point:
                monkeypatch.setattr(durable, step, real)
                fill(create(path)).seal({"normalisation": {"mean": [0.5]}})
            real(*given)

        monkeypatch.setattr(durable, step, late)
        store = create(path)
        monkeypatch.setattr(durable, step, real)
        if next(calls) <= point:
            break
        points += 1
        assert store.sealed
        assert files(path) == files(full.path)
        assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert points >= 4  # the metadata of three arrays and of the group


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EPERM, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_disk_that_refuses(tmp_path, full, monkeypatch, code, call):
    """At every call of fsync and link in turn: an error that names the store, nothing torn, the next try succeeds."""
    store, real, failures = create(tmp_path / "other.zarr"), getattr(os, call), 0
    while True:
        calls = itertools.count()

        def refuse(*arguments, calls=calls, good=failures):
            if next(calls) >= good:
                raise OSError(code, os.strerror(code))
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            try:
                store.commit(0, content(range(8)))
            except StoreError as raised:
                error = raised
            else:
                break  # nothing was left to refuse
        assert str(store.path) in str(error)
        assert os.strerror(code) in str(error)
        assert isinstance(error.__cause__, OSError)
        problems = [str(p) for p in store.verify()]
        assert problems == [f"shard {k}: not committed" for k in range(3) if k not in store.done()]
        assert not any((store.path / "digests" / "attempts").iterdir())
        failures += 1
        if store.done():  # the last call flushes the marker's folder: it is there, only not for certain
            break
    assert failures >= 3
    fill(store)
    store.seal({"normalisation": {"mean": [0.5]}})
    assert files(store.path) == files(full.path)


def test_the_full_disk_is_explained(tmp_path, monkeypatch):
    store = create(tmp_path / "s.zarr")

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DataError, match=r"s\.zarr.*the disk is full: free some space"):
        store.commit(0, content(range(8)))
    with pytest.raises(StoreError, match="the disk is full"):
        create(tmp_path / "t.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path, full):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="no permission"):
            create(tmp_path / "t.zarr")
    finally:
        tmp_path.chmod(0o700)


# -- sealing ----------------------------------------------------------------------------------------------------------


def test_sealing_needs_every_shard(tmp_path):
    store = fill(create(tmp_path / "s.zarr"), [0, 2])
    with pytest.raises(StoreError, match=r"lacks 1 of 3 shards \(first: 1\)"):
        store.seal({})
    assert not store.sealed
    with pytest.raises(StoreError, match="not sealed"):
        store.content()


def test_sealing_twice(full):
    before = files(full.path)
    full.seal({"normalisation": {"mean": [0.5]}})
    full.seal({"classes": ["a", "b"]})
    assert files(full.path) == before
    with pytest.raises(StoreError, match="'normalisation'"):
        full.seal({"normalisation": {"mean": [0.25]}})
    with pytest.raises(StoreError, match="is sealed, without"):
        full.seal({"other": 1})


def test_sealing_keeps_what_was_created(tmp_path):
    store = fill(create(tmp_path / "s.zarr"))
    with pytest.raises(StoreError, match="'codec'"):
        store.seal({"codec": {"weights": "def"}})
    assert not store.sealed


def test_sealing_sweeps_up(tmp_path):
    store = fill(create(tmp_path / "s.zarr"))
    (store.path / "digests" / "attempts" / "dead").mkdir(parents=True)
    (store.path / "digests" / "attempts" / "dead" / "x").write_text("half")
    other = tmp_path / f".s.zarr.old.{'0123' * 8}.creating"  # of s.zarr.old, which another process is creating
    for draft in (tmp_path / f".s.zarr.{'0123' * 8}.creating", other):
        draft.mkdir()
    store.seal({})
    assert not (store.path / "digests" / "attempts").exists()
    assert set(tmp_path.iterdir()) == {store.path, other}
    assert fill(create(tmp_path / "t.zarr")).sealed is False


# -- verifying --------------------------------------------------------------------------------------------------------


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda s: os.truncate(s.file("x", 1), 90), Problem(1, "x", "its file has 90 bytes instead of 132")),
        (lambda s: flip(s.file("x", 2), 5), Problem(2, "x", "its content is not what was committed")),
        (lambda s: flip(s.file("x", 2), -1), Problem(2, "x", "its content is not what was committed")),
        (lambda s: s.file("label", 0).unlink(), Problem(0, "label", "its file is missing")),
        (
            lambda s: (s.path / "x" / "zarr.json").write_text("{}"),
            Problem(None, "x", "its zarr.json is missing or not"),
        ),
    ],
)
def test_damage_is_found_and_repaired(full, damage, problem):
    before = files(full.path)
    damage(full)
    found = full.verify()
    assert len(found) == 1
    assert str(problem) in str(found[0])
    bad = full.repair()
    assert bad == ([] if found[0].shard is None else [found[0].shard])
    assert not full.sealed
    assert full.missing() == bad
    fill(full)
    full.seal({"normalisation": {"mean": [0.5]}})
    assert full.verify() == []
    assert files(full.path) == before


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (lambda index: flip(index, 55), [1]),  # 48 bytes a shard
        (lambda index: os.truncate(index, 100), [2]),
        (lambda index: os.truncate(index, 0), [0, 1, 2]),
        (lambda index: index.unlink(), [0, 1, 2]),
        (lambda index: index.write_bytes(index.read_bytes() + b"?"), []),
    ],
)
def test_a_damaged_index_costs_no_more_than_its_rows(full, damage, lost):
    """No file is written again for it: what the producer makes is there already, and is compared."""
    before, times = files(full.path), {k: full.file("x", k).stat().st_mtime_ns for k in range(3)}
    damage(full.path / "digests" / "c.0.0.0")
    found = full.verify()
    assert list(dict.fromkeys(p.shard for p in found)) == [*lost, None]
    assert "the index is not what was sealed" in str(found[-1])
    assert full.repair(found) == lost
    assert full.missing() == lost
    fill(full)
    full.seal({"normalisation": {"mean": [0.5]}})
    assert full.verify() == []
    assert files(full.path) == before
    assert {k: full.file("x", k).stat().st_mtime_ns for k in range(3)} == times


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda marker: marker.unlink(), "not committed"),
        (lambda marker: marker.write_text("{"), "is damaged"),
        (lambda marker: marker.write_text("[]"), "is damaged"),
        (lambda marker: marker.write_text('{"fingerprint": "0", "digests": {}}'), "names other arrays"),
        (
            lambda marker: marker.write_text(
                re.sub('"fingerprint": "[0-9a-f]*"', '"fingerprint": "ff"', marker.read_text())
            ),
            "configuration ff",
        ),
    ],
)
def test_damaged_markers(tmp_path, full, damage, problem):
    store = fill(create(tmp_path / "other.zarr"))
    damage(store.marker(1))
    (found,) = store.verify()
    assert problem in str(found)
    assert store.repair() == store.missing() == [1]
    fill(store)
    store.seal({"normalisation": {"mean": [0.5]}})
    assert files(store.path) == files(full.path)


def test_parts_of_a_store_can_be_verified(full):
    flip(full.file("x", 2), 0)
    assert full.verify([0, 1]) == []
    assert [p.shard for p in full.verify([2])] == [2]
    assert full.repair([]) == []
    assert full.sealed


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: os.truncate(p, 90), "has 90 bytes instead of 132"),
        (lambda p: flip(p, -10), "index .* is damaged"),
        (lambda p: flip(p, -1), "index .* is damaged"),
        (lambda p: p.unlink(), "cannot be read"),
    ],
)
def test_the_reader_refuses_torn_files(full, damage, reason):
    damage(full.file("x", 0))
    with pytest.raises(StoreError, match=reason):
        full.read("x", [0])


def test_the_reader_refuses_another_layout(full):
    """Zarr lets a writer lay chunks out in reverse; that cannot be mapped, and is not read slowly in silence."""
    file = full.file("x", 0)
    data = file.read_bytes()
    index = np.frombuffer(data[-36:-4], "<u8").reshape(2, 2)[::-1].tobytes()
    file.write_bytes(data[48:96] + data[:48] + index + google_crc32c.value(index).to_bytes(4, "little"))
    np.testing.assert_array_equal(zarr.open(full.path)["x"][:8], content(range(8))["x"])  # still the same array
    with pytest.raises(StoreError, match="do not lie in order"):
        full.read("x", [0])


def test_content_is_of_the_bytes(tmp_path, full):
    twin = fill(create(tmp_path / "twin.zarr"), [2, 0, 1])
    twin.seal({})
    assert twin.content() == full.content()
    assert twin.fingerprint == full.fingerprint
    other = create(tmp_path / "other.zarr")
    for shard in range(3):
        other.commit(shard, content(np.array(other.rows_of(shard)) + 1))
    other.seal({})
    assert other.content() != full.content()


def test_a_copied_store_is_a_store(tmp_path, full):
    shutil.copytree(full.path, tmp_path / "copy.zarr")
    assert Store.open(tmp_path / "copy.zarr").verify() == []


def test_markers_are_plain(tmp_path):
    store = fill(create(tmp_path / "s.zarr"))
    record = json.loads((store.path / "digests" / "commits" / "000" / "000002.json").read_text())
    assert record["rows"] == 3
    assert record["fingerprint"] == store.fingerprint
    assert set(record["digests"]) == set(ARRAYS)
    assert store.record(2) == record
    store.seal({})
    assert store.record(2) == record


def test_a_sealed_store_keeps_no_markers(full):
    """Whatever the number of shards: the metadata, the index, and the shards themselves."""
    assert set(files(full.path)) == {
        "zarr.json",
        *(f"{name}/zarr.json" for name in (*ARRAYS, "digests")),
        *(f"{name}/c.{k}" + ".0" * len(spec.shape) for name, spec in ARRAYS.items() for k in range(3)),
        "digests/c.0.0.0",
    }
    assert not (full.path / "digests" / "commits").exists()


def test_a_zombie_after_the_seal(full):
    """It looked before the store was sealed, and goes on now: it compares, and leaves nothing behind."""
    before, late = files(full.path), content(range(8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "committed", lambda self, shard: False)
        assert full.commit(0, late) is False
        assert files(full.path) == before
    late["x"][0, 0, 0] += 1
    answers = iter([False])
    with pytest.MonkeyPatch.context() as patch:
        real = Store.committed
        patch.setattr(Store, "committed", lambda self, shard: next(answers, None) or real(self, shard))
        with pytest.raises(NondeterminismError, match="'x' came out different"):
            full.commit(0, late)
    assert files(full.path) == before


def test_a_marker_that_appears_after_the_seal_is_taken_away(full):
    """The last instant: the files agree, and the markers are gone when a writer publishes its own."""
    before = files(full.path)
    digests = full.record(1)["digests"]
    assert full.commits.publish(1, digests) is False
    assert full.commits.publish(1, digests | {"x": "0" * 32}) is False
    assert files(full.path) == before
    stray = full.marker(1)  # of a writer that died between the two steps: the index holds
    stray.parent.mkdir(parents=True)
    stray.write_text("{}")
    assert full.verify() == []
    assert Store.open(full.path).record(1)["digests"] == digests
    full.seal({})
    assert files(full.path) == before
