"""`gensys encode` and `gensys data info` on images and a codec: updates, predictions, and what no longer fits."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gensys.pipelines.encode import encode, predict
from gensys.pipelines.evaluate import real_source
from gensys.pipelines.train import train
from PIL import Image

from gensys.cli import cli
from gensys.data.latents import LatentSource, Normalisation
from gensys.data.quarantine import readable
from gensys.data.store import Store
from gensys.errors import RunError, StoreError
from gensys.noise import Noise
from gensys.progress import Screen
from gensys.run import resolve
from gensys.run_folder import RunFolder, open_codec

SCREEN = Screen(quiet=True)
TINY = {"batch": "16", "precision": "fp32"}


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16), np.uint8)).save(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """images/ of 150 in two classes, the run of a codec."""
    root = tmp_path_factory.mktemp("encode")
    for k in range(150):
        picture(root / "images" / ("cat", "dog")[k % 2] / f"{k:03d}.png", k)
    knobs = TINY | {"data": str(root / "images"), "size": "16", "channels": "2", "width": "8", "budget": "32"}
    train(RunFolder(root / "codec"), resolve("kl_autoencoder", knobs), workers=0, fresh=False, screen=SCREEN)
    return root


@pytest.fixture
def images(root, tmp_path):
    """A copy to be changed."""
    for path in (root / "images").rglob("*.png"):
        (tmp_path / "images" / path.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / path.parent.name / path.name).write_bytes(path.read_bytes())
    return tmp_path / "images"


def code(root, out, data, **options):
    return encode(RunFolder(root / "codec"), out, data=str(data), shard=64, workers=0, screen=SCREEN, **options)


def ask(*words, code=0):
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_an_update_gives_what_a_fresh_encoding_gives(root, images, tmp_path):
    """Whole blocks of the network: row by row against a fresh encoding in which every item has the same place."""
    out = tmp_path / "z.zarr"
    old = code(root, out, images)
    kept = old.file("mean", 1).stat().st_ino
    picture(images / "cat" / "004.png", 1000)  # row 2, changed
    (images / "dog" / "149.png").unlink()  # the last row, of shard 2
    picture(images / "dog" / "zzz.png", 1001)  # new
    with pytest.raises(StoreError, match="--update encodes"):
        code(root, out, images)
    store = code(root, out, images, update=True)
    assert store.file("mean", 1).stat().st_ino == kept
    source = LatentSource.open(out)
    assert source.named(torch.tensor([2, 149, 150])) == ["cat/004.png", "dog/149.png", "dog/zzz.png"]
    assert store.read("state", range(151)).tolist() == [0] * 149 + [2, 0]
    # the same folder with the removed image put back is, in order, the list of the store's rows
    (images / "dog" / "149.png").write_bytes((root / "images" / "dog" / "149.png").read_bytes())
    fresh = code(root, tmp_path / "fresh.zarr", images)
    for name in ("mean", "logvar", "label", "digest", "name", "row"):
        np.testing.assert_array_equal(store.read(name, range(151)), fresh.read(name, range(151)), err_msg=name)


def test_a_dry_run_is_exact_and_writes_nothing(root, images, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    words = ("encode", root / "codec", "--data", images, "--shard", 64, "--out", tmp_path / "z.zarr", "--mirror")
    found = json.loads(ask(*words, "--dry-run", "--json"))
    assert sorted(tmp_path.rglob("*")) == before
    assert (found["rows"], found["shards"], found["shards_to_make"]) == (150, 3, 3)
    assert found["estimated_seconds"] > 0
    ask(*words, "--quiet")
    made = sum(p.stat().st_size for p in (tmp_path / "z.zarr").rglob("c.*") if p.parent.name != "digests")
    assert found["bytes_to_write"] == made
    again = json.loads(ask(*words, "--dry-run", "--json"))
    assert (again["rows_to_encode"], again["shards_to_make"], again["shards_there"]) == (0, 0, 3)
    picture(images / "cat" / "004.png", 1000)
    folder = RunFolder(root / "codec")
    options = {"data": str(images), "shard": 64, "workers": 0, "mirror": True}
    found = predict(folder, tmp_path / "z.zarr", update=True, **options)
    assert (found["appended"], found["again"], found["marked"], found["shards_to_make"]) == (0, 1, 0, 1)
    assert "time" in ask(*words, "--update", "--dry-run")


def test_what_a_store_is_is_told(root, images, tmp_path):
    out = tmp_path / "z.zarr"
    (images / "dog" / "broken.png").write_bytes(b"no image")
    store = code(root, out, images)
    found = json.loads(ask("data", "info", out, "--json"))
    assert (found["kind"], found["rows"], found["sealed"]) == ("latents", 151, True)
    assert found["states"] == {"good": 150, "quarantined": 1, "removed": 0}
    assert found["classes"] == {"cat": 75, "dog": 75}
    assert found["codec"]["weights"] == RunFolder(root / "codec").weights_digest()
    assert [(r["name"], r["row"]) for r in found["quarantine"]] == [("dog/broken.png", 150)]
    assert found["arrays"]["mean"] == {
        "dtype": "float16",
        "shape": [151, *store.config.arrays["mean"].shape],
        "bytes": sum(store.file("mean", k).stat().st_size for k in range(3)),
    }
    told = ask("data", "info", out)
    for words in ("latents (sealed)", "150 good, 1 quarantined, 0 removed", "3 of 3 committed", "dog/broken.png"):
        assert words in told
    half = Store.create(tmp_path / "half.zarr", store.config.arrays, 151, 64, 64, store.config.attributes)
    half.commit(1, {name: store.read(name, half.rows_of(1)) for name in half.config.arrays})
    found = json.loads(ask("data", "info", tmp_path / "half.zarr", "--json"))
    assert (found["sealed"], found["shards_committed"], found["states"]["good"]) == (False, 1, 64)
    assert "not sealed: finish what makes it" in ask("data", "info", tmp_path / "half.zarr")
    assert "is not a store: it holds no zarr.json" in ask("data", "info", images, code=1)
    assert "nothing is at" in ask("data", "info", tmp_path / "none.zarr", code=2)
    assert "info" in ask("data")


def test_normalisation_is_that_of_the_training(root, images, tmp_path):
    """Used when a batch is made, undone when it is decoded; other numbers, or other weights, are refused by name."""
    out, folder = tmp_path / "z.zarr", RunFolder(tmp_path / "flow")
    code(root, out, images)
    knobs = TINY | {"data": str(out), "width": "16", "depth": "1", "heads": "2", "budget": "32", "steps": "2"}
    train(folder, resolve("latent_dit", knobs), workers=0, fresh=False, screen=SCREEN)
    source = LatentSource.open(out)
    rows, noise = torch.arange(4), Noise(0, torch.arange(4))
    model = folder.model()
    z = source.latents(rows).sample(noise.normal(source.shape, 5))
    decoded = open_codec(source).decode(z)
    torch.testing.assert_close(model.decode(source.batch(rows, noise).x), decoded, rtol=1e-4, atol=1e-4)

    picture(images / "cat" / "004.png", 1000)
    code(root, out, images, update=True)  # which changes the data, and not how they are normalised
    assert LatentSource.open(out).normalisation == source.normalisation
    folder.model()

    text = (out / "zarr.json").read_text()
    document = json.loads(text)
    document["attributes"]["normalisation"]["std"][0] *= 2
    (out / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match=r"was edited: its digest is [0-9a-f]{12}, and .* sealed with [0-9a-f]{12}"):
        folder.model()
    numbers = Normalisation(**document["attributes"]["normalisation"])
    document["attributes"]["normalisation_digest"] = numbers.digest  # as of a store that was made anew
    (out / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(RunError, match=r"was trained on latents normalised by \{.*, and 'z' is now normalised by \{"):
        folder.model()
    (out / "zarr.json").write_text(text)
    folder.model()


def test_weights_that_are_gone_are_named_with_those_that_are_there(root, tmp_path):
    now = RunFolder(root / "codec").weights_digest()
    with pytest.raises(RunError, match=rf"no longer holds the weights 0{{12}}.*the newest are {now[:12]}"):
        RunFolder(root / "codec").model(digest="0" * 64)


def test_what_is_real_follows_the_images_of_a_store(root, images, tmp_path):
    """What `gensys evaluate` takes for held out, after images were put in and taken out and the store was updated."""
    out = tmp_path / "z.zarr"
    code(root, out, images)

    def held_out():
        latents = LatentSource.open(out)
        run = SimpleNamespace(spec=lambda: SimpleNamespace(load=lambda: SimpleNamespace(source=latents)))
        source, _ = real_source(run)
        return [set(part.named(rows)) for part in (latents, source) for rows in readable(part)]

    train_rows, test_rows, *same = held_out()
    assert same == [train_rows, test_rows]
    gone = {min(test_rows), max(train_rows)}
    for name in gone:
        (images / name).unlink()
    for k, name in enumerate(("ant/1.png", "cat/000a.png", "dog/0.png")):  # before all others, and among them
        picture(images / name, 1000 + k)
    code(root, out, images, update=True)
    now_train, now_test, *same = held_out()
    assert same == [now_train, now_test]
    assert train_rows - gone <= now_train
    assert test_rows - gone <= now_test
