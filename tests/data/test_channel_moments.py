"""Moments of shards: what they are, the tree along which they are merged, and that they are as safe as the latents."""

import functools

import numpy as np
import pytest
import torch
from toy import CHUNK, CODEC, SHARD, Items, discrete, files, gaussian, run

from gensys.core import Posterior
from gensys.data import encoding
from gensys.data.channel_moments import MOMENTS, merged, stored_moments
from gensys.data.latents import Normalisation, create_latents, statistics
from gensys.data.layout import ArraySpec
from gensys.data.manifest import GOOD, Manifest
from gensys.data.store import Store
from gensys.errors import StoreError

ITEMS = {f"cat/{k:02d}": f"content {k}" for k in range(37)} | {"cat/05": "bad", "cat/36": "bad"}


def in_one_pass(store):
    """The plain formula over all good rows at once."""
    good = store.read("state", range(len(store))) == GOOD
    parts = [name for name in ("", "_mirror") if "mean" + name in store.config.arrays]
    mean, logvar = (
        np.concatenate([store.read(name + part, range(len(store)))[good] for part in parts]).astype(np.float64)
        for name in ("mean", "logvar")
    )
    return Normalisation(mean.mean((0, 2, 3)).tolist(), np.sqrt(mean.var((0, 2, 3)) + np.exp(logvar).mean((0, 2, 3))))


def without_moments(path, source):
    """A store as they were before there were moments, not sealed."""
    parts = encoding.latent_arrays(gaussian(torch.zeros(1, *source.shape)))
    return create_latents(path, source, parts, CODEC, Manifest.fresh(source), shard=SHARD, chunk=CHUNK)


@pytest.mark.parametrize("mirror", [False, True])
def test_they_are_those_of_the_good_rows(tmp_path, mirror):
    store = run(tmp_path / "z.zarr", Items(ITEMS), mirror=mirror)
    found, wanted = Normalisation(**store.attributes["normalisation"]), in_one_pass(store)
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-12)
    np.testing.assert_allclose(found.std, wanted.std, rtol=1e-12)
    values = 2 * 4 if mirror else 4
    assert stored_moments(store)[:, 0, 0].tolist() == [values * n for n in (7, 8, 8, 8, 4)]


def test_merging_is_a_tree_of_neighbours():
    """Of 1 to 17 parts: to rounding what the values have together; to the bit what neighbours give, two by two."""
    rng = np.random.default_rng(0)
    values = [rng.normal(1e3, rng.uniform(0.1, 10), (rng.integers(1, 9), 2)) for _ in range(17)]
    one = lambda x: np.stack([np.full(2, len(x)), x.mean(0), np.square(x - x.mean(0)).sum(0), x.sum(0)])  # noqa: E731
    for count in range(1, 18):
        some = values[:count]
        n, mean, scatter, total = merged(np.stack([one(x) for x in some]))
        every = np.concatenate(some)
        assert n.tolist() == [len(every)] * 2
        np.testing.assert_allclose(mean, every.mean(0), rtol=1e-14)
        np.testing.assert_allclose(scatter, np.square(every - every.mean(0)).sum(0), rtol=1e-11)
        np.testing.assert_allclose(total, every.sum(0), rtol=1e-14)
    a, b, c = (one(x) for x in values[:3])
    two = lambda x, y: merged(np.stack([x, y]))  # noqa: E731
    np.testing.assert_array_equal(merged(np.stack([a, b, c])), two(two(a, b), c))
    nothing = np.zeros_like(a)
    np.testing.assert_array_equal(functools.reduce(two, [nothing, nothing, a, nothing]), a)


def test_the_same_bits_in_any_order_after_a_stop_and_a_repair(tmp_path):
    source = Items(ITEMS)
    whole = files(run(tmp_path / "a.zarr", source).path)
    assert files(run(tmp_path / "b.zarr", source, order=[3, 0, 4, 2, 1]).path) == whole
    run(tmp_path / "c.zarr", source, stop=2)
    assert files(run(tmp_path / "c.zarr", source).path) == whole
    store = Store.open(tmp_path / "b.zarr")
    store.file("logvar", 2).write_bytes(b"")
    assert store.repair() == [2]
    assert files(run(tmp_path / "b.zarr", source).path) == whole


