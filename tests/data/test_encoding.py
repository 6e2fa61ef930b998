"""Encoding a source: what a store says of its rows, updates, predictions, and what both leave beside the store."""

import warnings

import numpy as np
import pytest
import torch
import zarr
from toy import CHUNK, CODEC, SHARD, Items, discrete, files, gaussian, run

from gensys import durable
from gensys.data.encoding import plan
from gensys.data.latents import LatentSource
from gensys.data.manifest import GOOD, QUARANTINED, REMOVED, from_bytes, to_bytes
from gensys.data.source import split
from gensys.data.store import Store
from gensys.errors import StoreError
from gensys.noise import Noise

ITEMS = {f"{'cat' if k % 2 else 'dog'}/{k:02d}": f"content {k}" for k in range(21)}
LATENTS = ("mean", "logvar")


def edited():
    """Two new ones, one of a new class; one changed; one gone; one that was good is bad. Shard 1 of 3 is untouched."""
    items = dict(ITEMS)
    names = sorted(items)
    items["cat/001"], items["ant/1"] = "new", "new too"
    items[names[1]] = "changed"
    items[names[2]] = "bad"
    del items[names[20]]
    return Items(items), names


def rows_of(store):
    return {name: store.read(name, range(len(store))) for name in store.config.arrays}


def encoded(name_of, content, row):
    """The latents of an item in a row of a store, computed afresh among other neighbours."""
    x = torch.zeros(CHUNK, 1, 4, 4)
    source = Items({name_of: content})
    x[row % CHUNK] = source.batch(torch.tensor([0]), None).x
    found = gaussian(x)
    return {
        "mean": found.mean[row % CHUNK].numpy().astype("f2"),
        "logvar": found.logvar[row % CHUNK].numpy().astype("f2"),
    }


def test_names_as_bytes():
    names = ["a", "ordner/\u00e4\u00f6.png", "x" * 65, "bad\udcff.png"]
    rows = to_bytes(names)
    assert rows.shape == (4, 128)
    assert from_bytes(rows) == names
    assert to_bytes(["a"], width=128).shape == (1, 128)
    assert to_bytes([]).shape == (0, 64)
    with pytest.raises(StoreError, match="holds a zero byte"):
        to_bytes(["a\0b"])


def test_what_a_store_says_of_its_rows(tmp_path):
    items = ITEMS | {"cat/bad": "bad", "nobody": "without a label"}
    source = Items(items)
    store = run(tmp_path / "z.zarr", source)
    found, names = rows_of(store), sorted(items)
    assert from_bytes(found["name"]) == names
    np.testing.assert_array_equal(found["digest"], source.digests())
    np.testing.assert_array_equal(found["row"], np.arange(23))
    bad, nobody = names.index("cat/bad"), names.index("nobody")
    assert np.flatnonzero(found["state"]).tolist() == [bad]
    assert found["state"][bad] == QUARANTINED
    assert not found["mean"][bad].any()
    assert not found["logvar"][bad].any()
    assert found["label"][bad] == found["label"][nobody] == -1
    for row, name in enumerate(names):
        if row != bad:
            assert (found["label"][row] == source.classes.index(name[:3])) if "/" in name else True
            for array, values in encoded(name, items[name], row).items():
                np.testing.assert_array_equal(found[array][row], values)
    assert store.attributes["quarantine"] == [{"row": bad, "reason": "it is bad"}]
    assert store.attributes["states"] == {"good": 22, "quarantined": 1, "removed": 0}
    assert [p.name for p in tmp_path.iterdir()] == ["z.zarr"]


def test_rows_in_quarantine_are_not_trained_on(tmp_path):
    run(tmp_path / "z.zarr", Items(ITEMS | {"cat/bad": "bad"}))
    source = LatentSource.open(tmp_path / "z.zarr")
    bad = sorted([*ITEMS, "cat/bad"]).index("cat/bad")
    used = torch.cat(split(source))
    assert sorted(used.tolist()) == [k for k in range(22) if k != bad]
    assert "1 quarantined" in source.about
    assert source.named(torch.tensor([bad])) == ["cat/bad"]
    # nor do its zeros enter the statistics
    mean = source.store.read("mean", used.numpy()).astype(np.float64)
    assert source.normalisation.mean == pytest.approx(mean.mean((0, 2, 3)), rel=1e-12)


