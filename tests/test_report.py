"""The report: whole from any folder, safe from what files say, the same for the same files; and the animation."""

import json
import re
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_runs import EVIL, Page, make, metric, store, whole
from PIL import Image
from torch import nn

from gensys.core import Generative
from gensys.errors import RunError
from gensys.families.mapped import Mapped
from gensys.report import add_trajectory, draw_trajectory, write_report
from gensys.report.animation import columns_for
from gensys.report.plots import Axis, curves, interval
from gensys.report.reading import read as contents
from gensys.report.recipe import Places, commands
from gensys.report.scores import compact, duration, figures, scores
from gensys.run import Spec
from gensys.run_folder import RunFolder
from gensys.targets import Prediction


def read(folder):
    text = write_report(folder).read_text()
    return text, Page(text)


def test_a_whole_run(tmp_path):
    text, page = read(whole(tmp_path / "demo"))
    ids = {attrs.get("id") for attrs in page.all("section")}
    assert ids == {"samples", "sampling", "metrics", "reconstructions", "progress", "curves", "times", "data", "again"}
    assert {a["href"] for a in page.all("a")} == {f"#{name}" for name in ids}
    assert "4 × floor" in page.words  # 200 over 50
    assert "90.0 %" in page.words
    assert "25.1 dB" in page.words
    assert "1:31 min" in page.words
    assert "Trained on 4,465 of digits made by hand" in page.words
    assert "Images that training never saw" in page.words
    assert re.findall(r"step ([\d,]+)<", text) == ["0", "200", "300", "500", "600", "800"]
    assert "sampler · seed 1234" in page.words  # a seed is a name, not a quantity
    assert "16.0 GiB" in page.words
    assert "gensys encode runs/demo/codec --out runs/demo/latents.zarr" in page.words
    assert "gensys sample runs/demo --seeds 0:30 --seed 7" in page.words
    assert str(tmp_path) not in text


def test_needs_nothing_from_elsewhere_and_runs_no_script(tmp_path):
    text, page = read(whole(tmp_path / "demo"))
    assert page.all("script") == []
    assert page.all("link") == []
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert "http" not in text.replace("http-equiv", "")
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)


def test_accessible(tmp_path):
    _, page = read(whole(tmp_path / "demo"))
    assert all(image["alt"] for image in page.all("img"))
    assert all("scope" in head for head in page.all("th"))
    assert all("aria-hidden" in svg or svg["aria-label"] for svg in page.all("svg"))
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    (still,) = page.all("source")
    assert still["media"] == "(prefers-reduced-motion: reduce)"


def test_the_same_files_give_the_same_page(tmp_path):
    folder = whole(tmp_path / "demo")
    first, second = (re.sub("<time>.*?</time>", "", read(folder)[0]) for _ in range(2))
    assert first == second


def test_text_from_files_is_escaped(tmp_path):
    folder = make(tmp_path / "<b>run", recipe=EVIL)
    store(folder / "samples.zarr", labels=[k % 2 for k in range(30)], classes=[EVIL, EVIL + "2"], run=EVIL)
    document = json.loads((folder / "run.json").read_text())
    document |= {"knobs": {EVIL: EVIL}, "data": {"about": EVIL}}
    (folder / "run.json").write_text(json.dumps(document))
    (folder / "env.json").write_text(json.dumps({EVIL: EVIL}))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "images": 64, "loss": 1.0, EVIL: 3.0}) + "\n")
    metrics = {EVIL: metric(1.0, unit=EVIL, about=EVIL), "fd" + EVIL: metric(2.0, 1.0)}
    (folder / "evaluation.json").write_text(json.dumps({"metrics": metrics, "protocol": {EVIL: [EVIL]}}))
    (folder / "stages.json").write_text(json.dumps([{"stage": EVIL, "seconds": 1, "detail": EVIL}]))
    text, page = read(folder)
    assert page.all("script") == []
    assert page.all("b") == []
    assert "<script" not in text
    assert EVIL in page.words


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(RunError, match="no run"):
        write_report(tmp_path)
    with pytest.raises(RunError, match="no run"):
        write_report(tmp_path / "nothing")


