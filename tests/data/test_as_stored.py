"""Real data beside a store that was brought up to date: what is held out, and its class, follow the image."""

import numpy as np
import pytest
import torch
from PIL import Image
from toy import Items, run

from gensys.data.as_stored import AsStored
from gensys.data.latents import LatentSource
from gensys.data.manifest import found_in, to_bytes
from gensys.data.quarantine import readable
from gensys.data.source import class_digests, split
from gensys.data.sources import open_source
from gensys.noise import Noise

ITEMS = {f"{'cat' if k % 2 else 'dog'}/{k:02d}": f"content {k}" for k in range(60)}


def named(source, rows):
    return set(source.named(rows))


def parts(source):
    """The names in the training set, and those that are held out."""
    return [named(source, rows) for rows in readable(source)]


def test_what_is_held_out_follows_the_image(tmp_path):
    """A new class that sorts first, new images in between, and a few that are gone: no number stays what it was."""
    out = tmp_path / "z.zarr"
    run(out, Items(ITEMS))
    train, test = parts(LatentSource.open(out))
    gone = {sorted(test)[0], *sorted(train)[:3]}
    new = {"ant/1": "new", "ant/2": "new too", "cat/000": "new as well", "dog/990": "another"}
    data = Items({name: content for name, content in ITEMS.items() if name not in gone} | new)
    assert named(data, split(data)[1]) - set(new) != test - gone  # by number it would be others
    run(out, data, update=True)
    latents = LatentSource.open(out)
    stored = AsStored.of(data, [latents])
    assert parts(stored) == parts(latents)
    assert test - gone <= parts(stored)[1]
    assert train - gone <= parts(stored)[0]
    # labels are the store's, whose classes keep their numbers
    assert data.classes == ("ant", "cat", "dog")
    assert stored.classes == latents.classes == ("cat", "dog", "ant")
    labels = stored.batch(torch.arange(len(data)), Noise(0, torch.arange(len(data)))).cond["label"].tolist()
    assert [stored.classes[k] for k in labels] == [name[:3] for name in data.names]


def test_data_that_went_on_without_the_store(tmp_path):
    run(tmp_path / "z.zarr", Items(ITEMS))
    latents = LatentSource.open(tmp_path / "z.zarr")
    train, test = parts(latents)
    moved, came = sorted(test)[0], "cat/000"
    items = {name: content for name, content in ITEMS.items() if name != moved}
    data = Items(items | {"cat/renamed": ITEMS[moved], came: "new"})
    stored = AsStored.of(data, [latents])
    assert parts(stored) == [train, test - {moved} | {"cat/renamed"}]  # by its digest; what is new is in neither
    assert stored.about.endswith("; 1 of them not in the store, and not used")


def test_data_as_they_were_are_as_they_were(tmp_path):
    data = Items(ITEMS | {"cat/bad": "bad", "nobody": "without a label"})
    run(tmp_path / "z.zarr", data)
    stored = AsStored.of(data, [LatentSource.open(tmp_path / "z.zarr")])
    assert all(torch.equal(a, b) for a, b in zip(split(stored), split(data), strict=True))
    rows = torch.tensor([data.names.index("nobody"), 0])
    assert stored.batch(rows, Noise(0, rows)).cond["label"].tolist() == [-1, 0]
    assert (stored.classes, stored.about, stored.fingerprint()) == (data.classes, data.about, data.fingerprint())


def test_an_official_test_set_stays_one(tmp_path):
    class Official(Items):
        first_test = 40

    run(tmp_path / "z.zarr", Official(ITEMS))
    latents = LatentSource.open(tmp_path / "z.zarr")
    less = Items({name: content for name, content in ITEMS.items() if name != sorted(ITEMS)[3]})
    assert named(less, split(AsStored.of(less, [latents]))[1]) == set(sorted(ITEMS)[40:])


def test_several_stores_are_one(tmp_path):
    """As of images by aspect ratio: every store has some of the rows, by their numbers in the data."""

    class Some(Items):
        def origin(self, rows):
            return torch.tensor([sorted(ITEMS).index(self.names[row]) for row in rows.tolist()])

    for k in range(2):
        run(tmp_path / f"{k}.zarr", Some(dict(sorted(ITEMS.items())[k::2])))
    stored = AsStored.of(Items(ITEMS), [LatentSource.open(tmp_path / f"{k}.zarr") for k in range(2)])
    assert stored.origin(torch.arange(60)).tolist() == list(range(60))


def test_rows_are_found_by_their_bytes():
    there = to_bytes(["b", "a", "", "ab", "b"])
    assert found_in(there, to_bytes(["ab", "c", "b", "", "a"])).tolist() == [3, -1, 0, 2, 1]


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_a_new_class_that_sorts_first_changes_no_other_row(tmp_path, kind):
    if kind == "folder":
        for k, name in enumerate(["cat/1", "cat/2", "dog/1"]):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((8, 8), k, np.uint8)).save(tmp_path / f"{name}.png")
        before = open_source(tmp_path, 8)
        first = before.digests()
        (tmp_path / "ant").mkdir()
        Image.fromarray(np.full((8, 8), 9, np.uint8)).save(tmp_path / "ant" / "1.png")
        after, new = open_source(tmp_path, 8), 0
    else:
        (tmp_path / "t.csv").write_text("a,label\n1,cat\n2,cat\n3,dog\n")
        before = open_source(tmp_path / "t.csv")
        first = before.digests()
        (tmp_path / "t.csv").write_text("a,label\n1,cat\n2,cat\n3,dog\n4,ant\n")
        after, new = open_source(tmp_path / "t.csv"), 3
    assert (before.classes, after.classes) == (("cat", "dog"), ("ant", "cat", "dog"))
    np.testing.assert_array_equal(np.delete(after.digests(), new, 0), first)
    assert before.fingerprint() != after.fingerprint()


def test_digests_of_classes():
    found = class_digests(torch.tensor([1, -1, 0, 1]), ("a", ""))
    assert np.array_equal(found[0], found[3])
    assert len(np.unique(found, axis=0)) == 3  # a class of no name is not no class
    assert np.array_equal(class_digests(torch.tensor([2]), ("0", "1", "a")), found[2:3])
    assert class_digests(torch.tensor([-1]), ()).shape == (1, 16)
