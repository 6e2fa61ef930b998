"""The report as a browser shows it: whole, silent, as wide as the screen, in light and dark, and printed."""

import json

import pytest
from browser import browser
from made_runs import whole

from gensys.report import write_report

PICTURES = """
Promise.all([...document.images].map(image => {
    image.loading = "eager";
    return image.decode().then(() => image.naturalWidth, () => 0);
}))
"""
SCORES = """
[...document.querySelectorAll(".scores tbody tr")].map(row =>
    [row.querySelector("code").textContent, row.querySelector(".value").textContent])
"""
GROUND = "getComputedStyle(document.body).backgroundColor"
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def looked_at(tab, page):
    """Everything that holds of every page, on a desk and on a phone, in light and dark."""
    grounds = {}
    for width in (1200, 390):
        for dark in (False, True):
            tab.open(page, width=width, dark=dark)
            assert tab.see(WIDER) == 0, f"the page is wider than a screen of {width}"
            grounds[dark] = tab.see(GROUND)
    assert grounds == {False: "rgb(255, 255, 255)", True: "rgb(18, 20, 22)"}
    widths = tab.see(PICTURES)
    assert widths
    assert all(widths), "a picture cannot be decoded"
    assert tab.complaints == []


def test_a_run(tab, tmp_path):
    folder = whole(tmp_path / "demo")
    looked_at(tab, write_report(folder))
    metrics = json.loads((folder / "evaluation.json").read_text())["metrics"]
    shown = dict(tab.see(SCORES))
    assert list(shown) == list(metrics)
    for name, text in shown.items():
        number, *unit = text.replace(",", "").split()
        digits = len(number.partition(".")[2])
        assert float(number) == pytest.approx(metrics[name]["value"], abs=0.5 * 10**-digits + 1e-12)
        assert unit == metrics[name]["unit"].split()


PRINTED = """
[".printed", ".moving", "nav", "details"].map(name => getComputedStyle(document.querySelector(name)).display !== "none")
"""


def test_a_printed_run(tab, tmp_path):
    page = write_report(whole(tmp_path / "demo"))
    tab.open(page, width=718, dark=True, print_=True)  # of A4, without its margins
    assert tab.see(WIDER) == 0
    assert tab.see(GROUND) == "rgb(255, 255, 255)", "dark pages are printed on white paper too"
    assert tab.see(PRINTED) == [True, False, False, False]
    tab.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    assert tab.complaints == []


def test_a_page_that_would_load_something_is_found_out(tab, tmp_path):
    page = tmp_path / "page.html"
    text = write_report(whole(tmp_path / "demo")).read_text()
    page.write_text(text.replace("<main>", '<main><script>1</script><img alt="" src="data:image/png;base64,AAAA">'))
    tab.open(page)
    assert any("Content Security Policy" in line for line in tab.complaints)
    assert 0 in tab.see(PICTURES)
    tab.complaints.clear()
