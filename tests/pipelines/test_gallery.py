"""What a report is given beside the samples: the nearest training images, a map, scores with other numbers of steps."""

import json
import shutil

import numpy as np
import pytest
import torch
from gensys.pipelines import evaluate_images as evaluation
from gensys.pipelines import gallery
from gensys.pipelines import tradeoff as module
from gensys.pipelines.evaluate import evaluate
from gensys.pipelines.gallery import add_map, add_neighbours
from gensys.pipelines.sample import sample
from gensys.pipelines.tradeoff import add_tradeoff
from gensys.pipelines.train import train
from small_runs import SCREEN, flow_on_latents

from gensys.data.sources import open_source, split
from gensys.data.store import ArraySpec, Store
from gensys.errors import ConfigError
from gensys.evaluate.classifier import features, judge
from gensys.noise import Noise
from gensys.pictures import to_uint8
from gensys.progress import Screen
from gensys.report import complete
from gensys.report.latent_map import drawn, principal, read_map
from gensys.report.neighbours import read_neighbours
from gensys.run import resolve
from gensys.run_folder import RunFolder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A flow on the latents of a codec, and one on pixels, hardly trained, on images in three classes."""
    root = tmp_path_factory.mktemp("gallery")
    flow_on_latents(root, guidance="1")
    return root


@pytest.fixture
def flow(root):
    """The flow, of which nothing was drawn yet; its samples are set by `given`."""
    for path in (root / "flow").iterdir():
        if path.name in ("map.json", "neighbours.json", "neighbours.png"):
            path.unlink()
    return root / "flow"


def given(folder, x, labels):
    """Samples that are these images."""
    path = folder / "samples.zarr"
    if path.exists():
        shutil.rmtree(path)
    n = len(x)
    arrays = {"x": ArraySpec(tuple(x.shape[1:]), "uint8"), "label": ArraySpec((), "int64")}
    store = Store.create(path, arrays, rows=n, shard=n, chunk=n, attributes={"kind": "samples"})
    store.commit(0, {"x": to_uint8(x).numpy(), "label": labels.numpy()})
    store.seal({})


def data(root):
    source = open_source(root / "images", 28)
    train_rows, test_rows = split(source)
    return source, train_rows, test_rows


def test_copies_are_found_and_new_images_have_their_nearest(root, flow, monkeypatch):
    source, rows, _ = data(root)
    monkeypatch.setattr(gallery, "_AT_ONCE", 7)  # the best of several blocks
    copied = rows[[50, 3, 99, 20]]
    x = source.batch(torch.cat([copied, rows[:8]]), Noise(0, torch.cat([copied, rows[:8]]))).x
    x[4:] = (x[4:] + 0.3 * x[4:].flip(0)).clamp(-1, 1)
    given(flow, x, torch.arange(12) % 3)
    add_neighbours(flow, SCREEN)
    pairs = json.loads((flow / "neighbours.json").read_text())["pairs"]
    assert len(pairs) == 10
    assert [pair["row"] for pair in pairs[:4]] == copied.tolist()
    assert [pair["name"] for pair in pairs[:4]] == source.named(copied)
    assert max(pair["distance"] for pair in pairs[:4]) < 1e-6
    pixels = (to_uint8(x[:10]).double() / 127.5 - 1).flatten(1)
    real = source.batch(rows, Noise(0, rows)).x.double().flatten(1)
    distances = torch.cdist(pixels, real) / 28
    assert [pair["distance"] for pair in pairs] == pytest.approx(distances.amin(1).tolist(), abs=1e-6)
    assert [pair["row"] for pair in pairs] == rows[distances.argmin(1)].tolist()
    found = read_neighbours(flow)
    assert [pair.name for pair in found.pairs] == [pair["name"] for pair in pairs]
    assert found.held_out == len(data(root)[2])


def test_the_map_of_a_latent_model_is_of_its_codec(root, flow):
    source, rows, test = data(root)
    every = torch.cat([rows, test])
    x = source.batch(every, Noise(0, every)).x
    given(flow, x, source.batch(every, Noise(0, every)).cond["label"])
    add_map(flow, SCREEN)
    found = read_map(flow)
    assert (found.of, found.classes) == ("latents", ("ant", "bee", "cat"))
    assert len(found.real) == len(found.samples) == 120
    # the samples are the real images, in another order: so are the points
    for real, made in zip(sorted(found.real), sorted(found.samples), strict=True):
        assert real == pytest.approx(made, rel=1e-2, abs=1e-3)
    codec = RunFolder(root / "codec").model()
    with torch.no_grad():
        z = codec.encode(x).mode
    z = (z / z.std([0, 2, 3], keepdim=True)).flatten(1)
    centre, axes, explained = principal(z)
    assert found.explained == pytest.approx(explained, rel=1e-3)
    wanted = ((z.double() - centre) @ axes).tolist()
    assert [spot[:2] for spot in found.samples] == pytest.approx(np.array(wanted), rel=1e-2, abs=2e-2)


def test_the_map_of_others_is_of_features(root, flow, monkeypatch):
    source, rows, _ = data(root)
    images = source.batch(rows[:60], Noise(0, rows[:60]))
    judged = judge(root / "judge", images.x, images.cond["label"], images.x, images.cond["label"], classes=3, steps=2)
    monkeypatch.setattr(gallery, "judge_of", lambda source, folder: judged)
    monkeypatch.setattr(gallery, "real_source", lambda folder: (source, None))
    given(flow, images.x, images.cond["label"])
    add_map(flow, SCREEN)
    found = read_map(flow)
    assert found.of == "features of a classifier"
    every = torch.cat(split(source)[:2])
    points = features(judged.classifier, source.batch(every, Noise(0, every)).x)
    assert found.explained == pytest.approx(principal(points)[2], rel=1e-3)


def test_both_are_made_once_and_again_of_other_samples(root, flow, monkeypatch):
    source, rows, _ = data(root)
    x = source.batch(rows[:12], Noise(0, rows[:12])).x
    given(flow, x, torch.zeros(12, dtype=torch.int64))
    assert not complete(flow)
    for add in (add_neighbours, add_map):
        add(flow, SCREEN)
    assert complete(flow)
    with monkeypatch.context() as patch:
        patch.setattr(gallery, "real_source", None)  # would fail
        for add in (add_neighbours, add_map):
            add(flow, SCREEN)
    given(flow, -x, torch.zeros(12, dtype=torch.int64))
    assert read_map(flow) is None
    assert read_neighbours(flow) is None
    for add in (add_neighbours, add_map):
        add(flow, SCREEN)
    assert complete(flow)


def of_rows(tmp_path, text, x, label=None):
    """A run of a table, and samples of it."""
    (tmp_path / "t.csv").write_text(text)
    folder = RunFolder(tmp_path / "run")
    spec = resolve("nsf", {"data": str(tmp_path / "t.csv"), "budget": "8", "batch": "8"})
    train(folder, spec, workers=0, fresh=False, screen=SCREEN)
    arrays = {"x": ArraySpec(x.shape[1:], "float32"), "label": ArraySpec((), "int64")}
    store = Store.create(folder.path / "samples.zarr", arrays, rows=len(x), shard=len(x), chunk=len(x), attributes={})
    store.commit(0, {"x": x, "label": np.full(len(x), -1) if label is None else label})
    store.seal({})
    add_neighbours(folder.path, SCREEN)
    add_map(folder.path, SCREEN)
    return read_map(folder.path)


def test_points_of_a_plane_stay_where_they_are(tmp_path):
    rows = np.random.default_rng(0).normal(3.0, 1.0, (40, 2)).astype(np.float32)
    text = "a,b,label\n" + "".join(f"{a},{b},{'xy'[k % 2]}\n" for k, (a, b) in enumerate(rows))
    found = of_rows(tmp_path, text, np.array([[1, 2], [5, -3]], np.float32), np.array([0, 1]))
    assert found.samples == ((1.0, 2.0, 0), (5.0, -3.0, 1))
    assert sorted(found.real) == [
        (pytest.approx(a, rel=1e-3), pytest.approx(b, rel=1e-3), k)
        for a, b, k in sorted((float(a), float(b), k % 2) for k, (a, b) in enumerate(rows))
    ]
    assert (found.kind, found.explained) == ("rows", None)
    assert found.where == "The axes are a, across and b, up."
    assert "real rows, faint" in drawn(found)


def test_the_map_of_a_table_is_of_its_columns(tmp_path):
    """One that never changes moves nothing, and none outweighs the others by its unit."""
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32) * [1, 1e4, 0, 1] + [0, 0, 7.5, 0]
    x[:, 3] = x[:, 0]
    text = "a,b,c,d\n" + "".join(",".join(map(str, row)) + "\n" for row in x)
    found = of_rows(tmp_path, text, x.astype(np.float32))
    assert found.explained == pytest.approx((2 / 3, 1 / 3), abs=0.05)
    assert (found.of, found.classes) == ("columns", ())
    assert sorted(found.samples) == sorted(found.real)
    assert "coloured" not in drawn(found)


def test_a_run_without_pictures_has_neither(root, flow, tmp_path):
    (tmp_path / "run.json").write_text((flow / "run.json").read_text())
    add_neighbours(tmp_path, SCREEN)
    store = Store.create(
        tmp_path / "samples.zarr", {"x": ArraySpec((1,), "float32")}, rows=2, shard=2, chunk=2, attributes={}
    )
    store.commit(0, {"x": np.zeros((2, 1), np.float32)})
    store.seal({})
    add_map(tmp_path, SCREEN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "samples.zarr"]


# ---------------------------------------------------------------------------------------------------- steps and quality


@pytest.fixture
def scored(monkeypatch):
    """Few samples, whose scoring is only noted."""
    noted = []

    def score(store, screen):
        noted.append(store.name)
        store.with_name(f"{store.stem}.evaluation.json").write_text("{}")

    monkeypatch.setattr(module, "SAMPLES", 8)
    monkeypatch.setattr(module, "evaluate", score)
    return noted


class Said(Screen):
    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def line(self, text):
        self.lines.append(text)


def test_samples_are_drawn_with_every_number_of_steps_and_kept(root, scored):
    folder, screen = RunFolder(root / "flow"), Said()
    add_tradeoff(folder, [3, 1, 3], screen=screen)
    assert scored == ["1.zarr", "3.zarr"]
    assert "8 samples each with so many steps (network calls a sample): 1 (1), 3 (5); 48 calls" in screen.lines[0]
    stores = {k: Store.open(root / "flow" / "nfe" / f"{k}.zarr") for k in (1, 3)}
    assert [store.attributes["knobs"]["steps"] for store in stores.values()] == [1, 3]
    alone = sample(
        folder, root / "alone.zarr", ids=range(8), seed=0, label=None, overrides={"steps": "3"}, shard=None, workers=0,
        screen=SCREEN,
    )  # fmt: skip
    assert (stores[3].read("x", range(8)) == alone.read("x", range(8))).all()
    add_tradeoff(folder, [1, 3], screen=screen)
    assert len(scored) == 2
    assert sum("so many steps" in line for line in screen.lines) == 1
    add_tradeoff(folder, [1, 2], screen=screen)
    assert scored[2:] == ["2.zarr"]


@pytest.mark.parametrize("how", ["damaged", "weights", "knobs", "half"])
def test_what_is_damaged_or_of_another_model_is_drawn_anew(root, scored, how):
    folder, path = RunFolder(root / "flow"), root / "flow" / "nfe" / "1.zarr"
    add_tradeoff(folder, [1], screen=SCREEN)
    scored.clear()
    if how == "damaged":
        (path / "zarr.json").write_text("{}")
    elif how == "half":
        path.with_name("1.evaluation.json").unlink()
    else:
        about = dict(Store.open(path).attributes) | ({"weights": "0" * 64} if how == "weights" else {"knobs": {}})
        shutil.rmtree(path)
        Store.create(path, {"x": ArraySpec((3,), "uint8")}, rows=8, shard=8, chunk=8, attributes=about)
    add_tradeoff(folder, [1], screen=SCREEN)
    assert scored == ["1.zarr"]
    store = Store.open(path)
    assert store.sealed
    assert store.attributes["weights"] == folder.weights_digest()


@pytest.mark.parametrize(("run", "steps", "match"), [("flow", [0, 2], "list of numbers"), ("codec", [2], "no steps")])
def test_what_has_no_steps_is_refused(root, run, steps, match):
    with pytest.raises(ConfigError, match=match):
        add_tradeoff(RunFolder(root / run), steps, screen=SCREEN)


def test_the_protocol_says_how_many_network_calls_a_sample_took(root, monkeypatch):
    source, rows, _ = data(root)
    images = source.batch(rows[:60], Noise(0, rows[:60]))
    known = (images.x, images.cond["label"], images.x, images.cond["label"])
    monkeypatch.setattr(evaluation, "judge_of", lambda source, folder: judge(folder, *known, classes=3, steps=2))
    options = {"seed": 0, "label": None, "shard": 64, "workers": 0, "screen": SCREEN}
    sample(RunFolder(root / "flow"), root / "s.zarr", ids=range(80), overrides={"steps": "4"}, **options)
    protocol = evaluate(root / "s.zarr", screen=SCREEN)["protocol"]
    assert (protocol["steps"], protocol["network calls"]) == (4, 7)  # Heun's last step is Euler's