@pytest.mark.parametrize("mirror", [False, True])
def test_any_zarr_reader_reads_all_of_it(tmp_path, mirror):
    store = run(tmp_path / "z.zarr", Items(ITEMS), mirror=mirror)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open(str(tmp_path / "z.zarr"), mode="r")
        assert set(group.array_keys()) == {*store.config.arrays, "digests", "moments"}
        assert group["moments"].shape == (3, 4, 2)
        for name in store.config.arrays:
            np.testing.assert_array_equal(group[name][...], store.read(name, range(21)))
    assert ("mean_mirror" in store.config.arrays) == mirror


def test_an_order_that_differs_gives_the_same_bytes(tmp_path):
    run(tmp_path / "a.zarr", Items(ITEMS))
    run(tmp_path / "b.zarr", Items(ITEMS), order=[2, 0, 1])
    run(tmp_path / "c.zarr", Items(ITEMS), stop=1)
    assert [p.name for p in sorted(tmp_path.iterdir())] == [".c.zarr.rows", "a.zarr", "b.zarr", "c.zarr"]
    run(tmp_path / "c.zarr", Items(ITEMS))
    assert files(tmp_path / "a.zarr") == files(tmp_path / "b.zarr") == files(tmp_path / "c.zarr")
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.zarr", "b.zarr", "c.zarr"]


# -------------------------------------------------------------------------------------------------------------- update


def test_an_update(tmp_path):
    out, (source, names) = tmp_path / "z.zarr", edited()
    old = run(out, Items(ITEMS))
    before, inode = rows_of(old), old.file("mean", 1).stat().st_ino
    attributes = old.attributes
    store = run(out, source, update=True)
    after = rows_of(store)
    assert len(store) == 23
    now = [*names, "ant/1", "cat/001"]  # new ones come last, in the order of the source
    assert from_bytes(after["name"]) == now
    state = [GOOD] * 23
    state[2], state[20] = QUARANTINED, REMOVED
    assert after["state"].tolist() == state
    for row, name in enumerate(now):
        if state[row] == GOOD:
            for array, values in encoded(name, source.items[name], row).items():
                np.testing.assert_array_equal(after[array][row], values)
            assert store.attributes["classes"][after["label"][row]] == name[:3]
    for name in LATENTS:
        assert not after[name][2].any()
        for row in (0, *range(3, 21)):
            np.testing.assert_array_equal(after[name][row], before[name][row])
    assert store.attributes["classes"] == ["cat", "dog", "ant"]  # those that were there keep their numbers
    assert store.attributes["source"]["fingerprint"] == source.fingerprint()
    assert store.attributes["states"] == {"good": 21, "quarantined": 1, "removed": 1}
    assert store.attributes["normalisation"] == attributes["normalisation"]
    assert [source.names[row] for row in source.asked] == [names[1], "ant/1", "cat/001"]  # nothing else was computed
    assert store.file("mean", 1).stat().st_ino == inode
    assert store.verify() == []
    assert [p.name for p in tmp_path.iterdir()] == ["z.zarr"]
    used = torch.cat(split(LatentSource.open(out)))
    assert sorted(used.tolist()) == [row for row in range(23) if state[row] == GOOD]


def test_an_update_splits_as_before(tmp_path):
    run(tmp_path / "z.zarr", Items(ITEMS))
    _, held_out = split(LatentSource.open(tmp_path / "z.zarr"))
    run(tmp_path / "z.zarr", Items(ITEMS | {"ant/1": "x"}), update=True)
    train, again = split(LatentSource.open(tmp_path / "z.zarr"))
    assert set(held_out.tolist()) <= set(again.tolist())
    assert not set(held_out.tolist()) & set(train.tolist())


def test_updates_of_updates(tmp_path):
    """What was removed comes back to its row; a row that was bad is mended."""
    out, (source, names) = tmp_path / "z.zarr", edited()
    first = rows_of(run(out, Items(ITEMS)))
    run(out, source, update=True)
    store = run(out, Items(ITEMS), update=True)
    last = rows_of(store)
    assert last["state"].tolist() == [GOOD] * 21 + [REMOVED] * 2
    for name in set(first) - {"state"}:
        np.testing.assert_array_equal(last[name][:21], first[name])
    assert store.attributes["quarantine"] == []
    assert from_bytes(last["name"])[:21] == names


def test_nothing_has_changed(tmp_path):
    out, (source, _) = tmp_path / "z.zarr", edited()
    run(out, Items(ITEMS))
    bytes_before = files(out)
    run(out, Items(ITEMS), update=True)
    assert files(out) == bytes_before
    run(out, source, update=True)
    bytes_before = files(out)
    assert plan(out, source, gaussian(torch.zeros(1, 1, 4, 4)), CODEC, shard=SHARD, chunk=CHUNK) is None
    run(out, source)
    assert files(out) == bytes_before


