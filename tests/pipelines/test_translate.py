"""A translator from the command line's side: trained, sampled and evaluated in this process."""

import json

import numpy as np
import pytest
import torch
from gensys.pipelines import evaluate_images as evaluation
from gensys.pipelines import real
from gensys.pipelines.evaluate import evaluate
from gensys.pipelines.sample import sample
from gensys.pipelines.train import train
from PIL import Image

from gensys.data.sources import split
from gensys.data.store import Store
from gensys.errors import ConfigError, DataError, RunError, StoreError
from gensys.evaluate.classifier import judge
from gensys.noise import Noise
from gensys.pictures import to_uint8
from gensys.progress import Screen
from gensys.run import resolve
from gensys.run_folder import RunFolder

SCREEN = Screen(quiet=True)
KNOBS = {"width": "4", "blocks": "1", "critic_width": "4", "batch": "8", "budget": "32", "precision": "fp32"}


def save(path, count, seed, side=28):
    coarse = np.random.default_rng(seed).integers(0, 256, (count, side // 4, side // 4), np.uint8)
    np.save(path, coarse.repeat(4, 1).repeat(4, 2))
    return str(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("translate")
    torch.set_num_threads(1)
    knobs = {"data": save(root / "photos.npy", 90, 0), **KNOBS}
    train(RunFolder(root / "run"), resolve("cyclegan", knobs), workers=0, fresh=False, screen=SCREEN)
    return root


def draw(root, out, ids=None, **options):
    options = {"seed": 0, "label": None, "overrides": {}, "shard": 64, "workers": 0, "screen": SCREEN} | options
    return sample(RunFolder(root / "run"), out, ids=ids, **options)


def rows(store):
    return {name: store.read(name, range(len(store))) for name in store.config.arrays}


def test_samples_are_translations_of_held_out_images_and_their_way_back(root, tmp_path):
    found = rows(draw(root, tmp_path / "s.zarr", range(70)))
    assert found.keys() == {"x", "image", "cycle", "label", "id"}
    assert found["label"].tolist() == [0, 1] * 35
    folder = RunFolder(root / "run")
    model, source = folder.model(), folder.spec().load().source
    ids = torch.arange(64)  # a block, as they are drawn
    cond, noise = source.given(ids), Noise(0, ids)
    assert np.array_equal(found["image"][:64], to_uint8(cond["image"]).numpy())
    assert np.array_equal(found["x"][:64], to_uint8(model.sample(cond, noise)).numpy())
    stored = torch.from_numpy(found["x"][:64]).float() / 127.5 - 1
    back = model.sample({"label": 1 - cond["label"], "image": stored}, noise)
    assert np.abs(found["cycle"][:64].astype(int) - to_uint8(back).numpy()).max() <= 1
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (2 * (10 * 29 + 1), 2 * (5 * 3 * 29 + 1))


def test_a_range_and_a_label_are_part_of_the_same_samples(root, tmp_path):
    whole = rows(draw(root, tmp_path / "whole.zarr", range(200)))
    part = rows(draw(root, tmp_path / "part.zarr", range(70, 150)))
    assert all(np.array_equal(values, whole[name][70:150]) for name, values in part.items())
    drawings = rows(draw(root, tmp_path / "drawings.zarr", range(6), label=1))
    assert drawings["label"].tolist() == [1] * 6
    assert np.array_equal(drawings["image"], whole["image"][1:12:2]), "the same images, one after the other"


def test_images_of_ones_own_are_translated(root, tmp_path):
    own = save(tmp_path / "own.npy", 70, 1)
    store = draw(root, tmp_path / "s.zarr", label=1, data=own)
    found = rows(store)
    assert len(store) == 70
    assert found["label"].tolist() == [1] * 70
    folder = RunFolder(root / "run")
    wanted = folder.model().generator.into.nets[1](torch.from_numpy(found["image"]).float() / 127.5 - 1)
    assert np.abs(found["x"].astype(int) - to_uint8(wanted).numpy()).max() <= 1
    one = rows(draw(root, tmp_path / "one.zarr", range(65, 66), label=1, data=own))
    assert all(np.array_equal(values, found[name][65:66]) for name, values in one.items())

    save(own, 69, 2)
    with pytest.raises(StoreError, match="data"):
        draw(root, tmp_path / "s.zarr", label=1, data=own)
    with pytest.raises(ConfigError, match=r"'label' says which domain .* 0 for 'photos' or 1 for 'edges'"):
        draw(root, tmp_path / "n.zarr", data=own)
    with pytest.raises(ConfigError, match=r"'seeds' is 0:70, and the data .* has the rows 0:69"):
        draw(root, tmp_path / "n.zarr", range(70), label=1, data=own)
    with pytest.raises(RunError, match=r"holds data of shape \(1, 32, 32\), and the .* was trained on \(1, 28, 28\)"):
        draw(root, tmp_path / "n.zarr", label=1, data=save(tmp_path / "large.npy", 5, 0, side=32))
    with pytest.raises(DataError, match="nothing is there"):
        draw(root, tmp_path / "n.zarr", label=1, data=str(tmp_path / "nowhere"))
    assert not (tmp_path / "n.zarr").exists()


def test_what_no_translator_takes_is_refused(root, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("label\n0\n")
    with pytest.raises(ConfigError, match="'table' says what samples are to be, and this model translates images"):
        draw(root, tmp_path / "n.zarr", table=table)
    with pytest.raises(ConfigError, match=r"'label': a label lies in 0\.\.1, got 2"):
        draw(root, tmp_path / "n.zarr", label=2)
    data = str(root / "photos.npy")
    knobs = {"data": data, "width": "4", "depth": "1", "batch": "8", "budget": "8", "precision": "fp32"}
    train(RunFolder(tmp_path / "run"), resolve("gan", knobs), workers=0, fresh=False, screen=SCREEN)
    with pytest.raises(ConfigError, match="draws samples of its own: it translates no images"):
        draw(tmp_path, tmp_path / "n.zarr", data=data, label=0)


@pytest.fixture
def judged(monkeypatch):
    """A classifier of the domains that is trained for two steps."""

    def few(source, folder):
        images, labels = real.images(source, split(source)[0])
        return judge(folder, images, labels, images, labels, classes=2, steps=2)

    monkeypatch.setattr(evaluation, "judge_of", few)


@pytest.mark.usefixtures("judged")
def test_the_scores_are_those_of_the_rows(root, tmp_path):
    store = draw(root, tmp_path / "s.zarr", range(60))
    result = evaluate(tmp_path / "s.zarr", screen=SCREEN)
    found = {name: metric["value"] for name, metric in result["metrics"].items()}
    read = {
        name: values.astype(float) / 127.5 - 1
        for name, values in rows(store).items()
        if name in ("x", "image", "cycle")
    }
    assert found["cycle_error"] == pytest.approx(np.abs(read["cycle"] - read["image"]).mean(), rel=1e-5)
    label = rows(store)["label"]
    means = np.stack([read["image"][label == k].mean(0) for k in label])
    assert found["cycle_error_of_mean"] == pytest.approx(np.abs(means - read["image"]).mean(), rel=1e-5)
    source = RunFolder(root / "run").spec().load().source
    truth = source.truth(source.shown(torch.arange(60))[0]).numpy()
    assert found["translation_error"] == pytest.approx(np.abs(read["x"] - truth).mean(), rel=1e-5)
    assert found["translation_error_of_none"] == pytest.approx(np.abs(read["image"] - truth).mean(), rel=1e-5)
    assert 0.0 <= found["label_agreement"] <= 1.0
    floor = result["metrics"]["label_agreement"]["floor"]
    assert f"held-out accuracy {floor:.3f}" in result["protocol"]["classifier"]
    assert json.loads((tmp_path / "s.evaluation.json").read_text())["metrics"].keys() == found.keys()


@pytest.mark.usefixtures("judged")
def test_where_no_truth_is_known_it_is_said(root, tmp_path):
    draw(root, tmp_path / "s.zarr", range(40), label=0, data=str(root / "photos.npy"))
    result = evaluate(tmp_path / "s.zarr", screen=SCREEN)
    assert "translation_error" not in result["metrics"]
    assert "cycle_error" in result["metrics"]
    assert any(line.startswith("no translation error: the images were given") for line in result["left_out"])


def test_a_store_that_is_gone_on_with_is_the_same(root, tmp_path):
    wanted = rows(draw(root, tmp_path / "whole.zarr", range(130)))

    class Enough(Exception):
        pass

    commit, done = Store.commit, []

    def few(self, *given):
        if done:
            raise Enough
        done.append(1)
        return commit(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "commit", few)
        with pytest.raises(Enough):
            draw(root, tmp_path / "part.zarr", range(130))
    found = rows(draw(root, tmp_path / "part.zarr", range(130)))
    assert all(np.array_equal(values, wanted[name]) for name, values in found.items())
