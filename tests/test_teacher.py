"""Teachers and weaker models: which weights a run goes on from is kept, and told when it changes."""

import numpy as np
import pytest
from gensys.pipelines.sample import sample
from gensys.pipelines.train import train

from gensys.domain import open_domain
from gensys.errors import ConfigError, RunError
from gensys.progress import Screen
from gensys.run import resolve
from gensys.run_folder import RunFolder, pinned, unpinned
from gensys.teacher import open_denoiser

SCREEN = Screen(quiet=True)
QUIET = {"workers": 0, "fresh": False, "screen": SCREEN}
TINY = {"width": "8", "depth": "1", "batch": "8", "steps": "2", "precision": "fp32"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Rows of 3 numbers, that go by vectors of 2, of 4, and by nothing."""
    root, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    x = generator.normal(size=(64, 3)).astype(np.float32)
    for length in (2, 4):
        np.savez(root / f"{length}.npz", x=x, vector=generator.normal(size=(64, length)).astype(np.float32))
    np.savez(root / "0.npz", x=x)
    return root


def trained(path, recipe, budget="16", fresh=False, **knobs):
    folder, size = RunFolder(path), {} if "teacher" in knobs else TINY
    spec = resolve(recipe, {"batch": "8", "budget": budget} | size | knobs)
    train(folder, spec, workers=0, fresh=fresh, screen=SCREEN)
    return folder


def drawn(folder, out, **knobs):
    return sample(
        folder, out, ids=range(4), seed=0, label=None, overrides=knobs, shard=64, workers=0, screen=SCREEN
    )  # fmt: skip


def test_a_student_keeps_the_weights_of_its_teacher(tables, tmp_path, monkeypatch):
    data = str(tables / "0.npz")
    teacher = trained(tmp_path / "teacher", "edm", data=data)
    monkeypatch.chdir(tmp_path)
    student = trained(tmp_path / "student", "consistency", data=data, teacher="teacher")
    kept = student.document()["knobs"]["teacher"]
    assert kept == f"{tmp_path / 'teacher'}@{teacher.weights_digest()[:12]}"
    train(student, resolve("consistency", {"data": data, "batch": "8", "budget": "16", "teacher": kept}), **QUIET)
    drawn(student, tmp_path / "a.zarr")

    trained(tmp_path / "teacher", "edm", fresh=True, data=data, seed="1")  # replaced
    with pytest.raises(RunError, match=r"teacher: .*@\w{12} -> .*@\w{12} \(it has been trained since; teacher=.* goes"):
        trained(tmp_path / "student", "consistency", data=data, teacher="teacher")
    for go_on in (
        lambda: trained(tmp_path / "student", "consistency", data=data, teacher=kept),
        lambda: drawn(student, tmp_path / "b.zarr"),
        student.model,
    ):
        with pytest.raises(
            RunError, match=r"the teacher cannot be used: .* no longer holds the weights .*make it again"
        ):
            go_on()


def test_a_weaker_model_is_kept_by_its_weights_too(tables, tmp_path):
    data = str(tables / "2.npz")
    weak, strong = (trained(tmp_path / name, "edm", data=data, seed=seed) for name, seed in (("weak", "0"), ("a", "1")))
    guided = {"guidance": "2", "weaker": str(weak.path)}
    store = drawn(strong, tmp_path / "s.zarr", **guided)
    assert store.attributes["knobs"]["weaker"] == f"{weak.path}@{weak.weights_digest()[:12]}"
    trained(tmp_path / "weak", "edm", fresh=True, data=data, seed="2")
    with pytest.raises(Exception, match="weaker"):  # other samples: not into the store of those before
        drawn(strong, tmp_path / "s.zarr", **guided)


def test_what_is_pinned_stays(tables, tmp_path):
    folder = trained(tmp_path / "a@b", "edm", data=str(tables / "0.npz"))
    assert unpinned(str(folder.path)) == (folder.path, None)
    spec = pinned(resolve("consistency", {"data": str(tables / "0.npz"), "teacher": str(folder.path)}))
    assert unpinned(spec.knobs["teacher"]) == (folder.path, folder.weights_digest()[:12])
    assert pinned(spec) == spec
    none = resolve("consistency", {"data": str(tables / "0.npz")})
    assert pinned(none) == none
    with pytest.raises(RunError, match="is no run"):
        pinned(none.with_knobs({"teacher": str(tmp_path / "nowhere")}))


def test_vectors_of_another_length_are_refused(tables, tmp_path):
    folder = str(trained(tmp_path / "two", "edm", data=str(tables / "2.npz")).path)
    assert open_denoiser("teacher", folder, open_domain(str(tables / "2.npz"), standardise="vectors")).unlabelled
    for other, told in (("4", "vectors of 4 numbers"), ("0", "no vectors")):
        domain = open_domain(str(tables / f"{other}.npz"), standardise="vectors")
        with pytest.raises(ConfigError, match=rf"the teacher .* goes by vectors of 2 numbers, and the rows .* {told}"):
            open_denoiser("teacher", folder, domain)


def test_a_teacher_of_vectors_of_another_scale_is_refused(tables, tmp_path):
    data = str(tables / "0.npz")
    teacher = trained(tmp_path / "teacher", "edm", data=data)
    np.savez(tmp_path / "larger.npz", x=10.0 * np.load(data)["x"])
    with pytest.raises(ConfigError, match=r"on vectors of other means and deviations than 'larger' has: give the"):
        open_denoiser("teacher", str(teacher.path), open_domain(str(tmp_path / "larger.npz"), standardise="vectors"))


def test_a_teacher_that_takes_vectors_otherwise_is_refused(tables, tmp_path, monkeypatch):
    data = str(tables / "0.npz")
    scaled = str(trained(tmp_path / "scaled", "edm", data=data).path)
    with pytest.raises(ConfigError, match="brought to mean 0 and variance 1, and '0' is taken as they are: open"):
        open_denoiser("teacher", scaled, open_domain(data))
    monkeypatch.setattr("gensys.recipes.edm.open_domain", lambda data, size, **_: open_domain(data, size))
    plain = str(trained(tmp_path / "plain", "edm", data=data).path)
    with pytest.raises(ConfigError, match="as they are, and '0' is taken brought to mean 0 and variance 1: open"):
        open_denoiser("teacher", plain, open_domain(data, standardise="vectors"))


@pytest.mark.parametrize("recipe", ["consistency", "lcm"])
def test_a_student_draws_vectors_at_the_scale_of_its_teacher(tables, tmp_path, recipe):
    np.savez(tmp_path / "far.npz", x=np.load(tables / "0.npz")["x"] + np.float32(1000.0))
    data = str(tmp_path / "far.npz")
    teacher = trained(tmp_path / "teacher", "edm", data=data)
    student = trained(tmp_path / "student", recipe, data=data, teacher=str(teacher.path))
    assert np.abs(drawn(student, tmp_path / "samples.zarr").read("x", np.arange(4)) - 1000.0).max() < 20.0


def test_vectors_of_any_scale_are_drawn_at_that_scale(tables, tmp_path):
    """The second column is a thousand times the first, the third never changes."""
    x = np.load(tables / "0.npz")["x"] * np.float32([1.0, 1000.0, 0.0]) + np.float32([5.0, 0.0, 7.0])
    np.savez(tmp_path / "scales.npz", x=x)
    folder = trained(tmp_path / "run", "flow_matching", data=str(tmp_path / "scales.npz"))
    drawn_x = drawn(folder, tmp_path / "samples.zarr").read("x", np.arange(4))
    assert (np.abs(drawn_x - x.mean(0)) < 6.0 * np.maximum(x.std(0), 1.0)).all()
    assert np.abs(drawn_x[:, 1]).max() > 50.0  # which a network that begins at 0 would not reach by itself