def test_a_run_that_has_only_begun(tmp_path):
    (tmp_path / "run.json").write_text('{"recipe": "latent_dit", "knobs": {}}')
    _, page = read(tmp_path)
    assert "No checkpoint has been saved yet" in page.words
    for what in ("samples", "metrics", "loss curves", "progress", "environment"):
        assert what in page.words
    for command in ("gensys sample", "gensys evaluate", "gensys train"):
        assert command in page.words


def test_only_a_demo_has_stages_and_nobody_else_misses_them(tmp_path):
    folder = whole(tmp_path / "run")
    (folder / "stages.json").unlink()
    text, page = read(folder)
    assert "Not here" not in page.words
    assert "stages.json" not in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("evaluation.json", b"{"),
        ("evaluation.json", b"[]"),
        ("evaluation.json", b'{"metrics": 3}'),
        ("evaluation.json", b"\xff\xfe"),
        ("stages.json", b"nothing"),
        ("env.json", b"3"),
        ("trajectory.png", b"\x89PNG\r\n\x1a\n torn"),
        ("reconstructions.png", b""),
        ("samples.zarr", b"a file"),
    ],
)
def test_what_is_damaged_is_told(tmp_path, name, content):
    folder = make(tmp_path / "run")
    (folder / name).write_bytes(content)
    _, page = read(folder)
    _, _, gaps = page.words.split("Not here")  # the link, the heading
    assert name in gaps


