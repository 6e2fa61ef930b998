"""What a report says of a table's columns: the numbers of evaluation.json, the least alike first."""

import json
import re

import pytest
from browser import browser
from made_runs import EVIL, Page, make, metric

from gensys.report import write_report, write_reports
from gensys.report.plots import shares, spans
from gensys.report.reading import read
from gensys.report.table_columns import table_columns

LEVELS = ("0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99")
LENGTH = {
    "column": "length",
    "ks_complement": 0.9,
    "wasserstein_1": 0.1,
    "quantiles": {level: {"samples": float(k), "real": 10.0 * k} for k, level in enumerate(LEVELS)},
}
KIND = {
    "column": EVIL,
    "tv_complement": 0.8,
    "shares": {f"kind {k}": {"samples": 0.1, "real": (k + 1) / 36} for k in range(7)}
    | {EVIL: {"samples": 0.3, "real": 0.2}},
}


def run(folder, columns):
    make(folder)
    told = {"metrics": {"ks_complement": metric(0.85)}, "protocol": {}, "columns": columns, "seconds": 1.0}
    (folder / "evaluation.json").write_text(json.dumps(told))
    return folder


def test_columns_are_told_with_their_numbers_the_worst_first(tmp_path):
    worst, best = table_columns(read(run(tmp_path / "run", [LENGTH, KIND])))
    assert (best.name, best.measure, best.score) == ("length", "ks_complement", "0.9")
    assert (best.samples, best.real) == ("3 (1 to 5)", "30 (10 to 50)")
    assert (worst.name, worst.measure, worst.score) == (EVIL, "tv_complement", "0.8")
    assert worst.samples == f"{EVIL} 30 %"
    assert worst.real == f"{EVIL} 20 %; 2 more"


def test_values_that_differ_in_their_last_digits_are_told_with_them(tmp_path):
    near = {level: {"samples": 1013.21 + 0.01 * k, "real": 1013.25} for k, level in enumerate(LEVELS)}
    (row,) = table_columns(read(run(tmp_path / "run", [LENGTH | {"quantiles": near}])))
    assert (row.samples, row.real) == ("1013.24 (1013.22 to 1013.26)", "1013.25 (1013.25 to 1013.25)")


@pytest.mark.parametrize(
    "column",
    [
        "text",
        {},
        {"column": "a", "ks_complement": None, "quantiles": {}},
        {"column": "a", "ks_complement": 0.5, "quantiles": {"0.5": {"samples": 1.0, "real": 1.0}}},
        {"column": "a", "ks_complement": 0.5, "quantiles": dict.fromkeys(LEVELS, 1.0)},
        {"column": "a", "tv_complement": 0.5, "shares": {}},
        {"column": "a", "tv_complement": 0.5, "shares": {"x": None}},
        {"column": "a", "tv_complement": 0.5},
    ],
)
def test_what_is_told_in_another_way_is_left_out(tmp_path, column):
    assert [row.name for row in table_columns(read(run(tmp_path / "run", [column, LENGTH])))] == ["length"]


def test_a_run_without_columns_has_no_such_section(tmp_path):
    for k, columns in enumerate(([], None, {"a": 1})):
        page = write_report(run(tmp_path / str(k), columns)).read_text()
        assert 'id="columns"' not in page
        assert "real images (floor)" in page


def test_tables_side_by_side_stand_beside_real_rows(tmp_path):
    runs = [run(tmp_path / name, [LENGTH]) for name in ("a", "b")]
    told = json.loads((runs[0] / "evaluation.json").read_text())
    told["metrics"] = {"ks_complement": metric(0.85, 0.95)}
    (runs[0] / "evaluation.json").write_text(json.dumps(told))
    words = Page(write_reports(runs, tmp_path / "page.html").read_text()).words
    assert "of what real rows get" in words
    assert "real rows 0.95" in words
    assert "images" not in words


def test_spans_lie_where_the_values_do():
    svg = spans([0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 2.0, 8.0])
    drawn = re.search(r'"thin drawn" x1="([\d.]+)" x2="([\d.]+)"', svg)
    real = re.search(r'"thin real" x1="([\d.]+)" x2="([\d.]+)"', svg)
    assert float(drawn[1]) == float(real[1])
    assert float(drawn[2]) - float(drawn[1]) == pytest.approx((float(real[2]) - float(real[1])) / 2, abs=0.2)
    assert "nan" not in spans([1.0] * 5, [1.0] * 5)


def test_bars_are_as_long_as_shares_and_names_are_escaped():
    svg = shares([(EVIL, 0.25, 0.5), ("b", 0.0, 0.0)])
    ends = [float(x) - 70.0 for x in re.findall(r'x2="([\d.]+)"', svg)]
    assert ends[1] == pytest.approx(ends[0] / 2, abs=0.1)
    assert ends[2] == ends[3] == 0.0
    assert "<script" not in svg
    assert "nan" not in shares([("a", 0.0, 0.0)])


def test_the_page_of_a_table_in_a_browser(tmp_path):
    page = write_report(run(tmp_path / "run", [LENGTH, KIND] + [LENGTH | {"column": f"x{k}"} for k in range(20)]))
    text = page.read_text()
    assert "columns" in {section["id"] for section in Page(text).all("section")}
    assert "real rows (floor)" in text
    assert "beside what real rows get" in text
    assert "<script" not in text
    with browser(tmp_path / "profile") as tab:
        for width in (1200, 390):
            for dark in (False, True):
                tab.open(page, width=width, dark=dark)
                assert tab.see("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        assert (
            tab.see("new Set([...document.querySelectorAll('.spans line')].map(e => getComputedStyle(e).stroke)).size")
            == 2
        )
        assert tab.complaints == []
