"""The parts of a report that say what a run is: the data card, the cost."""

import json

import pytest
from made_runs import EVIL, Page, make, whole

from gensys.report import write_report
from gensys.report.card import data_card
from gensys.report.cost import costs
from gensys.report.reading import read
from gensys.report.recipe import Places

CARD = {
    "name": "digits",
    "about": "digits made by hand",
    "fingerprint": "ab" * 16,
    "rows": 5000,
    "held_out": 535,
    "split": "one row in ten",
    "shape": [1, 8, 8],
    "classes": 3,
}


def carded(folder, **data):
    document = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(document | {"data": CARD | data}))
    found = read(folder)
    return {fact.name: fact.value for fact in data_card(found, Places(found))}


def test_the_data_card(tmp_path):
    found = carded(make(tmp_path / "run"), licence="CC0")
    assert found == {
        "name": "digits",
        "what it is": "digits made by hand",
        "licence": "CC0",
        "one datum": "1 × 8 × 8",
        "classes": "3",
        "rows": "5,000",
        "trained on": "4,465",
        "held out": "535: one row in ten",
        "fingerprint": "ab" * 16,
        "damaged": "none",
    }


def test_that_no_licence_is_stated_is_told_where_it_was_asked_for(tmp_path):
    assert carded(make(tmp_path / "new"))["licence"] == "the source states none"
    found = read(make(tmp_path / "old"))
    assert "licence" not in [fact.name for fact in data_card(found, Places(found))]


def test_damaged_rows_are_named(tmp_path):
    rows = [{"row": k, "item": f"{k}.png", "why": "torn"} for k in range(7)]
    told = carded(make(tmp_path / "run"), quarantined=rows)["damaged"]
    assert told.startswith("7 rows that cannot be read are left out: 0.png (torn); 1.png")
    assert told.endswith("4.png (torn); …")


def test_a_model_of_latents_is_told_by_the_images_and_by_the_latents(tmp_path):
    folder = whole(tmp_path / "demo")
    found = carded(folder, about="30 latents of digits made by hand; encoded", name="latents")
    assert found["name"] == "digits"
    assert found["latents"] == "30 latents of these data; encoded"
    assert found["latents · rows"] == "5,000"


@pytest.mark.parametrize("data", [{}, {"name": EVIL, "about": None, "shape": "x", "classes": "many", "rows": EVIL}])
def test_a_card_that_is_damaged_or_evil(tmp_path, data):
    folder = make(tmp_path / "run")
    document = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(document | {"data": data}))
    page = Page(write_report(folder).read_text())
    assert page.all("script") == []
    assert ("data" in {section["id"] for section in page.all("section")}) == (data != {})


def test_costs_of_every_stage(tmp_path):
    folder = whole(tmp_path / "demo")
    line = {"step": 30, "loss": 0.1, "images": 2000, "seconds": 16.0}
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(
            json.dumps(line | {"peak_bytes": 3 << 30}) + "\n" + json.dumps(line | {"peak_bytes": 2 << 30}) + "\n"
        )
    codec, model, scoring = costs(read(folder))
    assert (codec.name, codec.seconds, codec.rows, codec.rate, codec.memory) == (
        "train the codec", "14.5 s", "1,856", "128", "–",
    )  # fmt: skip
    assert (model.seconds, model.rows, model.rate, model.memory) == ("16.0 s", "2,000", "125", "3,072 MiB")
    assert (scoring.name, scoring.seconds, scoring.rows) == ("score the samples", "3.5 s", "30")


def test_a_run_that_is_not_timed_has_no_cost(tmp_path):
    (tmp_path / "run.json").write_text('{"recipe": "latent_dit", "knobs": {}}')
    assert costs(read(tmp_path)) == []