def test_torn_log_and_previews(tmp_path):
    folder = make(tmp_path / "run")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 31, "loss": NaN, "images": 1984}\n3\n{"step": 3')
    (folder / "samples" / "00000800.png").write_bytes(b"torn")
    (folder / "samples" / "notes.png").write_bytes(b"")
    text, page = read(folder)
    assert "step 600" in text
    assert "step 800" not in text
    assert "nan" not in text.split("</style>")[1].lower().replace("dominant", "")
    assert page.all("polyline")


@pytest.mark.parametrize("bad", [None, "nan", "inf", float("nan"), "text"])
def test_a_metric_without_a_number(tmp_path, bad):
    folder = make(tmp_path / "run")
    metrics = {
        "fd_lenet_10": metric(bad, 1.0, 0.0, 2.0),
        "label_agreement": metric(0.5, bad, bad, bad),
        "odd": {},
        "no": 3,
    }
    (folder / "evaluation.json").write_text(json.dumps({"metrics": metrics}))
    _, page = read(folder)
    assert "50.0 %" in page.words
    assert "× floor" not in page.words


@pytest.mark.parametrize(
    ("n", "shape", "labels", "classes", "says"),
    [
        (3, (1, 8, 8), [0, 1, 2], [str(k) for k in range(10)], "Each column"),
        (30, (3, 8, 8), None, [], "without labels"),
        (30, (1, 8, 8), [0] * 30, ["only"], "All were asked for the class only"),
        (30, (1, 8, 8), [2] * 30, ["a", "b", "c"], "All were asked for the class c"),
        (30, (1, 8, 8), [k * k // 2 % 3 for k in range(30)], ["a", "b", "c"], "row by row: a, a, c, b"),
        (30, (1, 8, 8), [k % 20 for k in range(30)], [f"n{k}" for k in range(20)], "row by row: n0, n1"),
        (120, (1, 2, 2), [k % 4 for k in range(120)], list("wxyz"), "The first 96 of 120"),
        (2, (3, 300, 500), None, [], "All 2 samples"),
        (30, (1, 8, 8), [7] * 30, ["a"], "without labels"),  # a label that has no name
    ],
)
def test_samples_of_every_kind(tmp_path, n, shape, labels, classes, says):
    folder = make(tmp_path / "run")
    store(folder / "samples.zarr", n, shape, labels, classes)
    assert says in read(folder)[1].words


def test_samples_that_are_no_pictures(tmp_path):
    folder = make(tmp_path / "run")
    store(folder / "samples.zarr", 4, (2, 100))
    assert "which are no pictures" in read(folder)[1].words


def test_a_codec_shows_reconstructions_and_misses_no_samples(tmp_path):
    _, page = read(make(tmp_path / "codec", recipe="kl_autoencoder", codec=True))
    assert "made of them at step 800" in page.words
    assert "gensys sample" not in page.words
    assert {"reconstructions", "progress", "curves", "times", "data", "again", "gaps"} == {
        s["id"] for s in page.all("section")
    }


@pytest.mark.parametrize("kind", ["codec", "model"])
def test_what_a_run_is_stands_in_its_file(tmp_path, kind):
    folder = make(tmp_path / "run", codec=kind == "model")  # the log says the contrary
    document = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(document | {"kind": kind}))
    assert contents(folder).run.is_codec == (kind == "codec")


def test_a_codec_elsewhere_is_found_by_the_latents(tmp_path):
    codec = make(tmp_path / "vae", recipe="kl_autoencoder", codec=True)
    folder = make(tmp_path / "run")
    latents = folder / "latents.zarr"
    latents.mkdir()
    (latents / "zarr.json").write_text(json.dumps({"attributes": {"codec": {"run": str(codec), "data": "my images"}}}))
    assert "gensys encode runs/vae --data 'my images' --out runs/run/latents.zarr" in read(folder)[1].words
    mirrored = {"codec": {"run": str(codec), "data": ""}, "gensys_store": {"arrays": {"mean": {}, "mean_mirror": {}}}}
    (latents / "zarr.json").write_text(json.dumps({"attributes": mirrored}))
    assert "gensys encode runs/vae --mirror --out runs/run/latents.zarr" in read(folder)[1].words


def test_folders_are_renamed_whole_and_only_they(tmp_path):
    folder = make(tmp_path / "run")
    store(folder / "samples.zarr", run="a")  # a nonsense record must not rename every letter a
    places = Places(contents(folder))
    assert places(f"by {folder}/codec, {folder}2, {folder}.old.") == f"by runs/run/codec, {folder}2, {folder}.old."
    assert places(f"in {folder}.") == "in runs/run."
    assert places("a banana") == "a banana"


def test_a_codec_whose_folder_has_the_same_name_keeps_a_folder_of_its_own(tmp_path):
    codec = make(tmp_path / "vae" / "0", recipe="kl_autoencoder", codec=True)
    folder = make(tmp_path / "flow" / "0")
    (codec / "latents.zarr").mkdir()
    (codec / "latents.zarr" / "zarr.json").write_text(json.dumps({"attributes": {"codec": {"run": str(codec)}}}))
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text.replace(str(folder / "latents.zarr"), str(codec / "latents.zarr")))
    found = contents(folder)
    lines = [line.replace(" \\\n   ", "") for _, line in commands(found, Places(found))]
    assert lines[0].endswith("--run runs/vae/0")
    assert lines[1] == "gensys encode runs/vae/0 --out runs/vae/0/latents.zarr"
    assert lines[2].endswith("--run runs/0")
    words = read(folder)[1].words
    assert "runs/vae/0 was trained for a time" in words
    assert "runs/0 was trained for a time" in words


def test_the_commands_can_be_read_by_a_shell(tmp_path):
    folder = make(tmp_path / "my run")
    document = json.loads((folder / "run.json").read_text())
    document["knobs"] |= {"caption": "it's $HOME", "flag": True, **{f"knob{k}": k for k in range(30)}}
    (folder / "run.json").write_text(json.dumps(document))
    found = contents(folder)
    line = dict(commands(found, Places(found)))["train"]
    assert max(map(len, line.split("\n"))) <= 98
    words = shlex.split(line)
    assert words[:4] == ["gensys", "train", "latent_dit", "data=runs/my run/latents.zarr"]
    assert {"caption=it's $HOME", "flag=true", "knob29=29", "empty="} < set(words)
    assert words[-2:] == ["--run", "runs/my run"]


# ------------------------------------------------------------------------------------------------------------- numbers


def test_digits_follow_the_interval():
    (row,) = scores({"m": metric(0.573512, 0.98123, 0.5517, 0.595)})
    assert (row.value, row.interval, row.floor, row.ratio) == ("0.574", "0.552 to 0.595", "0.981", "0.584 ×")
    (row,) = scores({"m": metric(214.21, 52.34, 205.1, 223.3, better="lower")})
    assert (row.value, row.interval, row.floor, row.ratio) == ("214", "205 to 223", "52", "4.09 ×")
    (row,) = scores({"m": metric(214.21, 52.34, 205.1, 223.3, better="lower") | {"spread": 11.7}})
    assert (row.floor, row.ratio) == ("52 ± 12", "4.09 ×")
    (row,) = scores({"m": metric(25.1, 30.0, 24.96, 25.25, unit="dB")})
    assert (row.value, row.ratio) == ("25.10 dB", "")
    (row,) = scores({"m": metric("inf", None, unit="dB")})
    assert (row.value, row.plot) == ("∞", None)
    (row,) = scores({"m": metric(22443.7, 0.4836, 21000.2, 23900.1, better="lower")})
    assert (row.value, row.floor) == ("22,444", "0.48")  # not 0
    (row,) = scores({"m": metric(0.91, -0.00046, -0.001, 1.82, better="lower")})
    assert (row.value, row.interval, row.floor) == ("0.9", "0.0 to 1.8", "-0.00046")  # no -0.0
    (row,) = scores({"m": metric(3.2e-9, 1.1e-9, 3.1e-9, 3.3e-9)})
    assert (row.value, row.interval, row.floor) == ("3.2e-09", "3.1e-09 to 3.3e-09", "1.1e-09")


def test_figures_say_only_what_was_measured():
    assert figures({}, None, False) == []
    assert [f.title for f in figures({"fd_x": metric(3.0)}, 41.23, False)] == [
        "distance from real",
        "training time",
    ]
    assert [(f.value, f.unit) for f in figures({}, 7500.0, True)] == [("2:05", "h")]
    assert [figures({}, s, True)[0].value for s in (59.97, 3599.8)] == ["1:00", "1:00"]  # not 60.0 s, not 60:00 min


def test_texts():
    assert [duration(s) for s in (0.24, 59.94, 187, 7380)] == ["0.2 s", "59.9 s", "3 min 07 s", "2 h 03 min"]
    assert (duration(59.97), compact(9999.7), compact(999.8, 3)) == ("1 min 00 s", "10,000", "1,000")
    assert [compact(v) for v in (None, True, 12345, 12345.6, 0.000123456, [])] == [
        "–", "yes", "12,345", "12,346", "0.0001235", "–",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "points",
    [
        [(64.0, 1.0)],
        [(0.0, 0.0)],
        [(64.0, 1.0), (64.0, 1.0)],
        [(0.0, -1.0), (10.0, 5.0)],
        [(float(k), 10.0**-k) for k in range(1, 9)],
        [(float(k), 1.0 + k % 7) for k in range(5000)],
        [(1.0, 1e30), (2.0, 1e-30)],
    ],
)
def test_curves_stay_in_their_frame(points):
    svg = curves([points], EVIL)
    assert "script>" not in svg
    assert "nan" not in svg
    assert "inf" not in svg
    for line in re.findall(r'points="([^"]+)"', svg):
        x, y = np.array([[float(v) for v in pair.split(",")] for pair in line.split()]).T
        assert x.min() >= 45.9
        assert x.max() <= 450.1
        assert y.min() >= 7.9
        assert y.max() <= 198.1


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (104.5, 105.5, ["104.6", "104.8", "105", "105.2", "105.4"]),
        (-1235.5, -1234.0, ["-1.2355k", "-1.235k", "-1.2345k", "-1.234k"]),
        (1e13, 5e13, ["1e+13", "2e+13", "3e+13", "4e+13", "5e+13"]),
        (0.0015, 0.0015, ["0.0015"]),
    ],
)
def test_labels_of_an_axis_tell_its_ticks_apart(low, high, labels):
    assert [label for _, label in Axis(low, high, 0, 1).ticks()] == labels


