"""Several runs on one page: what may be ranked is, what was measured otherwise says so, and nothing else is shown."""

import json

import pytest
from browser import browser
from made_runs import EVIL, Page, make, metric, store, whole

from gensys.errors import RunError
from gensys.report import write_reports
from gensys.report.protocol import differing, versus

DRAWN = {"solver": "heun", "steps": 12, "guidance": 1.0}
PROTOCOL = DRAWN | {
    "samples": 100,
    "reference": "100 test rows",
    "floor": "100 training rows",
    "classifier": "lenet, sha256 aa",
    "data fingerprint": "ab" * 16,
    "weights": "average of width 0.07, sha256 cc",
    "sample seed": 0,
}


def scored(value, name="fd_lenet_100", low=None, high=None, real=1.0, better="lower", n=100, **protocol):
    return {
        "metrics": {name: metric(value, real, low, high, better=better, n=n)},
        "protocol": PROTOCOL | protocol,
    }


def cells(*evaluations):
    (line,) = versus(evaluations)
    return line, [None if cell is None else (cell.best, list(cell.others)) for cell in line.cells]


def test_the_best_is_marked_and_what_cannot_be_told_from_it():
    line, found = cells(scored(3.0, low=2.5, high=3.5), scored(2.0, low=1.5, high=2.5), scored(2.2, low=1.9, high=2.5))
    assert line.ranked
    assert [best for best, _ in found] == ["", "best", "as good"]
    line, found = cells(scored(0.3, "recall", better="higher"), scored(0.2, "recall", better="higher"))
    assert [best for best, _ in found] == ["best", ""]
    three = (scored(v, "diversity_lenet", real=5.3, better="nearer") for v in (6.9, 5.0, 4.0))
    line, found = cells(*three)
    assert [best for best, _ in found] == ["", "best", ""]
    assert (line.arrow, line.direction) == ("→", "nearer to real data is better")


def test_there_is_no_best_of_one_or_of_equals():
    assert cells(scored(1.0), None)[1] == [("", []), None]
    assert cells(scored(1.0), scored(1.0))[1] == [("", []), ("", [])]
    assert cells(scored("nan"), scored(1.0))[1] == [("", []), ("", [])]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"classifier": "lenet, sha256 bb"}, ["another classifier"]),
        ({"features": "efficientnet, sha256 bb"}, ["other features"]),
        ({"reference": "others"}, ["another reference"]),
        ({"floor": "none"}, ["another floor"]),
        ({"data fingerprint": "cd"}, ["another data set"]),
        ({"n": 50, "samples": 50, "reference": "50", "floor": "50"}, ["50 rows"]),
        ({"n": 50, "classifier": "resnet"}, ["50 rows", "another classifier"]),
    ],
)
def test_what_was_measured_otherwise_is_not_ranked(other, told):
    line, found = cells(scored(2.0), scored(1.0, **other))
    assert not line.ranked
    assert found == [("", []), ("", told)]


def test_a_distance_of_other_rows_stands_in_the_same_line():
    line, found = cells(scored(2.0), scored(1.0, "fd_lenet_500", n=500))
    assert line.name == "fd_lenet"
    assert found == [("", []), ("", ["500 rows"])]


def test_a_number_in_a_name_that_is_no_number_of_rows_stays():
    line, _ = cells(scored(2.0, "wasserstein_1"), scored(1.0, "wasserstein_1", reference="other rows"))
    assert (line.name, line.ranked) == ("wasserstein_1", False)


@pytest.mark.parametrize(("name", "told"), [("tstr_linear", ["another column predicted"]), ("ks_complement", [])])
def test_predictions_of_other_columns_are_not_ranked(name, told):
    line, found = cells(
        scored(0.9, name, better="higher", predicted="age"), scored(0.5, name, better="higher", predicted="sex")
    )
    assert line.ranked != bool(told)
    assert found == [("best" if line.ranked else "", []), ("", told)]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"steps": 4}, ["steps 4"]),
        ({"solver": "ddim", "guidance": 2.0}, ["solver ddim", "guidance 2"]),
        (dict.fromkeys(("solver", "steps", "guidance")) | {"eta": 1.0, "clip": True}, ["another sampler"]),
    ],
)
def test_what_was_drawn_otherwise_is_ranked_and_says_so(other, told):
    line, found = cells(scored(2.0), scored(1.0, **other))
    assert line.ranked
    assert found == [("", []), ("best", told)]


