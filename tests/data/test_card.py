"""The facts of a data set that are kept with a run."""

import json

import numpy as np
import pytest

from gensys.data import digits
from gensys.data.card import card
from gensys.data.sources import open_source, split


def test_a_named_set_states_its_licence():
    source = open_source("mnist")
    found = json.loads(json.dumps(card(source)))
    assert (found["name"], found["rows"], found["shape"], found["classes"]) == ("mnist", 5000, [1, 32, 32], 10)
    assert found["held_out"] == len(split(source)[1])
    assert found["split"] == "one row in ten, by a hash of its number"
    assert found["fingerprint"] == source.fingerprint()
    assert found["licence"].startswith("BSD-3-Clause")


@pytest.mark.skipif(not digits.FASHION.exists(), reason="apt-get install dataset-fashion-mnist")
def test_an_official_split_is_told():
    found = card(open_source("fashion"))
    assert found["split"] == "the official test set, from row 60,000"
    assert (found["rows"], found["held_out"], found["licence"]) == (70_000, 10_000, "MIT")


def test_a_file_states_none(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(60, dtype=np.float32).reshape(20, 3))
    found = card(open_source(tmp_path / "x.npy"))
    assert "licence" not in found
    assert (found["rows"], found["shape"], found["classes"]) == (20, [3], 0)