def test_a_store_without_them_is_read_as_a_whole_to_the_same_bits(tmp_path):
    """One that was begun before there were moments is finished, and brought up to date, without them."""
    source = Items(ITEMS)
    wanted = Normalisation(**run(tmp_path / "new.zarr", source).attributes["normalisation"])
    before = without_moments(tmp_path / "old.zarr", source).fingerprint
    old = run(tmp_path / "old.zarr", source)
    assert old.fingerprint == before
    assert MOMENTS not in old.config.files
    assert Normalisation(**old.attributes["normalisation"]) == wanted
    kept = old.file("mean", 2).stat().st_ino
    updated = run(tmp_path / "old.zarr", Items(ITEMS | {"cat/00": "changed"}), update=True)
    assert MOMENTS not in updated.config.files
    assert updated.file("mean", 2).stat().st_ino == kept  # not made anew for the sake of a summary


def test_an_update_takes_those_of_the_shards_it_makes_and_shares_the_others(tmp_path):
    out = tmp_path / "z.zarr"
    old = run(out, Items(ITEMS))
    before, kept = old.attributes["normalisation"], old.file(MOMENTS, 2).stat().st_ino
    items = {name: "changed" if name == "cat/00" else content for name, content in ITEMS.items() if name != "cat/30"}
    store = run(out, Items(items), update=True)
    assert store.attributes["normalisation"] == before
    assert store.file(MOMENTS, 2).stat().st_ino == kept
    now, wanted = statistics(store), in_one_pass(store)  # as if it had been measured anew
    np.testing.assert_allclose(now.mean, wanted.mean, rtol=1e-12)
    np.testing.assert_allclose(now.std, wanted.std, rtol=1e-12)


@pytest.mark.parametrize("data", [b"torn", None, "flipped"])
def test_damaged_moments_are_named_and_made_anew(tmp_path, data):
    source = Items(ITEMS)
    whole = files(run(tmp_path / "whole.zarr", source).path)
    store = run(tmp_path / "z.zarr", source, stop=5)  # every shard is committed, and it is not sealed
    file = store.file(MOMENTS, 3)
    content = file.read_bytes()
    flipped = content[:9] + bytes([content[9] ^ 1]) + content[10:]
    file.unlink() if data is None else file.write_bytes(flipped if data == "flipped" else data)
    (problem,) = store.verify()
    assert (problem.shard, problem.array) == (3, MOMENTS)
    with pytest.raises(StoreError, match=r"moments of shard 3 .* not what was committed: give `gensys verify .*repair"):
        run(tmp_path / "z.zarr", source)
    assert not Store.open(store.path).sealed
    assert store.repair() == [3]
    assert files(run(tmp_path / "z.zarr", source).path) == whole


def test_an_encoder_whose_latents_are_not_finite_ends_before_the_shard_is_there(tmp_path):
    def broken(x):
        found = gaussian(x)
        return Posterior(found.mean * 1e6, found.logvar)  # more than float16 holds

    with (
        pytest.raises(StoreError, match=r"rows 0\.\.3 .* not all finite: .*encode with float32"),
        np.errstate(all="ignore"),
    ):
        run(tmp_path / "z.zarr", Items(ITEMS), encoder=broken)
    assert Store.open(tmp_path / "z.zarr").missing() == [0, 1, 2, 3, 4]


def test_codes_have_none(tmp_path):
    assert run(tmp_path / "z.zarr", Items(ITEMS), encoder=discrete).config.summaries == {}


def test_names_of_summaries_are_their_own(tmp_path):
    spec = {"x": ArraySpec((), "uint8")}
    with pytest.raises(StoreError, match="'summaries' has the name 'x', which 'arrays' has too"):
        Store.create(tmp_path / "z.zarr", spec, 4, 2, 2, {}, spec)
    store = Store.create(tmp_path / "z.zarr", spec, 4, 2, 2, {}, {"y": ArraySpec((3,), "float64")})
    with pytest.raises(StoreError, match=r"'y' of shard 1 must be \(1, 3\) of float64, got \(2, 3\)"):
        store.commit(1, {"x": np.zeros(2, "u1"), "y": np.zeros((2, 3))})
    store.commit(1, {"x": np.zeros(2, "u1"), "y": np.ones((1, 3))})
    with pytest.raises(KeyError, match=r"must be one of \['x'\], got 'y'"):
        store.read("y", [0])
