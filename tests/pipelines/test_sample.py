"""Sampling in this process: tables, latents, moments. What Ray adds is in test_ray_pipelines.py."""

import numpy as np
import pytest
import torch
from gensys.pipelines import evaluate_images as evaluation
from gensys.pipelines import real
from gensys.pipelines import sample as sampling
from gensys.pipelines.decode import decode
from gensys.pipelines.evaluate import evaluate
from gensys.pipelines.moments import open_moments
from gensys.pipelines.sample import sample
from small_runs import SCREEN, Disturbed, flow_on_latents

from gensys.data.store import Store
from gensys.errors import ConfigError, DataError, RunError, StoreError
from gensys.evaluate.classifier import features, judge
from gensys.evaluate.frechet import Moments
from gensys.progress import Screen
from gensys.run_folder import RunFolder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A flow on the latents of a codec, both hardly trained, on images in three classes."""
    root = tmp_path_factory.mktemp("sample")
    flow_on_latents(root)
    return root


@pytest.fixture
def judged(monkeypatch):
    """A classifier that is trained for two steps."""

    def few(source, folder):
        images, labels = real.images(source, torch.arange(60))
        return judge(folder, images, labels, images, labels, classes=3, steps=2)

    monkeypatch.setattr(evaluation, "judge_of", few)
    monkeypatch.setattr(sampling, "judge_of", few)


def draw(root, out, ids=None, run="flow", **options):
    options = {"seed": 0, "label": None, "overrides": {}, "shard": 64, "workers": 0, "screen": SCREEN} | options
    return sample(RunFolder(root / run), out, ids=ids, **options)


def rows(store):
    return {name: store.read(name, range(len(store))) for name in store.config.arrays}


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def table(path, labels, guidance, seeds):
    lines = [f"{a},{b},{c}" for a, b, c in zip(labels, guidance, seeds, strict=True)]
    path.write_text("\n".join(["label,guidance,seed", *lines]))
    return path


def mixed(path, n=70):
    names, scales = ("ant", "bee", "cat"), (1.0, 3.0, 0.5)
    return table(
        path, [names[k % 3] for k in range(n)], [scales[k // 3 % 3] for k in range(n)], [k % 2 for k in range(n)]
    )


def test_a_row_of_the_table_is_drawn_as_if_all_were_like_it(root, tmp_path):
    store = draw(root, tmp_path / "t.zarr", table=mixed(tmp_path / "t.csv"))
    found = rows(store)
    assert found["label"].tolist() == [k % 3 for k in range(70)]
    assert found["guidance"].tolist() == [(1.0, 3.0, 0.5)[k // 3 % 3] for k in range(70)]
    assert found["seed"].tolist() == [k % 2 for k in range(70)]
    assert store.attributes["table"]
    for scale, seed in ((1.0, 0), (3.0, 1)):
        options = {"seed": seed, "overrides": {"guidance": str(scale)}}
        alike = rows(draw(root, tmp_path / f"{seed}.zarr", range(70), **options))
        chosen = (found["guidance"] == scale) & (found["seed"] == seed)
        assert chosen.sum() > 10
        np.testing.assert_array_equal(found["x"][chosen], alike["x"][chosen])
    others = table(tmp_path / "u.csv", ["cat"] * 66 + ["bee"], [2.0] * 66 + [3.0], [5] * 66 + [0])
    other = rows(draw(root, tmp_path / "u.zarr", table=others))  # the same row among others, in a shorter table
    same = rows(draw(root, tmp_path / "v.zarr", range(67), label="bee", overrides={"guidance": "3"}))
    np.testing.assert_array_equal(other["x"][66], same["x"][66])


def test_a_table_gives_the_same_rows_in_every_range_and_shard(root, tmp_path):
    path = mixed(tmp_path / "t.csv")
    whole, part = (
        draw(root, tmp_path / "w.zarr", table=path),
        draw(root, tmp_path / "p.zarr", range(30, 69), table=path),
    )
    large = draw(root, tmp_path / "l.zarr", table=path, shard=128)
    for name, values in rows(whole).items():
        np.testing.assert_array_equal(rows(part)[name], values[30:69], err_msg=name)
        np.testing.assert_array_equal(rows(large)[name], values, err_msg=name)


def test_interruptions_change_no_byte(root, tmp_path, judged):
    """Those of the moments among them, and of a table's samples."""
    path = mixed(tmp_path / "t.csv", 200)
    draw(root, tmp_path / "quiet.zarr", table=path, moments=True)
    out = tmp_path / "disturbed.zarr"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            draw(root, out, table=path, moments=True, pool=Disturbed(1))
    assert len(Store.open(out).missing()) == 2
    screen = Screen(quiet=True)
    draw(root, out, table=path, moments=True, pool=Disturbed(99), screen=screen)
    counts = screen.counts["sample"]
    assert counts.pop("samples") in (128, 72)  # the last shard holds 8
    assert counts == {"deaths": 0, "restarts": 0, "stragglers": 0}
    assert files(out) == files(tmp_path / "quiet.zarr")