def test_interval_from_zero():
    assert "nan" not in interval(0.0, 0.0, 0.0, 0.0)
    assert interval(1.0, None, None, None).count("<line") == 1  # the ground alone


# ----------------------------------------------------------------------------------------------------------- animation


class Toy(Generative):
    """Knows its sample from the start: a grey of its label; looks at every time twice, as Heun's solver does."""

    def __init__(self, steps=50, shape=(1, 8, 8)):
        super().__init__()
        self.steps, self.shape = steps, shape

    def loss(self, batch, noise, player):
        raise NotImplementedError

    def sample(self, cond, noise):
        label = cond.get("label", torch.zeros(len(noise.ids))).float()
        return (label / 5 - 1).view(-1, 1, 1, 1).expand(-1, *self.shape)

    def trajectory(self, cond, noise):
        for k in range(self.steps):
            x = self.sample(cond, noise)
            for _ in range(2):
                yield 1 - k / self.steps, x, Prediction(x, x)


class OnTop(Mapped):
    """A latent model over Toy, whose decoder turns grey into colour."""

    def __init__(self):
        super().__init__(Toy(steps=3))

    def loss(self, batch, noise, player):
        raise NotImplementedError

    def decode(self, z):
        return z.expand(-1, 3, -1, -1)

    def embed(self, x):
        raise NotImplementedError

    def sample(self, cond, noise):
        return self.decode(self.prior.sample(cond, noise))