def test_an_update_has_to_be_asked_for(tmp_path):
    run(tmp_path / "z.zarr", Items(ITEMS))
    source, _ = edited()
    with pytest.raises(StoreError, match=r"is [0-9a-f]{12} there and [0-9a-f]{12} now\. --update encodes"):
        run(tmp_path / "z.zarr", source)
    with pytest.raises(StoreError, match=r"'attributes\.codec\.weights' is .abc. there and .def. here"):
        run(tmp_path / "z.zarr", source, update=True, codec=CODEC | {"weights": "def"})
    with pytest.raises(StoreError, match=r"'arrays\.mean_mirror"):
        run(tmp_path / "z.zarr", source, update=True, mirror=True)


def test_a_store_whose_digests_are_of_an_older_kind_is_told_apart(tmp_path, monkeypatch):
    """Of those it cannot be told what has changed: all is encoded once, and from then on it can."""

    class Older(Items):
        def digests(self):
            return ~super().digests()

        def fingerprint(self):
            return "0" * 32

    out = tmp_path / "z.zarr"
    with monkeypatch.context() as before:
        before.setattr("gensys.data.latents.DIGESTED", "bytes, number of the class")
        run(out, Older(ITEMS))
    assert len(LatentSource.open(out)) == 21
    with pytest.raises(
        StoreError, match=r"--update encodes every row again, once \(its digests are of an older kind\)"
    ):
        run(out, Items(ITEMS))
    source = Items(ITEMS)
    run(out, source, update=True)
    assert len(source.asked) == 21
    source = Items(ITEMS | {"ant/1": "new"})
    run(out, source, update=True)
    assert len(source.asked) == 1


def test_an_update_of_an_official_split(tmp_path):
    class Official(Items):
        first_test = 15

    run(tmp_path / "z.zarr", Official(ITEMS))
    with pytest.raises(StoreError, match="2 new rows would be counted in"):
        run(tmp_path / "z.zarr", Official(edited()[0].items), update=True)
    store = run(tmp_path / "z.zarr", Official(ITEMS | {sorted(ITEMS)[3]: "changed"}), update=True)
    assert len(store) == 21


def test_two_items_of_one_name(tmp_path):
    source = Items(ITEMS)
    source.names[3] = source.names[2]
    with pytest.raises(StoreError, match="two items of 'items' are called 'cat/05'"):
        run(tmp_path / "z.zarr", source)
    assert list(tmp_path.iterdir()) == []


def test_a_longer_name_changes_every_file_of_names_and_no_latent(tmp_path):
    before = rows_of(run(tmp_path / "z.zarr", Items(ITEMS)))
    source = Items(ITEMS | {"dog/" + "x" * 100: "new"})
    store = run(tmp_path / "z.zarr", source, update=True)
    assert store.config.arrays["name"].shape == (128,)
    assert len(source.asked) == 1
    for name in set(before) - {"name"}:
        np.testing.assert_array_equal(store.read(name, range(21)), before[name])
    assert from_bytes(store.read("name", range(22))) == [*source.names[:-1], source.names[-1]]


def test_a_reader_of_the_old_store_goes_on(tmp_path):
    run(tmp_path / "z.zarr", Items(ITEMS))
    reader = Store.open(tmp_path / "z.zarr")
    before = rows_of(reader)
    run(tmp_path / "z.zarr", edited()[0], update=True)
    for name, values in rows_of(reader).items():
        np.testing.assert_array_equal(values, before[name])


def test_a_change_during_an_update_begins_it_anew(tmp_path):
    out, (source, _) = tmp_path / "z.zarr", edited()
    run(out, Items(ITEMS))
    run(out, source, update=True, stop=1)
    final = Items(source.items | {"dog/99": "later"})
    store = run(out, final, update=True)
    assert set(from_bytes(store.read("name", range(len(store))))) == {*final.names, sorted(ITEMS)[20]}
    assert [p.name for p in tmp_path.iterdir()] == ["z.zarr"]


def test_two_updates_at_once(tmp_path):
    out, (source, _) = tmp_path / "z.zarr", edited()
    run(out, Items(ITEMS))
    encoding = plan(out, source, gaussian(torch.zeros(1, 1, 4, 4)), CODEC, shard=SHARD, chunk=CHUNK, update=True)
    with encoding.alone(), pytest.raises(StoreError, match="another process is updating"):
        run(out, source, update=True)
    run(out, source, update=True)
    with pytest.raises(StoreError, match="has just updated"), encoding.alone():
        pass


