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
        {"seed": 1, "note": "0% of what it drew had NaN, and others were drawn for them"},
        {"seed": 2, "note": ""},
        {"seed": 3, "note": "3 of 1,100 that it drew had NaN, and others were drawn for them"},
    ]
    told = quality._notes({"normflows": rows, "glow": rows[1:3]})
    assert told == ["- normflows: 3 of 1,100 that it drew had NaN, and others were drawn for them (seeds 0, 3)."]
