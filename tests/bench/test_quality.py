"""docs/quality.md is written from the lines of docs/quality.jsonl."""

import importlib.util
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def quality(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    spec = importlib.util.spec_from_file_location("quality", DOCS / "quality.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "quality", module)  # where its dataclasses look for themselves
    spec.loader.exec_module(module)
    return module


def test_notes_are_told_once_a_model_and_none_where_there_was_nothing(quality):
    rows = [
        {"seed": 0, "note": "3 of 1,100 that it drew had NaN, and others were drawn for them"},
        {"seed": 1, "note": ""},
        {"seed": 2, "note": ""},
        {"seed": 3, "note": "3 of 1,100 that it drew had NaN, and others were drawn for them"},
    ]
    told = quality._notes({"normflows": rows, "glow": rows[1:3]})
    assert told == ["- normflows: 3 of 1,100 that it drew had NaN, and others were drawn for them (seeds 0, 3)."]


def test_a_ratio_is_over_the_mean_of_the_sets_of_real_images_of_the_same_data(quality, monkeypatch):
    def row(data, name, fd, seed=0):
        return {"data": data, "name": name, "seed": seed, "metrics": {"fd_lenet_1000": fd, "precision": 0.5}}

    rows = [row("a", "vae", 6.0), row("a", quality.REAL, 1.0), row("a", quality.REAL, 3.0, 1), row("b", "vae", 6.0)]
    monkeypatch.setattr(quality, "measured", lambda: [*rows, row("b", quality.REAL, 4.0)])
    found = {(row["data"], row["name"], row["seed"]): row["ratio"] for row in quality._rated()}
    assert found[("a", "vae", 0)] == 3.0
    assert found[("b", "vae", 0)] == 1.5
    assert found[("a", quality.REAL, 0)] == 0.5
