"""What a report makes of samples: a map, nearest images, quality against network calls. Old ones are not shown."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from browser import browser
from made_runs import EVIL, Page, make, metric, store, whole
from PIL import Image

from gensys.report import complete, write_report
from gensys.report.cached import MAP, NEIGHBOURS, keep, kept, origin
from gensys.report.figures import halves
from gensys.report.latent_map import document_of, drawn, principal, read_map
from gensys.report.neighbours import PICTURE, read_neighbours
from gensys.report.plots import cloud, tradeoff
from gensys.report.reading import read
from gensys.report.tradeoff import read_tradeoff


def run(folder, n=30):
    make(folder)
    store(folder / "samples.zarr", n, labels=[k % 3 for k in range(n)], classes=["ant", "bee", "cat"], run=str(folder))
    return folder


# ----------------------------------------------------------------------------------------------------------- what holds


def test_what_was_made_of_other_samples_or_data_does_not_hold(tmp_path):
    folder = run(tmp_path / "run")
    before = origin(folder)
    assert before["data"] == "ab" * 16
    keep(folder / "x.json", before, {"a": 1})
    assert kept(folder / "x.json", origin(folder))["a"] == 1
    document = json.loads((folder / "run.json").read_text())
    document["data"]["fingerprint"] = "cd" * 16
    (folder / "run.json").write_text(json.dumps(document))
    assert kept(folder / "x.json", origin(folder)) is None
    other = run(tmp_path / "other", 31)
    assert kept(folder / "x.json", origin(other)) is None


def test_what_is_damaged_or_missing_does_not_hold(tmp_path):
    folder = run(tmp_path / "run")
    assert kept(folder / "x.json", origin(folder)) is None
    keep(folder / "x.json", origin(folder), {"a": 1})
    (folder / "x.json").write_text((folder / "x.json").read_text().replace("1", "2", 1))
    assert kept(folder / "x.json", origin(folder)) is None
    assert origin(make(tmp_path / "none")) is None
    (tmp_path / "none" / "samples.zarr").write_bytes(b"a file")
    assert origin(tmp_path / "none") is None


def test_a_run_is_complete_with_both_or_without_samples(tmp_path):
    assert complete(make(tmp_path / "none"))
    folder = run(tmp_path / "run")
    assert not complete(folder)
    for name in (MAP, NEIGHBOURS):
        keep(folder / name, origin(folder), {})
    assert complete(folder)


# ------------------------------------------------------------------------------------------------------------------ map


def gauss(n, seed, scales):
    x = torch.randn(n, len(scales), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x * torch.tensor(scales, dtype=torch.float64)


def test_the_plane_is_that_of_the_covariance():
    turn = torch.linalg.qr(gauss(6, 0, [1.0] * 6)).Q
    x = gauss(2000, 1, [5.0, 3.0, 1.0, 0.5, 0.2, 0.1]) @ turn.T + 7.0
    centre, axes, explained = principal(x)
    values, vectors = np.linalg.eigh(np.cov(x.numpy().T))
    assert torch.allclose(centre, x.mean(0))
    assert explained == pytest.approx(values[::-1][:2] / values.sum(), rel=1e-9)
    assert np.abs(axes.numpy().T @ vectors[:, ::-1][:, :2]) == pytest.approx(np.eye(2), abs=1e-9)
    assert (axes.T @ turn[:, :2]).abs().numpy() == pytest.approx(np.eye(2), abs=0.05)


def test_the_plane_does_not_depend_on_the_order_of_the_points():
    x = gauss(300, 2, [3.0, 2.0, 1.0])
    axes, other = principal(x)[1], principal(x.flip(0))[1]
    assert torch.allclose(axes, other)
    assert all(column[column.abs().argmax()] > 0 for column in axes.T)


def test_points_that_never_vary_have_a_plane():
    _, axes, explained = principal(torch.ones(5, 3))
    assert axes.shape == (3, 2)
    assert explained == (0.0, 0.0)


def mapped(folder, n=40, classes=("ant", "bee", "cat")):
    real, samples = gauss(n, 3, [3.0, 2.0, 1.0]), gauss(n, 4, [3.0, 2.0, 1.0])
    labels = torch.arange(n) % len(classes)
    keep(folder / MAP, origin(folder), document_of("images", real, samples, (labels, labels), classes, "latents"))
    return real


def test_a_map_is_written_and_read(tmp_path):
    folder = run(tmp_path / "run")
    assert read_map(folder) is None
    real = mapped(folder)
    found = read_map(folder)
    assert (len(found.real), len(found.samples), found.classes, found.of) == (40, 40, ("ant", "bee", "cat"), "latents")
    centre, axes, explained = principal(real)
    wanted = (real - centre) @ axes
    assert [spot[:2] for spot in found.real] == pytest.approx(wanted.numpy(), rel=1e-3)
    assert found.explained == explained
    page = Page(write_report(folder).read_text())
    assert "map" in {section["id"] for section in page.all("section")}
    assert "Faint: 40 real images. Strong: 40 samples." in page.words


@pytest.mark.parametrize("change", [{"real": []}, {"explained": [1]}, {"classes": 3}, {"samples": [[1, 2]]}])
def test_a_map_of_another_make_is_left_out(tmp_path, change):
    folder = run(tmp_path / "run")
    mapped(folder)
    keep(folder / MAP, origin(folder), kept(folder / MAP, origin(folder)) | change)
    assert read_map(folder) is None
    write_report(folder)


@pytest.mark.parametrize("spread", [(1.0, 1.0), (1e-9, 1e9), (0.0, 0.0), (5.0, 0.1), (0.2, 1.0)])
def test_a_cloud_is_in_its_frame_on_one_scale(spread):
    rng = np.random.default_rng(0)
    real = [(x * spread[0], y * spread[1], k % 3) for k, (x, y) in enumerate(rng.normal(size=(500, 2)))]
    svg = cloud(real, real[:50], [EVIL, "b", "c"], EVIL)
    assert "<script" not in svg
    assert "nan" not in svg
    wide, high = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
    places = np.array([[float(v) for v in pair] for pair in re.findall(r"M([-\d.]+) ([-\d.]+)h0", svg)])
    assert len(places) == 550
    assert (places >= 0).all()
    assert (places <= [wide, high]).all()
    sizes, drawn_sizes = np.ptp([spot[:2] for spot in real], axis=0), np.ptp(places, axis=0)
    if min(spread) > 0.05:  # a step across is as long as a step up
        assert drawn_sizes[0] / sizes[0] == pytest.approx(drawn_sizes[1] / sizes[1], rel=0.05)


def test_a_page_with_a_thousand_points_is_small(tmp_path):
    folder = run(tmp_path / "run")
    before = write_report(folder).stat().st_size
    mapped(folder, 500, [str(k) for k in range(10)])
    assert write_report(folder).stat().st_size - before < 40_000
    assert "500 real images, faint, and 500 samples" in drawn(read_map(folder))


# ----------------------------------------------------------------------------------------------------------- neighbours


def paired(folder, n=4, channels=1):
    rng = np.random.default_rng(1)
    array = rng.integers(0, 256, (16, 8 * n, channels), np.uint8).squeeze()
    Image.fromarray(array).save(folder / PICTURE)
    pairs = [{"row": 10 + k, "name": f"digits:{10 + k}", "distance": 0.1 * k} for k in range(n)]
    keep(folder / NEIGHBOURS, origin(folder), {"pairs": pairs, "typical": 0.25, "held_out": 200})
    return array


@pytest.mark.parametrize("channels", [1, 3])
def test_neighbours_are_read_and_shown(tmp_path, channels):
    folder = run(tmp_path / "run")
    assert read_neighbours(folder) is None
    paired(folder, channels=channels)
    found = read_neighbours(folder)
    assert [pair.distance for pair in found.pairs] == ["0", "0.1", "0.2", "0.3"]
    page = Page(write_report(folder).read_text())
    assert "digits:13" in page.words
    assert "0.25 from their nearest one (the median of 200)" in page.words


@pytest.mark.parametrize("damage", ["gone", "torn", "odd", "of others"])
def test_neighbours_whose_picture_is_damaged_are_left_out(tmp_path, damage):
    folder = run(tmp_path / "run")
    paired(folder)
    path = folder / PICTURE
    if damage == "gone":
        path.unlink()
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:100])
    else:
        Image.new("L", (33, 16) if damage == "odd" else (32, 17)).save(path)
    assert read_neighbours(folder) is None
    write_report(folder)


def test_halves_are_the_picture(tmp_path):
    array = paired(run(tmp_path / "run"))
    for k, both in enumerate(halves(tmp_path / "run" / PICTURE, 4)):
        for part, picture in enumerate(both):
            with Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2]))) as image:
                shown = np.asarray(image)[:: image.height // 8, :: image.width // 8, 0]
            assert (shown == array[8 * part : 8 * part + 8, 8 * k : 8 * k + 8]).all()


# --------------------------------------------------------------------------------------------- quality against the cost


def evaluation(path, calls, value, *, low=None, high=None, floor=2.0, weights="w", **protocol):
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"solver": "heun", "samples": 500, "steps": calls, "network calls": calls, "weights": weights} | protocol
    document = {"metrics": {"fd_lenet_500": metric(value, floor, low, high, better="lower")}, "protocol": told}
    path.write_text(json.dumps(document))


def points(folder):
    found = read_tradeoff(read(folder))
    return None if found is None else [(k, calls, ratio) for k, _, calls, ratio, _ in found.rows]


def test_one_point_is_no_curve(tmp_path):
    folder = run(tmp_path / "run")
    assert points(folder) is None
    evaluation(folder / "evaluation.json", 10, 4.0)
    assert points(folder) is None


def test_evaluations_of_the_same_weights_make_a_curve(tmp_path):
    folder = run(tmp_path / "run")
    evaluation(folder / "evaluation.json", 10, 4.0, low=3.0, high=5.0)
    evaluation(folder / "nfe" / "2.evaluation.json", 2, 40.0)
    evaluation(folder / "more.evaluation.json", 50, 3.0)
    evaluation(folder / "nfe" / "4.evaluation.json", 4, 9.0, weights="of a younger checkpoint")
    evaluation(folder / "nfe" / "5.evaluation.json", 5, float("nan"))
    assert points(folder) == [(0, "2", "20"), (0, "10", "2"), (0, "50", "1.5")]
    found = read_tradeoff(read(folder))
    assert found.series == [(0, "heun, 500 samples")]
    assert found.rows[1][-1] == "1.5 to 2.5"
    page = Page(write_report(folder).read_text())
    assert "calls" in {section["id"] for section in page.all("section")}


def test_another_protocol_is_another_line_and_says_so(tmp_path):
    folder = run(tmp_path / "run")
    evaluation(folder / "evaluation.json", 10, 4.0, samples=1000)
    for calls, value in ((2, 40.0), (10, 5.0)):
        evaluation(folder / "nfe" / f"{calls}.evaluation.json", calls, value)
        evaluation(folder / "nfe" / f"ddim{calls}.evaluation.json", calls, 2 * value, solver="ddim")
    found = read_tradeoff(read(folder))
    assert [label for _, label in found.series] == [
        "solver heun, samples 1,000",
        "solver heun, samples 500",
        "solver ddim, samples 500",
    ]
    assert str(found.svg).count("<polyline") == 2


def test_stores_beside_the_run_count_if_they_are_of_it(tmp_path):
    folder = run(tmp_path / "run")
    evaluation(folder / "evaluation.json", 10, 4.0)
    for name, of in (("mine", folder), ("other", tmp_path / "else")):
        evaluation(tmp_path / f"{name}.evaluation.json", 3 if name == "mine" else 4, 9.0)
        (tmp_path / f"{name}.zarr").mkdir()
        (tmp_path / f"{name}.zarr" / "zarr.json").write_text(json.dumps({"attributes": {"run": str(of)}}))
    assert [calls for _, calls, _ in points(folder)] == ["3", "10"]


def test_the_plot_of_the_tradeoff():
    svg = tradeoff([[(2, 20.0, 15.0, 25.0), (50, 1.5, -1.0, 2.0)], [(1, 3.0, None, None)]], EVIL)
    assert "<script" not in svg
    assert "nan" not in svg
    assert svg.count("<circle") == 3
    assert svg.count('class="bar') == 2
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', svg)]
    one = float(re.search(r'class="floor"[^>]*y1="([\d.]+)"', svg)[1])
    assert heights[0] < heights[2] < heights[1] < one, "further up is worse, and real images are the lowest"


def test_all_of_it_in_a_browser(tmp_path):
    folder = whole(tmp_path / "demo")
    mapped(folder)
    paired(folder, 10)
    for calls in (2, 10):
        evaluation(folder / "nfe" / f"{calls}.evaluation.json", calls, 40.0 / calls)
    page = write_report(folder)
    ids = {section["id"] for section in Page(page.read_text()).all("section")}
    with browser(tmp_path / "profile") as tab:
        for width in (1200, 390):
            for dark in (False, True):
                tab.open(page, width=width, dark=dark)
                assert tab.see("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
                hues = tab.see(
                    "new Set([...document.querySelectorAll('.cloud .drawn')].map(e => getComputedStyle(e).stroke)).size"
                )
                assert hues == 3
        assert tab.complaints == []
    assert {"map", "neighbours"} <= ids