def test_other_weights_and_seeds_are_no_other_protocol():
    assert cells(scored(2.0), scored(1.0, weights="sha256 dd", **{"sample seed": 5}))[1] == [("", []), ("best", [])]


@pytest.mark.parametrize(
    ("name", "other", "told"),
    [
        ("reconstruction_mse", {"steps": 3, "classifier": "resnet", "reference": "x"}, []),
        ("reconstruction_mse", {"data fingerprint": "cd", "features": "other"}, ["another data set"]),
        ("reconstruction_fd", {"features": "other", "steps": 3}, ["other features"]),
        ("memorisation_ratio", {"classifier": "resnet", "steps": 3}, ["steps 3"]),
        ("bits_per_dim", {"solver": "ddim"}, []),
    ],
)
def test_a_difference_counts_only_where_the_figure_depends_on_it(name, other, told):
    assert cells(scored(2.0, name), scored(2.0, name, **other))[1][1] == ("", told)


def test_only_what_differs():
    assert differing([{"a": 1, "b": 2.5}, {"a": 1, "b": 3.0, "c": True}]) == [("b", ["2.5", "3"]), ("c", ["–", "yes"])]
    assert differing([{"a": 1}, {"a": 1}]) == []


def changed(folder, **knobs):
    document = json.loads((folder / "run.json").read_text())
    document["knobs"] |= knobs
    (folder / "run.json").write_text(json.dumps(document))
    return folder


def three(tmp_path):
    """Two that differ in the solver's steps, and one that was measured otherwise and has no codec."""
    runs = [whole(tmp_path / name) for name in ("one", "two")]
    for folder, steps, value in zip(runs, (12, 4), (200.0, 150.0), strict=True):
        changed(folder, steps=steps, lr=2e-3)
        evaluation = json.loads((folder / "evaluation.json").read_text())
        evaluation["metrics"]["fd_lenet_100"] = metric(value, 50.0, value - 10, value + 10, better="lower")
        evaluation["protocol"] = PROTOCOL | {"steps": steps}
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
    third = changed(make(tmp_path / "three"), steps=12, lr=1e-3, own="yes")
    store(third / "samples.zarr", labels=[k % 3 for k in range(30)], classes=["ant", "bee", "cat"], run=str(third))
    found = scored(9.0, "fd_lenet_500", n=500, real=3.0, samples=500)
    (third / "evaluation.json").write_text(json.dumps(found))
    return [*runs, third]


def test_the_page(tmp_path):
    runs = three(tmp_path)
    text = write_reports(runs, tmp_path / "new" / "page.html").read_text()
    page = Page(text)
    assert page.all("script") == []
    assert {s["id"] for s in page.all("section")} == {"metrics", "otherwise", "samples", "curves", "times"}
    assert len(page.all("img")) == 3
    assert "Not measured alike, and so not ranked: fd_lenet." in page.words
    assert "≠ 500 rows" in page.words
    assert "≠ steps 4" in page.words
    assert "The same ids, classes and seed in every grid" in page.words
    knobs = page.words.split("What differs")[2].split("Protocol of the metrics")[0]
    assert "steps 12 4 12" in knobs
    assert "lr 0.002 0.002 0.001" in knobs
    assert "budget" not in knobs.split("Knobs that only")[0]
    assert "own – – yes" in knobs
    assert str(tmp_path) not in text
    assert text.count("<polyline") > 3


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    runs = [make(tmp_path / "a" / "run"), make(tmp_path / "b" / "run")]
    page = Page(write_reports(runs, tmp_path / "page.html").read_text())
    assert "a/run, b/run" in page.words
    page = Page(write_reports([runs[0], runs[0]], tmp_path / "page.html").read_text())
    assert "run (1), run (2)" in page.words


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 8}, "from other seeds"),
        ({"first": 10}, "The same ids, classes and seed"),
        ({"first": 10, "labels": [0] * 30}, "asked for other classes"),
        ({"first": 1000}, "No sample has the same id"),
    ],
)
def test_samples_are_those_of_the_same_ids(tmp_path, changes, says):
    labels = changes.pop("labels", [(k + changes.get("first", 0)) % 3 for k in range(30)])
    runs = [make(tmp_path / "a"), make(tmp_path / "b")]
    store(runs[0] / "samples.zarr", labels=[k % 3 for k in range(30)], classes=["x", "y", "z"])
    store(runs[1] / "samples.zarr", labels=labels, classes=["x", "y", "z"], **changes)
    page = Page(write_reports(runs, tmp_path / "page.html").read_text())
    assert says in page.words
    if changes.get("first") == 10:
        assert page.words.count("ids 10:30, seed 7") == 2


