"""A table of numbers and words from its file to its scores: train, sample, a table again, evaluate."""

import builtins
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gensys.pipelines.evaluate import evaluate
from gensys.pipelines.evaluate_images import Asked
from gensys.pipelines.sample import sample
from gensys.pipelines.tradeoff import add_tradeoff
from gensys.pipelines.train import train

from gensys.columns import Column
from gensys.data.sources import open_source
from gensys.errors import ConfigError, DataError, RunError
from gensys.noise import Noise
from gensys.objectives.observation import Columns, Gaussian
from gensys.progress import Screen
from gensys.run import resolve
from gensys.run_folder import RunFolder

SCREEN = Screen(quiet=True)
VAE = {"width": "8", "latent": "2", "depth": "1", "batch": "32", "budget": "320", "precision": "fp32"}


def clinic(path, n=400, label="diagnosis"):
    """A table whose age is in the thousands, with words for the sex and the diagnosis, and a dose of 0.5, 1 or 2."""
    draw = np.random.default_rng(0)
    z = draw.normal(size=n)
    lines = [f"age,sex,dose,{label}"]
    for k, value in enumerate(z):
        ill = value + draw.normal() > 0
        lines.append(f"{5000 + 900 * value:.1f},{'fm'[k % 2]},{(0.5, 1, 2)[k % 3]},{'ill' if ill else 'well'}")
    path.write_text("\n".join(lines) + "\n")
    return path


def trained(root, recipe="vae", knobs=VAE, **more):
    folder = RunFolder(root / "run")
    train(folder, resolve(recipe, {**knobs, **more}), workers=0, fresh=False, screen=SCREEN)
    return folder