def test_where_two_paths_cannot_change_places(tmp_path, monkeypatch):
    out, (source, _) = tmp_path / "z.zarr", edited()
    run(tmp_path / "a.zarr", Items(ITEMS))
    run(tmp_path / "a.zarr", source, update=True)
    monkeypatch.setattr(durable, "exchange", lambda a, b: False)
    run(out, Items(ITEMS))
    run(out, source, update=True)
    assert files(out) == files(tmp_path / "a.zarr")


# ------------------------------------------------------------------------------------------------------------- dry run


def array_bytes(path):
    return sum(p.stat().st_size for p in path.rglob("c.*") if p.parent.name != "digests")


def predicted(out, source, **options):
    example = gaussian(torch.zeros(1, 1, 4, 4))
    return plan(out, source, example, CODEC, shard=SHARD, chunk=CHUNK, **options).prediction()


@pytest.mark.parametrize("mirror", [False, True])
def test_a_prediction_is_exact(tmp_path, mirror):
    out, source = tmp_path / "z.zarr", Items(ITEMS | {"cat/bad": "bad"})
    found = predicted(out, source, mirror=mirror)
    assert list(tmp_path.iterdir()) == []
    assert (found["rows"], found["rows_to_encode"], found["quarantined"]) == (22, 21, 1)
    assert (found["shards"], found["shards_to_make"], found["shards_there"]) == (3, 3, 0)
    run(out, source, mirror=mirror, stop=1)
    half = predicted(out, source, mirror=mirror)
    assert (half["shards_to_make"], half["shards_there"]) == (2, 1)
    assert half["bytes"] - half["bytes_to_write"] == array_bytes(out)
    run(out, source, mirror=mirror)
    assert found["bytes"] == found["bytes_to_write"] == array_bytes(out)


def test_an_update_is_predicted(tmp_path):
    out, (source, _) = tmp_path / "z.zarr", edited()
    run(out, Items(ITEMS))
    before = files(tmp_path)
    found = predicted(out, source, update=True)
    assert files(tmp_path) == before
    assert (found["appended"], found["again"], found["marked"]) == (2, 2, 1)
    assert (found["rows"], found["rows_to_encode"], found["shards_to_make"]) == (23, 3, 2)
    old = {name: Store.open(out).file(name, 1).stat().st_ino for name in LATENTS}
    store = run(out, source, update=True)
    assert len(source.asked) == found["rows_to_encode"]
    assert {name: store.file(name, 1).stat().st_ino for name in LATENTS} == old
    shared = sum(store.file(name, 1).stat().st_size for name in store.config.files)
    assert array_bytes(out) == found["bytes"]
    assert array_bytes(out) - shared == found["bytes_to_write"]


# --------------------------------------------------------------------------------------------------------------- codes


@pytest.mark.parametrize(("size", "dtype"), [(256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "int32")])
def test_codes_have_the_narrowest_type(size, dtype):
    from gensys.core import Codes
    from gensys.data.latents import latent_arrays

    assert latent_arrays(Codes(torch.zeros(1, 3, dtype=torch.int64), size))["codes"].dtype == dtype


def test_codes(tmp_path):
    out, (source, names) = tmp_path / "z.zarr", edited()
    run(out, Items(ITEMS), encoder=discrete, mirror=True)
    run(out, source, encoder=discrete, update=True, mirror=True)
    latents = LatentSource.open(out)
    assert (latents.shape, latents.codebook, latents.normalisation) == ((4, 4), 300, None)
    assert latents.store.config.arrays["codes"].dtype == "uint16"
    rows = torch.tensor([22, 0, 1])
    x = source.batch(torch.tensor([source.names.index(n) for n in ("cat/001", names[0], names[1])]), None).x
    flat, mirrored = (discrete(v).indices for v in (x, x.flip(-1)))
    batches = [latents.batch(rows, Noise(0, rows, step)) for step in range(20)]
    assert batches[0].x.dtype == torch.int64
    seen = {tuple(bool(torch.equal(b.x[k], flat[k])) for k in range(3)) for b in batches}
    assert len(seen) > 2  # a coin for every row and visit
    for b in batches:
        assert all(torch.equal(b.x[k], flat[k]) or torch.equal(b.x[k], mirrored[k]) for k in range(3))
    assert latents.fingerprint() == LatentSource.open(out).fingerprint()