def test_what_files_say_is_escaped(tmp_path):
    runs = [changed(make(tmp_path / f"<b>{k}", recipe=EVIL), **{EVIL: f"{EVIL}{k}"}) for k in range(2)]
    for folder in runs:
        evaluation = scored(1.0, EVIL)
        evaluation["protocol"][EVIL] = f"{EVIL}{folder.name}"
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
    page = Page(write_reports(runs, tmp_path / "page.html").read_text())
    assert page.all("script") == []
    assert page.all("b") == []
    assert EVIL in page.words


def test_one_that_is_no_run(tmp_path):
    with pytest.raises(RunError, match="no run"):
        write_reports([make(tmp_path / "run"), tmp_path], tmp_path / "page.html")


SHOWN = """
[...document.querySelectorAll("#metrics tbody tr")].map(row =>
    [...row.querySelectorAll("td")].map(cell => cell.querySelector(".value")?.textContent ?? null))
"""
DASHES = """
new Set([...document.querySelectorAll("#curves .large polyline")]
    .map(line => getComputedStyle(line).strokeDasharray)).size
"""


def test_in_a_browser(tmp_path):
    page = write_reports(three(tmp_path), tmp_path / "page.html")
    with browser(tmp_path / "profile") as tab:
        for width in (1200, 390):
            for dark in (False, True):
                tab.open(page, width=width, dark=dark)
                assert tab.see("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        assert tab.see(SHOWN)[0] == ["200", "150", "9.000"]
        assert tab.see("[...document.images].every(image => image.naturalWidth > 0)")
        assert tab.see(DASHES) == 3
        assert tab.complaints == []


def test_what_was_left_out_and_what_does_not_belong_together_is_told(tmp_path):
    first, second = whole(tmp_path / "a"), whole(tmp_path / "b")
    evaluation = json.loads((first / "evaluation.json").read_text())
    evaluation |= {"left_out": ["no floors"], "protocol": {"sample seed": 1}}
    (first / "evaluation.json").write_text(json.dumps(evaluation))
    page = Page(write_reports([first, second], tmp_path / "page.html").read_text())
    assert "Left out of a: no floors." in page.words
    assert "a: The metrics are of other samples than those in samples.zarr (sample seed)" in page.words
    assert "Left out of b" not in page.words


@pytest.mark.parametrize(
    ("name", "told"), [("ms_ssim_within", "within other classes"), ("bits_per_dim", "another likelihood")]
)
def test_pairs_of_one_class_are_not_held_against_pairs_of_any_nor_a_bound_against_an_exact_figure(name, told):
    one, other = scored(0.3, name, better="lower"), scored(0.2, name, better="lower")
    other["metrics"][name]["about"] = "of another kind"
    line, found = cells(one, other)
    assert not line.ranked
    assert found == [("", []), ("", [told])]


@pytest.mark.parametrize("name", ["reconstruction_ssim", "reconstruction_ms_ssim"])
def test_similarity_of_pixels_asks_for_no_features(name):
    line, _ = cells(scored(0.3, name, better="higher"), scored(0.2, name, better="higher", features="lenet"))
    assert line.ranked