def drawn(folder, n=150, out="samples.zarr", **overrides):
    return sample(
        folder,
        folder.path / out,
        ids=range(n),
        seed=0,
        label=None,
        overrides=overrides,
        shard=None,
        workers=0,
        screen=SCREEN,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A VAE of the table, and 150 draws of it."""
    root = tmp_path_factory.mktemp("clinic")
    found = trained(root, data=str(clinic(root / "clinic.csv")), categorical="dose")
    drawn(found, noisy="true")
    return found


def test_the_model_has_the_columns_and_the_units_of_the_table(folder):
    run = folder.spec().load()
    assert [column.categories for column in run.source.columns] == [
        (),
        ("f", "m"),
        ("0.5", "1", "2"),
        ("ill", "well"),
    ]
    seen = folder.model().observation
    ages = run.source.batch(run.rows, Noise(0, run.rows)).x[:, 0]
    assert seen.categories == (0, 2, 3, 2)
    assert seen.centres[0] == pytest.approx(ages.mean().item(), rel=1e-5)
    assert seen.spreads[0] == pytest.approx(ages.std(correction=0).item(), rel=1e-5)


def test_samples_are_a_table_again(folder):
    table = open_source(folder.path / "samples.csv")
    assert [column.name for column in table.columns] == ["age", "sex", "dose", "diagnosis"]
    assert table.columns[1].categories == ("f", "m")
    assert len(table) == 150
    assert not table.quarantine()
    assert 3000 < np.median(table.x[:, 0]) < 7000
    assert set(np.unique(table.x[:, 2])) <= {0.5, 1, 2}


def test_a_table_is_scored(folder):
    result = evaluate(folder.path, screen=SCREEN, bits=10)
    assert result["left_out"] == []
    metrics = result["metrics"]
    assert {"ks_complement", "tv_complement", "mixed_similarity", "c2st_auc", "tstr_linear"} < set(metrics)
    assert metrics["bits_per_dim"]["n"] == 10
    assert "of 'diagnosis' by linear" in metrics["tstr_linear"]["about"]
    assert metrics["identical_rows"]["value"] < 0.05
    for name in set(metrics) - {"bits_per_dim"}:
        assert metrics[name]["floor"] is not None, name
    assert [told["column"] for told in result["columns"]] == ["age", "sex", "dose", "diagnosis"]
    assert set(result["columns"][2]["shares"]) == {"0.5", "1", "2"}
    assert "classifier" not in result["protocol"]
    assert result["protocol"]["predicted"] == "diagnosis"
    kept = json.loads((folder.path / "evaluation.json").read_text())
    assert kept["metrics"] == metrics


def test_a_path_model_draws_the_words_of_the_table(tmp_path):
    path = clinic(tmp_path / "clinic.csv")
    knobs = {"width": "16", "batch": "32", "budget": "640", "precision": "fp32", "steps": "2"}
    folder = trained(tmp_path, "flow_matching", knobs, data=str(path), categorical="dose")
    drawn(folder, 100)
    assert folder.model().categories == (0, 2, 3, 2)
    table = open_source(folder.path / "samples.csv")
    assert [column.categories for column in table.columns] == [(), ("f", "m"), (), ("ill", "well")]
    assert set(np.unique(table.x[:, 2])) <= {0.5, 1, 2}
    assert not table.quarantine()
    result = evaluate(folder.path, screen=SCREEN, bits=10)
    assert result["left_out"] == ["no bits per dimension: this model has no likelihood of such data"]
    assert {"tv_complement", "contingency_similarity", "tstr_linear"} < set(result["metrics"])


def test_more_samples_than_real_rows_have_few_floors(folder):
    drawn(folder, 380, "many.zarr", noisy="true")
    result = evaluate(folder.path / "many.zarr", screen=SCREEN, predict="age")
    assert Path(result["file"]) == folder.path / "many.evaluation.json"
    assert [line.split(":")[0] for line in result["left_out"]] == ["few floors"]
    assert result["metrics"]["ks_complement"]["floor"] is None
    assert result["metrics"]["tstr_linear"]["floor"] is not None
    assert result["metrics"]["tstr_linear"]["about"].startswith("R^2 of 'age'")


@pytest.mark.parametrize("recipe", ["vae", "flow_matching", "nsf", "wgan_gp"])
def test_a_column_that_never_changes_is_drawn_and_not_scored(tmp_path, recipe):
    x = np.random.default_rng(0).normal(5.0, 2.0, (400, 3))
    lines = ["height,year,weight", *(f"{a:.4f},2026.1,{b:.4f}" for a, _, b in x)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    knobs = VAE if recipe == "vae" else {"width": "8", "depth": "1", "batch": "32", "budget": "320"}
    folder = trained(tmp_path, recipe, knobs, data=str(tmp_path / "t.csv"))
    drawn(folder)
    years = open_source(folder.path / "samples.csv").x[:, 1]
    assert np.unique(years).tolist() == [np.float32(2026.1)]
    result = evaluate(folder.path, screen=SCREEN)
    assert result["left_out"] == ["no score of 'year': always the same among real rows"]
    assert [told["column"] for told in result["columns"]] == ["height", "weight"]
    assert {"ks_complement", "pearson_similarity", "tstr_linear"} < set(result["metrics"])
    with pytest.raises(
        ConfigError, match=r"'predict' is 'year', which is always the same .*: name one of height, weight"
    ):
        evaluate(folder.path, screen=SCREEN, predict="year")


def test_options_that_do_not_fit_a_table_are_refused(folder):
    with pytest.raises(ConfigError, match="--quick takes the moments of images"):
        evaluate(folder.path, screen=SCREEN, quick=True)
    with pytest.raises(ConfigError, match="'predict' is 'sax', and the columns are age, sex, dose, diagnosis"):
        evaluate(folder.path, screen=SCREEN, predict="sax")
    with pytest.raises(ConfigError, match=r"--metrics has no effect on '.*', which holds no images: leave it out"):
        evaluate(folder.path, screen=SCREEN, asked=Asked(("fd",)))
    drawn(folder, 19, "few.zarr")
    with pytest.raises(RunError, match=r"few\.zarr' cannot be scored: 'samples' needs at least 20 rows"):
        evaluate(folder.path / "few.zarr", screen=SCREEN)


def test_what_is_missing_says_how_to_get_it(folder, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("gensys.evaluate.tabular"):
            raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"scored with sklearn: pip install 'gensys\[tabular\]'"):
        evaluate(folder.path, screen=SCREEN)


def test_a_small_table_has_no_utility_and_no_privacy(tmp_path):
    folder = trained(tmp_path, data=str(clinic(tmp_path / "t.csv", 120)))
    drawn(folder, 30)
    result = evaluate(folder.path, screen=SCREEN)
    assert [line.split(":")[0] for line in result["left_out"]] == ["no utility, no privacy"]
    assert not {"tstr_linear", "membership_auc"} & set(result["metrics"])
    assert result["protocol"]["predicted"] == "nothing"


def test_labels_are_a_column_of_models_that_know_them(tmp_path):
    data = clinic(tmp_path / "t.csv", label="label").read_text()
    numbers = "\n".join(",".join(line.split(",")[i] for i in (0, 2, 3)) for line in data.split())
    (tmp_path / "n.csv").write_text(numbers)
    knobs = {"width": "8", "depth": "1", "steps": "1", "batch": "32", "budget": "320"}
    flow = trained(tmp_path, "nsf", knobs, data=str(tmp_path / "n.csv"))
    drawn(flow, 100)
    result = evaluate(flow.path, screen=SCREEN)
    assert [told["column"] for told in result["columns"]] == ["age", "dose", "label"]
    assert result["columns"][2]["shares"]["ill"]["samples"] == 0.5  # every class in turn
    assert result["protocol"]["predicted"] == "label"
    assert (flow.path / "samples.csv").read_text().startswith("age,dose,label\n")
    assert open_source(flow.path / "samples.csv").classes == ("ill", "well")

    (tmp_path / "vae").mkdir()
    vae = trained(tmp_path / "vae", data=str(tmp_path / "n.csv"))
    drawn(vae, 100)
    result = evaluate(vae.path, screen=SCREEN)
    assert result["left_out"] == ["no column 'label': this model knows no labels"]
    assert [told["column"] for told in result["columns"]] == ["age", "dose"]
    assert (vae.path / "samples.csv").read_text().startswith("age,dose\n")


def test_vectors_without_names_are_scored_too(tmp_path):
    x = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    folder = trained(tmp_path, data=str(tmp_path / "x.npy"))
    assert isinstance(folder.model().observation, Gaussian)
    drawn(folder, 100)
    assert not (folder.path / "samples.csv").exists()
    result = evaluate(folder.path, screen=SCREEN)
    assert [told["column"] for told in result["columns"]] == ["x0", "x1"]


# ----------------------------------------------------------------------------------------------------------- the recipe


@pytest.mark.parametrize("recipe", ["nsf", "gan"])
def test_a_recipe_without_categories_refuses_words(tmp_path, recipe):
    path = clinic(tmp_path / "t.csv", 50)
    with pytest.raises(DataError, match="columns of words, sex, diagnosis, which this recipe would take for numbers"):
        resolve(recipe, {"data": str(path)}).load()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"categorical": "dosis"}, r"no column 'dosis' in 't': they are age, sex, dose, diagnosis"),
        ({"categorical": "7"}, r"no column '7'"),
        ({"observation": "fixed"}, r"observation=fixed is for numbers, and sex, diagnosis are categories"),
        ({"observation": "logistic"}, r"observation=logistic is for images"),
    ],
)
def test_knobs_that_do_not_fit_the_table_are_refused(tmp_path, knobs, message):
    path = clinic(tmp_path / "t.csv", 50)
    with pytest.raises((ConfigError, DataError), match=message):
        resolve("vae", {"data": str(path), **knobs}).model()
    if "categorical" in knobs:
        with pytest.raises(DataError, match=message):
            resolve("edm", {"data": str(path), **knobs}).model()


def test_a_column_of_one_word_is_refused_and_one_of_one_number_is_not(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,site\n" + "".join(f"{k},7,here\n" for k in range(50)))
    with pytest.raises(ConfigError, match="the columns site of 't' are the same in all rows: leave them out"):
        resolve("vae", {"data": str(path)}).model()
    path.write_text("a,b\n" + "".join(f"{k},7\n" for k in range(50)))
    seen = resolve("vae", {"data": str(path)}).model().observation
    assert isinstance(seen, Columns)
    assert (seen.categories, seen.centres[1], seen.spreads[1]) == ((0, 0), 7.0, 0.0)


def test_images_have_no_columns_to_predict(tmp_path, monkeypatch):
    from gensys.pipelines import evaluate as pipeline

    source = SimpleNamespace(shape=(1, 8, 8), name="pictures")
    store = SimpleNamespace(attributes={"kind": "samples", "run": str(tmp_path)}, path=tmp_path / "s.zarr")
    monkeypatch.setattr(pipeline.Store, "open", lambda _: store)
    monkeypatch.setattr(pipeline, "real_source", lambda _: (source, None))
    with pytest.raises(ConfigError, match="'predict' names a column of a table, and 'pictures' holds images"):
        pipeline.evaluate(store.path, screen=SCREEN, predict="age")


def test_a_number_can_be_a_category_of_vectors_without_names(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[k, k % 3] for k in range(60)], np.float32))
    spec = resolve("vae", {"data": str(tmp_path / "x.npy"), "categorical": "1"})
    assert spec.load().source.columns == (Column("0"), Column("1", ("0", "1", "2")))
    assert spec.model().observation.categories == (0, 3)
    rows = torch.arange(8)
    assert spec.model().loss(spec.load().source.batch(rows, None), Noise(0, rows), "model").total.isfinite()


def test_a_codec_of_a_table_has_no_score_of_its_reconstructions(tmp_path):
    (tmp_path / "n.csv").write_text("\n".join(["a,b", *(f"{k},{k % 7}" for k in range(60))]))
    knobs = {"codes": "4", "dim": "2", "width": "8", "depth": "1", "batch": "8", "budget": "16"}
    codec = trained(tmp_path, "vq_vae", knobs, data=str(tmp_path / "n.csv"))
    with pytest.raises(DataError, match=r"images are wanted, \(C, H, W\), and 'n' holds rows of shape \(2,\)"):
        evaluate(codec.path, screen=SCREEN)


def test_a_model_of_a_table_needs_samples_though_it_encodes(tmp_path):
    folder = trained(tmp_path, data=str(clinic(tmp_path / "clinic.csv")))
    with pytest.raises(RunError, match="has no samples yet: run `gensys sample"):
        evaluate(folder.path, screen=SCREEN)


def test_data_that_have_changed_since_the_training_are_refused(tmp_path):
    table = clinic(tmp_path / "clinic.csv")
    folder = trained(tmp_path, data=str(table))
    drawn(folder)
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *lines[20:]]) + "\n")  # other rows are held out now
    with pytest.raises(RunError, match=r"the content of the data of '.*' has changed since it was trained"):
        evaluate(folder.path, screen=SCREEN)


def test_steps_are_not_held_against_distances_that_a_table_has_not(tmp_path):
    knobs = {"width": "8", "depth": "1", "batch": "32", "budget": "32", "precision": "fp32"}
    found = trained(tmp_path, "flow_matching", knobs, data=str(clinic(tmp_path / "clinic.csv")))
    with pytest.raises(ConfigError, match=r"'nfe' shows the Frechet distance of images, and .* holds none"):
        add_tradeoff(found, [2], screen=SCREEN)
    with pytest.raises(ConfigError, match=r"0 <= FIRST < END < 2\^56, got 72057594037927935:72057594037927936"):
        sample(
            found, tmp_path / "s.zarr", ids=range(2**56 - 1, 2**56), seed=0, label=None, overrides={}, shard=None,
            workers=0, screen=SCREEN,
        )  # fmt: skip
