"""`gensys compare`: families side by side, going on, what fails, and the page that is made of it."""

from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from gensys.pipelines import compare as pipeline
from gensys.pipelines.compare import CONTENDERS, Contender, Plan, compare
from PIL import Image

from gensys.errors import ConfigError
from gensys.progress import Screen
from gensys.report.comparison import STABILITY, rows_of, table, write_comparison
from gensys.report.plots import scatter
from gensys.run import recipes, resolve

SCREEN = Screen(quiet=True)
SMALL = {"width": "8", "batch": "8", "precision": "fp32"}


@pytest.fixture
def images(tmp_path):
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(120):
            pixels = draw.integers(0, 256, (28, 28), np.uint8) // (1 + (name == "cat"))
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{k}.png")
    return str(tmp_path / "images")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_contender_is_a_recipe_with_its_knobs():
    for contender in CONTENDERS.values():
        assert contender.recipe in recipes()
        assert contender.codec in ("", *recipes())
        resolve(contender.recipe, {"data": "mnist", **contender.knobs})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"contenders": ("glow", "gloww")}, "'families' has 'gloww', which is none of .*Did you mean 'glow'"),
        ({"contenders": ()}, "must be different contenders, got none"),
        ({"contenders": ("vae", "vae")}, "must be different contenders, got vae, vae"),
        ({"seconds": 1.0}, "'budget' must be 3 s or more"),
        ({"seeds": 0}, "'seeds' and 'samples' 1 or more, got 60 s, 0"),
    ],
)
def test_plans_that_make_no_sense_are_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        Plan(**{"data": "mnist", "seconds": 60.0, "contenders": ("vae",)} | wrong)


@pytest.mark.slow
def test_what_is_trained_is_measured_what_fails_is_told_and_nothing_is_done_twice(images, tmp_path, monkeypatch):
    few = {
        "vae": Contender("vae", SMALL | {"latent": "4", "size": "28"}),
        "broken": Contender("vae", SMALL | {"latent": "4", "size": "28", "lr": "1e30"}),
        "latent_dit": Contender(
            "latent_dit", {"width": "16", "depth": "1", "heads": "2", "steps": "2"}, "kl_autoencoder"
        ),
    }
    monkeypatch.setattr(pipeline, "CONTENDERS", few)
    monkeypatch.setattr(pipeline, "_BITS", 5)
    plan = Plan(images, 3.0, tuple(few), seeds=1, samples=20)
    document = compare(tmp_path / "all", plan, workers=0, screen=SCREEN)
    cells = {cell["name"]: cell for cell in document["cells"]}
    assert set(cells) == {"kl_autoencoder", *few}
    for name in ("vae", "latent_dit"):
        cell = cells[name]
        assert cell["parameters"] > 1000
        assert cell["peak_bytes"] > 50 << 20
        assert cell["sample_cpu"] > 0
        assert cell["passes"] == pytest.approx(cell["rows"] / cells["vae"]["rows"] * cells["vae"]["passes"])
        assert {"fd_lenet_20", "precision", "coverage"} <= set(cell["metrics"])
    assert cells["vae"]["train_seconds"] == pytest.approx(3.0, abs=1.0)
    assert cells["latent_dit"]["train_seconds"] == pytest.approx(2.0, abs=1.0)
    assert cells["kl_autoencoder"]["train_seconds"] == pytest.approx(1.0, abs=1.0)
    assert cells["latent_dit"]["evaluations"] > 1
    assert "bits_per_dim" in cells["vae"]["metrics"]
    assert "bits_per_dim" not in cells["latent_dit"]["metrics"]
    assert "finite" in cells["broken"]["failed"]

    page = write_comparison(tmp_path / "all", document)
    text = page.read_text()
    assert "href='vae/0/samples.png'" in text
    assert "failed: broken, seed 0" in text
    with Image.open(tmp_path / "all" / "comparison.png") as picture:
        assert picture.height == 2 * (28 + 2) + 2 * (32 + 2)  # the codec pads
    assert "| vae |" in (tmp_path / "all" / "comparison.md").read_text()

    def never(*_):
        raise AssertionError

    monkeypatch.setattr(pipeline, "CONTENDERS", {name: few[name] for name in ("vae", "latent_dit")})
    monkeypatch.setattr(pipeline, "_trained", never)
    again = compare(tmp_path / "all", Plan(images, 3.0, ("vae", "latent_dit"), 1, 20), workers=0, screen=SCREEN)
    assert again["cells"] == [cell for cell in document["cells"] if cell["name"] != "broken"]


def cell(name, seed, fd, **more):
    metrics = {"fd_lenet_100": {"value": fd, "floor": 2.0}, "precision": {"value": 0.5, "floor": 0.9}}
    return {"name": name, "seed": seed, "recipe": "vae", "metrics": metrics, "parameters": 1234, **more}


def test_the_table_has_means_and_spreads_and_the_best_is_first():
    plan = {"contenders": ["worse", "better", "gone"], "data": "mnist", "seconds": 60.0, "seeds": 2, "samples": 100}
    cells = [cell("better", 0, 4.0), cell("better", 1, 6.0), cell("worse", 0, 20.0)]
    cells += [{"name": "worse", "seed": 1, "failed": "NaN"}, {"name": "gone", "seed": 0, "failed": "NaN"}, None]
    rows = rows_of({"plan": plan, "cells": cells})
    assert [(row.name, len(row.cells), row.failures) for row in rows] == [
        ("better", 2, ()),
        ("worse", 1, ("seed 1: NaN",)),
        ("gone", 0, ("seed 0: NaN",)),
    ]
    titles, first, second, third = table(rows)
    assert dict(zip(titles, first, strict=True))["fd / real data's"] == "2.5 ± 0.71"
    assert dict(zip(titles, second, strict=True))["fd / real data's"] == "10"
    assert dict(zip(titles, first, strict=True))["parameters"] == "1,234"
    stability = [dict(zip(titles, line, strict=True))[STABILITY] for line in (first, second, third)]
    assert stability == ["28%", "1 of 2 failed", "1 of 1 failed"]
    others = [text for title, text in zip(titles, third, strict=True) if title != STABILITY]
    assert others == ["gone", *[""] * (len(titles) - 2)]


@pytest.mark.parametrize("bad", ["inf", "nan", None])
def test_a_figure_that_is_no_number_is_none_of_the_mean_and_told(bad):
    plan = {"contenders": ["a"], "data": "mnist", "seconds": 60.0, "seeds": 2, "samples": 100}
    (row,) = rows_of({"plan": plan, "cells": [cell("a", 0, bad), cell("a", 1, 6.0)]})
    titles, line = table([row])
    assert dict(zip(titles, line, strict=True))["fd / real data's"] == "3, 1 of 2 seeds"
    assert dict(zip(titles, line, strict=True))["precision"] == "0.5"


def test_a_scatter_has_a_dot_for_every_point_where_its_value_is():
    drawn = ElementTree.fromstring(scatter([(1.0, 10.0, "a<b"), (100.0, 1.0, "c")], "x & y", "up", logarithmic=True))
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in drawn.iter("circle")]
    assert dots[0][0] < dots[1][0]
    assert dots[0][1] < dots[1][1]  # higher up
    assert [text.text for text in drawn.iter("text") if text.get("class") == "name"] == ["a<b", "c"]
    assert list(ElementTree.fromstring(scatter([(0.0, 1.0, "a")], "x", "y", logarithmic=True)).iter("circle")) == []
    assert len(list(ElementTree.fromstring(scatter([(1.0, 1.0, "a")], "x", "y")).iter("circle"))) == 1