def test_tables_that_do_not_fit_are_refused(root, tmp_path):
    path, out = mixed(tmp_path / "t.csv"), tmp_path / "s.zarr"
    with pytest.raises(ConfigError, match=r"'seeds' is 0:71, and the table .*t\.csv' has the rows 0:70"):
        draw(root, out, range(71), table=path)
    with pytest.raises(ConfigError, match=r"'label' is 1, and the table .* has labels of its own"):
        draw(root, out, label=1, table=path)
    (tmp_path / "p.csv").write_text("prompt\na bee\n")
    with pytest.raises(DataError, match="has the column 'prompt', and this model takes no texts"):
        draw(root, out, table=tmp_path / "p.csv")
    path.write_text("guidance\n1\n")
    with pytest.raises(DataError, match="has the column 'guidance', and this model takes no guidance for each sample"):
        draw(root, out, run="codec", table=path)
    assert not out.exists()
    mixed(path)
    draw(root, out, table=path)
    with pytest.raises(StoreError, match=r"was created for something else: 'attributes.table' is"):
        draw(root, out, table=table(path, ["ant"] * 70, [1] * 70, [0] * 70))


def test_latents_decode_to_the_samples_that_they_are(root, tmp_path):
    """The same bytes, store and picture; a range that begins and ends within a block."""
    options = {"ids": range(30, 170), "overrides": {"guidance": "3"}}
    direct, latents = (
        draw(root, tmp_path / "x.zarr", **options),
        draw(root, tmp_path / "z.zarr", latents=True, **options),
    )
    assert latents.config.arrays["z"].dtype == "float32"
    assert not (tmp_path / "z.png").exists()
    decode(tmp_path / "z.zarr", tmp_path / "d.zarr", workers=0, screen=SCREEN)
    assert files(tmp_path / "d.zarr") == files(direct.path)
    assert (tmp_path / "d.png").read_bytes() == (tmp_path / "x.png").read_bytes()
    with pytest.raises(RunError, match=r"does not hold samples: decode it first"):
        evaluate(tmp_path / "z.zarr", screen=SCREEN)
    with pytest.raises(RunError, match=r"x\.zarr' holds no sampled latents"):
        decode(direct.path, tmp_path / "e.zarr", workers=0, screen=SCREEN)
    with pytest.raises(ConfigError, match="without a codec: there are no latents"):
        draw(root, tmp_path / "c.zarr", run="codec", latents=True)
    with pytest.raises(ConfigError, match="'moments' are those of images"):
        draw(root, tmp_path / "m.zarr", latents=True, moments=True)


def test_moments_give_the_distance_of_a_second_pass(root, tmp_path, judged):
    ids = range(10, 600)
    store, plain = draw(root, tmp_path / "m.zarr", ids, moments=True), draw(root, tmp_path / "p.zarr", ids)
    second, first = evaluate(plain.path, screen=SCREEN), evaluate(store.path, screen=SCREEN)
    quick = evaluate(store.path, screen=SCREEN, quick=True)
    values = [result["metrics"]["fd_lenet_590"]["value"] for result in (second, first, quick)]
    assert values[1:] == pytest.approx([values[0]] * 2, rel=1e-9)
    assert quick["metrics"]["fd_lenet_590"]["low"] < values[0] < quick["metrics"]["fd_lenet_590"]["high"]
    assert list(quick["metrics"]) == ["fd_lenet_590"]
    assert quick["protocol"]["moments"] == "of 10 shards, taken while sampling"
    with pytest.raises(RunError, match=r"--quick needs the moments of .*, and none are stored"):
        evaluate(plain.path, screen=SCREEN, quick=True)
    draw(root, plain.path, ids, moments=True)  # later, from the images: the same
    assert files(open_moments(plain).path) == files(open_moments(store).path)
    bad = open_moments(store).file("mean", 3)
    bad.write_bytes(bytes([bad.read_bytes()[0] ^ 1]) + bad.read_bytes()[1:])
    with pytest.raises(StoreError, match=r"the moments .* are damaged \(shard 3, mean: .*remove that folder"):
        evaluate(store.path, screen=SCREEN, quick=True)


def test_moments_are_those_of_all_rows(root, tmp_path, judged):
    store = draw(root, tmp_path / "m.zarr", range(200), moments=True)
    inner = open_moments(store)
    classifier = sampling.judge_of(real.real_source(RunFolder(root / "flow"))[0], root / "flow" / "judge").classifier
    x = torch.from_numpy(Store.open(store.path).read("x", range(200))).float() / 127.5 - 1.0
    whole = features(classifier, x).numpy()
    n, mean, scatter = (torch.from_numpy(inner.read(name, range(4))) for name in ("n", "mean", "scatter"))
    parts = [Moments(int(n[k]), mean[k], scatter[k]) for k in range(4)]
    total = Moments.fold(parts)
    assert [part.n for part in parts] == [64, 64, 64, 8]
    np.testing.assert_allclose(total.mean, whole.mean(0), rtol=1e-13)
    np.testing.assert_allclose(total.covariance(), np.cov(whole.T), rtol=1e-9, atol=1e-13)


def test_a_model_that_hears_no_label_is_asked_for_none(root, tmp_path, judged, monkeypatch):
    flow = RunFolder(root / "flow")
    monkeypatch.setattr(type(flow.model()), "conditions", frozenset({"guidance", "seed"}))
    store = draw(root, tmp_path / "deaf.zarr", range(70))
    assert set(rows(store)["label"].tolist()) == {-1}
    with pytest.raises(ConfigError, match="no labels"):
        draw(root, tmp_path / "three.zarr", range(70), label=2)
    found = evaluate(tmp_path / "deaf.zarr", screen=SCREEN)
    assert "label_agreement" not in found["metrics"]
    assert "no label agreement: the samples were drawn without labels" in found["left_out"]