@pytest.mark.parametrize(
    ("model", "classes", "frames"),
    [
        (Toy(), [str(k) for k in range(10)], 21),
        (Toy(steps=1), [], 2),
        (Toy(steps=4), ["a name that is far too long for its picture", "b"], 5),
        (OnTop(), [f"class {k}" for k in range(1000)], 4),
    ],
)
def test_the_animation(tmp_path, model, classes, frames):
    path = tmp_path / "new" / "trajectory.png"
    draw_trajectory(model, classes, 0, path)
    with Image.open(path) as image:
        assert image.n_frames == frames
        columns = columns_for(len(classes))
        assert image.width == columns * 100 - 4
        image.seek(frames - 1)
        shown = image.convert("RGB")
        top = 30 if classes else 8
        expected = [round(255 * (k % (len(classes) or 1)) / 10) for k in range(columns)]
        assert [shown.getpixel((k * 100 + 48, top + 40))[0] for k in range(columns)] == pytest.approx(expected, abs=1)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A run that has a checkpoint; its model is set by the test."""
    folder = make(tmp_path / "run")
    checkpoint = folder / "checkpoints" / "00000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "COMMITTED").write_text("{}")
    (checkpoint / "state.json").write_text('{"step": 1}')
    loaded = SimpleNamespace(source=SimpleNamespace(classes=["x", "y"]))
    monkeypatch.setattr(Spec, "load", lambda spec: loaded)

    def model(run, spec, digest):
        asked.append(spec.knobs.get("steps"))
        if isinstance(asked[0], Exception):
            raise asked[0]
        return asked[0]

    asked = []
    monkeypatch.setattr(RunFolder, "model", model)
    return folder, asked


def test_a_missing_animation_is_added_as_the_samples_were_drawn(trained, tmp_path):
    folder, asked = trained
    asked.append(Toy(steps=3))
    store(folder / "samples.zarr", knobs={"steps": 40}, weights="ab")
    add_trajectory(folder)
    assert asked[1:] == [40]
    draw_trajectory(Toy(steps=3), ["x", "y"], 7, tmp_path / "wanted.png")
    assert (folder / "trajectory.png").read_bytes() == (tmp_path / "wanted.png").read_bytes()
    add_trajectory(folder)
    assert asked[1:] == [40], "it is there"
    shutil.rmtree(folder / "samples.zarr")
    store(folder / "samples.zarr", knobs={"steps": 50}, weights="ab")
    add_trajectory(folder)
    assert asked[1:] == [40, 50], "the samples are others"


@pytest.mark.parametrize("model", [Toy(shape=(2, 3, 3)), nn.Identity()])
def test_what_has_no_animation_is_left_without(trained, model):
    folder, asked = trained
    asked.append(model)
    add_trajectory(folder)
    assert not (folder / "trajectory.png").exists()


def test_a_failure_to_animate_is_told(trained):
    folder, asked = trained
    asked.append(RunError("the codec is gone"))
    with pytest.raises(RunError, match="the codec is gone"):
        add_trajectory(folder)


def test_a_run_without_a_checkpoint_is_not_loaded(tmp_path):
    add_trajectory(make(tmp_path / "run"))


def test_the_animation_is_repeatable(tmp_path):
    for name in ("a.png", "b.png"):
        draw_trajectory(Toy(), ["x", "y"], 3, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_what_cannot_be_animated(tmp_path):
    class Flat(Toy):
        def sample(self, cond, noise):
            return torch.zeros(len(noise.ids), 2)

    with pytest.raises(ValueError, match="pictures"):
        draw_trajectory(Flat(), [], 0, tmp_path / "t.png")
    Flat.trajectory = None
    with pytest.raises(TypeError, match="trajectory"):
        draw_trajectory(torch.nn.Linear(1, 1), [], 0, tmp_path / "t.png")


@pytest.mark.parametrize(("classes", "columns"), [(0, 10), (1, 10), (2, 10), (3, 9), (7, 7), (12, 12), (13, 10)])
def test_rows_hold_whole_turns_of_the_classes(classes, columns):
    assert columns_for(classes) == columns
