"""The parts of a report that say what a run is: the data card, the cost; and the page of one that is watched."""

import json

import pytest
from browser import browser
from made_runs import EVIL, Page, make, whole

from gensys.report import watch, write_report
from gensys.report.card import data_card
from gensys.report.cost import costs
from gensys.report.reading import read
from gensys.report.recipe import Places
from gensys.run_folder import RunFolder

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


# --------------------------------------------------------------------------------------------------------------- watch


def trained(folder, finished):
    checkpoint = folder / "checkpoints" / "00000001"
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "COMMITTED").write_text("{}")
    (checkpoint / "state.json").write_text(json.dumps({"step": 1, "finished": finished}))


def refreshes(page):
    return [meta["content"] for meta in Page(page.read_text()).all("meta") if meta.get("http-equiv") == "refresh"]


def test_a_watched_page_is_written_until_the_run_is_finished(tmp_path):
    folder, seen = make(tmp_path / "run"), []

    def sleep(seconds):
        seen.append((seconds, *refreshes(folder / "report.html")))
        trained(folder, finished=len(seen) == 3)

    page = watch(folder, 1.5, sleep=sleep)
    assert seen == [(1.5, "2")] * 3
    assert page == folder / "report.html"
    assert refreshes(page) == []
    assert "anew" not in Page(page.read_text()).words
    assert (
        "1,856 rows were seen so far. This page is written, and loaded, anew every 7 s."
        in Page(write_report(make(tmp_path / "young"), refresh=7).read_text()).words
    )


def test_a_watch_that_is_interrupted_leaves_a_page_that_does_not_load_itself(tmp_path):
    folder = make(tmp_path / "run")

    def sleep(seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(folder, 5, tmp_path / "page.html", sleep=sleep)
    assert refreshes(tmp_path / "page.html") == []


def test_a_browser_loads_a_watched_page_anew(tmp_path):
    folder = make(tmp_path / "run")
    page = write_report(folder, refresh=1)
    with browser(tmp_path / "profile") as tab:
        tab.open(page)
        write_report(whole(tmp_path / "other"), page)
        for _ in range(20):  # the old page, as long as the new one is not there
            tab.wait("Page.loadEventFired")
            if tab.see("document.querySelector('h1').textContent") == "other":
                break
        else:
            pytest.fail("the browser did not load the page anew")
        assert tab.complaints == []


def test_what_verbs_took_is_told_by_verb_and_workers(tmp_path):
    folder = make(tmp_path / "run")
    run = RunFolder(folder)
    for verb, rows, seconds, workers in (("sample", 100, 2.0, 0), ("sample", 300, 2.0, 0), ("sample", 900, 3.0, 2)):
        run.spent(verb, rows, seconds, workers)
    with open(folder / "costs.jsonl", "a") as file:
        file.write('{"verb": "sample", "rows": null}\n{"verb": "sam')  # another make, and a torn line
    told = [(cost.name, cost.seconds, cost.rows, cost.rate) for cost in costs(read(folder))[1:]]
    assert told == [("sample", "4.0 s", "400", "100"), ("sample, 2 workers", "3.0 s", "900", "300")]


def test_a_run_that_cannot_be_written_is_used_all_the_same(tmp_path):
    RunFolder(tmp_path / "gone").spent("sample", 1, 1.0, 0)
    assert not (tmp_path / "gone").exists()
