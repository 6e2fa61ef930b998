"""`gensys evaluate`: what it says it compared is what it compared, and every store has a file of its own."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gensys.pipelines import evaluate as pipeline
from gensys.pipelines import evaluate_images, real
from gensys.pipelines.evaluate_images import Asked
from gensys.pipelines.train import train
from PIL import Image
from safetensors.torch import save_file

from gensys.data.sources import open_source, split
from gensys.data.store import ArraySpec, Store
from gensys.errors import ConfigError, DataError, GensysError, RunError
from gensys.evaluate.classifier import Judge, weights_hash
from gensys.nn.lenet import LeNet
from gensys.progress import Screen
from gensys.run import resolve
from gensys.run_folder import RunFolder

SCREEN = Screen(quiet=True)


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """The run of a codec, trained for a step on 60 images in two classes."""
    root = tmp_path_factory.mktemp("evaluate")
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / "images" / name).mkdir(parents=True)
        for k in range(30):
            Image.fromarray(draw.integers(0, 256, (28, 28), np.uint8)).save(root / "images" / name / f"{k}.png")
    knobs = {"data": str(root / "images"), "size": "28", "width": "8", "batch": "8", "budget": "8", "precision": "fp32"}
    train(RunFolder(root / "run"), resolve("kl_autoencoder", knobs), workers=0, fresh=False, screen=SCREEN)
    return root / "run"


@pytest.fixture
def judged(monkeypatch):
    """A classifier that was never trained, in place of the one that would be; kept as that one is."""
    torch.manual_seed(0)
    network = LeNet(1, 2).eval()
    meta = {"weights": weights_hash(network), "accuracy": 0.5, "held_out": 3, "trained_on": 57, "seed": 0, "steps": 1}

    def judge(source, folder):
        folder.mkdir(exist_ok=True)
        save_file(network.state_dict(), folder / "untrained.safetensors")
        (folder / "untrained.json").write_text(json.dumps(meta))
        return Judge(network, **meta)

    monkeypatch.setattr(evaluate_images, "judge_of", judge)


def samples(path, run, n, labels=True, weights="ab" * 32, knobs=None, asked=None):
    """asked: attributes of a store whose samples are all of one class; its "label" is which."""
    arrays = {"x": ArraySpec((1, 28, 28), "uint8"), "label": ArraySpec((), "int64")}
    about = {"kind": "samples", "run": str(run), "weights": weights, "knobs": dict(knobs or {}), "seed": 0, "first": 0}
    about |= asked or {}
    store = Store.create(path, arrays, rows=n, shard=n, chunk=n, attributes=about)
    x = np.random.default_rng(1).integers(0, 256, (n, 1, 28, 28), np.uint8)
    one = about.get("label", -1)
    store.commit(0, {"x": x, "label": np.arange(n) % 2 if labels and one < 0 else np.full(n, one)})
    store.seal({})
    return path


def test_the_protocol_counts_the_rows_that_were_used(codec, judged, tmp_path):
    train_rows, test_rows = map(len, split(open_source(codec.parent / "images", 28)))
    few = pipeline.evaluate(samples(tmp_path / "few.zarr", codec, 20), screen=SCREEN)
    assert few["protocol"]["reference"] == f"{test_rows} test rows and {20 - test_rows} training rows"
    sets = (train_rows - (20 - test_rows)) // 20
    assert sets > 1
    assert few["protocol"]["floor"] == f"20 other training rows, same reference, mean of {sets} sets"
    assert few["metrics"]["fd_lenet_20"]["spread"] > 0
    for n in (60, 100):  # more than there are: the reference is all there is
        many = pipeline.evaluate(samples(tmp_path / f"{n}.zarr", codec, n), screen=SCREEN)
        used = min(n - test_rows, train_rows)
        assert many["protocol"]["reference"] == f"{test_rows} test rows and {used} training rows"
        assert many["protocol"]["floor"] == "none: too few real data"
        assert many["metrics"][f"fd_lenet_{n}"]["floor"] is None
        assert f"{test_rows + used} real images" in many["metrics"][f"fd_lenet_{n}"]["about"]


def test_what_is_left_out_is_told(codec, judged, tmp_path):
    result = pipeline.evaluate(samples(tmp_path / "s.zarr", codec, 60, labels=False), screen=SCREEN)
    assert [line.split(":")[0] for line in result["left_out"]] == ["no floors", "no label agreement", "no memorisation"]
    assert not {"memorisation_ratio", "label_agreement"} & set(result["metrics"])
    assert json.loads(Path(result["file"]).read_text())["left_out"] == result["left_out"]


def test_no_classifier_is_trained_that_nothing_asks_for(codec, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_images, "judge_of", None)  # would fail
    (tmp_path / "halves.py").write_text("def halves(x):\n    return x.flatten(1)[:, ::98]\n")
    monkeypatch.syspath_prepend(tmp_path)
    asked = Asked(("fd", "memorisation"), features="halves:halves")
    result = pipeline.evaluate(samples(tmp_path / "s.zarr", codec, 20), screen=SCREEN, asked=asked)
    assert any(name.startswith("fd_") for name in result["metrics"])
    assert "classifier" not in result["protocol"]


def test_a_store_is_not_scored_into_the_file_of_another(codec, judged, tmp_path):
    reconstruction = pipeline.evaluate(codec, screen=SCREEN)
    assert Path(reconstruction["file"]) == codec / "evaluation.json"
    assert reconstruction["left_out"] == []
    with Image.open(codec / "reconstructions.png") as picture:
        assert picture.size == (2 * (10 * 29 + 1), 2 * (2 * 29 + 1))
    before = (codec / "evaluation.json").read_bytes()
    other = pipeline.evaluate(samples(tmp_path / "other.zarr", codec, 20), screen=SCREEN)
    assert Path(other["file"]) == tmp_path / "other.evaluation.json"
    assert (codec / "evaluation.json").read_bytes() == before
    own = samples(codec / "samples.zarr", codec, 20)
    for target in (own, codec):
        assert Path(pipeline.evaluate(target, screen=SCREEN)["file"]) == codec / "evaluation.json"
    assert (codec / "evaluation.json").read_bytes() != before


def test_what_cannot_be_scored_says_why(codec, judged, tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"cannot be scored: 6 samples and 6 real images are the least, got 5 and 5"):
        pipeline.evaluate(samples(tmp_path / "five.zarr", codec, 5), screen=SCREEN)

    def damaged(*_, **__):
        raise DataError("an image cannot be read")

    monkeypatch.setattr(evaluate_images, "evaluate_features", damaged)
    with pytest.raises(DataError, match=r"^an image cannot be read"):
        pipeline.evaluate(samples(tmp_path / "s.zarr", codec, 20), screen=SCREEN)


@pytest.mark.parametrize(
    ("recipe", "knobs", "told"),
    [
        ("vae", {"width": "8", "latent": "4"}, None),
        ("vae", {"width": "8", "latent": "4", "observation": "bernoulli"}, "this model has no likelihood of such data"),
        ("kl_autoencoder", {"width": "8"}, "this model has no likelihood of its data"),
    ],
)
def test_the_likelihood_of_held_out_rows_is_taken_where_there_is_one(codec, judged, tmp_path, recipe, knobs, told):
    folder = RunFolder(tmp_path / "run")
    knobs |= {"data": str(codec.parent / "images"), "size": "28", "batch": "8", "budget": "8", "precision": "fp32"}
    train(folder, resolve(recipe, knobs), workers=0, fresh=False, screen=SCREEN)
    path = samples(tmp_path / "s.zarr", folder.path, 20, weights=folder.weights_digest(), knobs=folder.spec().knobs)
    result = pipeline.evaluate(path, screen=SCREEN, bits=3)
    if told:
        assert "bits_per_dim" not in result["metrics"]
        assert f"no bits per dimension: {told}" in result["left_out"]
    else:
        found = result["metrics"]["bits_per_dim"]
        assert (found["n"], found["better"], found["floor"]) == (3, "lower", None)
        assert 4.0 < found["value"] < 12.0  # of random pixels, which have 8
        assert found["about"].endswith("importance-weighted bound, 64 draws")
        assert pipeline.evaluate(path, screen=SCREEN, bits=3)["metrics"]["bits_per_dim"] == found


def test_what_samples_were_asked_to_be_is_told(codec, judged, tmp_path, monkeypatch):
    monkeypatch.setattr(type(RunFolder(codec).spec().model()), "conditions", frozenset({"label"}))
    both = pipeline.evaluate(samples(tmp_path / "both.zarr", codec, 20), screen=SCREEN, asked=Asked(("fd",)))
    assert (both["left_out"], "asked for" in both["protocol"]) == ([], False)
    path = samples(tmp_path / "one.zarr", codec, 20, asked={"label": 1, "classes": ["cat", "dog"]})
    one = pipeline.evaluate(path, screen=SCREEN, asked=Asked(("fd",)))
    assert one["protocol"]["asked for"] == "'dog' alone"
    (told,) = one["left_out"]
    assert told.startswith("classes of the samples: their shares are not those of real data (total variation 0.")


def test_shares_of_classes_differ_beyond_chance():
    g = torch.Generator().manual_seed(0)
    in_turn = torch.arange(1000)
    for classes in (2, 10, 1000):
        drawn = torch.randint(classes, (100, 1000), generator=g)
        assert not any(real.told_of_shares(in_turn % classes, known) for known in drawn)
        assert real.told_of_shares(torch.zeros_like(in_turn), drawn[0])
    assert "0.40" in real.told_of_shares(in_turn % 2, (in_turn % 10 == 0).long())[0]
    assert not real.told_of_shares(torch.full((9,), -1), in_turn)


def test_a_classifier_needs_classes(tmp_path):
    with pytest.raises(RunError, match="has no classes"):
        real.judge_of(SimpleNamespace(classes=(), name="nothing"), tmp_path)


def test_other_real_data_and_some_metrics_may_be_asked_for(codec, judged, tmp_path, monkeypatch):
    hearing = type(RunFolder(codec).spec().model())  # the samples are said to be of a codec, which hears no label
    monkeypatch.setattr(hearing, "conditions", frozenset({"label"}))
    draw = np.random.default_rng(5)
    for k in range(40):
        (tmp_path / "others" / "cat").mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 40, (28, 28), np.uint8)).save(tmp_path / "others" / "cat" / f"{k}.png")
    path = samples(tmp_path / "s.zarr", codec, 20)
    own = pipeline.evaluate(path, screen=SCREEN, asked=Asked(("fd", "labels")))
    assert own["options"] == ["--metrics", "fd,labels"]
    assert Asked(workers=2, features="efficientnet-lite0").words() == ["--features", "efficientnet-lite0"]
    assert set(own["metrics"]) == {"fd_lenet_20", "label_agreement"}
    beside = Asked(("fd", "diversity"), reference=str(tmp_path / "others"))
    other = pipeline.evaluate(path, screen=SCREEN, asked=beside)
    assert "of any class" in other["metrics"]["diversity_lenet"]["about"]  # theirs are other classes
    assert other["metrics"]["fd_lenet_20"]["value"] > own["metrics"]["fd_lenet_20"]["value"]
    assert other["protocol"]["data fingerprint"] != own["protocol"]["data fingerprint"]
    again = pipeline.evaluate(path, screen=SCREEN, asked=Asked(("fd", "labels")))
    assert again["metrics"] == own["metrics"]
    monkeypatch.setattr(hearing, "conditions", frozenset())
    deaf = pipeline.evaluate(path, screen=SCREEN, asked=Asked(("fd", "labels")))
    assert (set(deaf["metrics"]), len(deaf["left_out"])) == ({"fd_lenet_20"}, 1)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (Asked(("fd", "fiddle")), "'metrics' names 'fiddle', and there are fd, kid, prdc"),
        (Asked(features="nothing"), "features 'nothing' are unknown"),
        (Asked(reference="small.npy"), "holds data of shape .1, 16, 16., and samples are .1, 28, 28."),
    ],
)
def test_what_cannot_be_compared_is_refused(codec, judged, tmp_path, monkeypatch, asked, told):
    monkeypatch.chdir(tmp_path)
    np.save("small.npy", np.zeros((20, 1, 16, 16), np.uint8))
    with pytest.raises(GensysError, match=told):
        pipeline.evaluate(samples(tmp_path / "s.zarr", codec, 20), screen=SCREEN, asked=asked)
    with pytest.raises(ConfigError, match="--metrics has no effect on --quick: leave it out"):
        pipeline.evaluate(tmp_path / "s.zarr", screen=SCREEN, quick=True, asked=Asked(("fd",)))


def without_samples(run, path):
    """A copy of a run."""
    return shutil.copytree(run, path, ignore=shutil.ignore_patterns("samples*"))


@pytest.mark.parametrize(
    ("asked", "more", "told"),
    [
        (Asked(clip="folder"), {}, "--clip has no effect on the reconstructions of '.*run', which has no samples yet"),
        (Asked(workers=2), {}, "--workers has no effect on the reconstructions"),
        (Asked(), {"predict": "age"}, "--predict has no effect on the reconstructions"),
    ],
)
def test_what_has_no_effect_on_reconstructions_is_refused(codec, tmp_path, asked, more, told):
    with pytest.raises(ConfigError, match=told):
        pipeline.evaluate(without_samples(codec, tmp_path / "run"), screen=SCREEN, asked=asked, **more)


def test_reconstructions_have_a_likelihood_beside_them(codec, tmp_path):
    alone = without_samples(codec, tmp_path / "codec")
    assert pipeline.evaluate(alone, screen=SCREEN, bits=3)["left_out"] == [
        "no bits per dimension: this model has no likelihood of its data"
    ]
    knobs = {"width": "8", "latent": "4", "data": str(codec.parent / "images"), "size": "28", "batch": "8"}
    folder = RunFolder(tmp_path / "run")
    train(folder, resolve("vae", {**knobs, "budget": "8", "precision": "fp32"}), workers=0, fresh=False, screen=SCREEN)
    found = pipeline.evaluate(folder.path, screen=SCREEN, bits=3)
    assert (found["metrics"]["bits_per_dim"]["n"], found["left_out"]) == (3, [])
    assert "reconstruction_mse" in found["metrics"]


def test_images_that_are_in_both_splits_leave_memorisation_out(monkeypatch):
    known, told = torch.zeros(100, 1, 28, 28), []
    rows = torch.arange(100)
    monkeypatch.setattr(evaluate_images, "images", lambda source, rows: (known, rows))
    seen = SimpleNamespace(features=torch.zeros(100, 2).double())
    subject, real_rows = SimpleNamespace(source=None, samples=known), SimpleNamespace(train=rows, test=rows)
    of, extractor = (lambda source, rows: seen), SimpleNamespace(name="none")
    assert evaluate_images._copying(subject, real_rows, seen, extractor, of, told.append) == {}
    assert told == ["no memorisation: one in a hundred held-out images, or more, are training images too"]
