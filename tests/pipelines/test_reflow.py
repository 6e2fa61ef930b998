"""Reflow: pairs are samples with their own noise, a round goes on from the weights, interruptions change no byte."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gensys.pipelines import reflow as pipeline
from gensys.pipelines import train as training
from gensys.pipelines.encode import encode
from gensys.pipelines.evaluate import real_source
from gensys.pipelines.reflow import reflow
from gensys.pipelines.sample import sample
from gensys.pipelines.train import train
from PIL import Image
from safetensors.torch import load_file
from small_runs import Disturbed

from gensys.cli import cli
from gensys.data.pairs import Pairs, open_pairs
from gensys.data.sources import open_source
from gensys.data.store import Store
from gensys.domain import open_domain
from gensys.engine.checkpoint import newest
from gensys.errors import ConfigError, DataError, StoreError
from gensys.families.mapped import prior_of
from gensys.noise import Noise
from gensys.progress import Screen
from gensys.run import resolve
from gensys.run_folder import RunFolder

SCREEN = Screen(quiet=True)
SMALL = {"width": "32", "depth": "2", "batch": "64", "precision": "fp32", "steps": "4"}
FEW = {"budget": "640"}  # ten steps


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """Are measured, and none to the end of float32: it takes longer than all else here."""
    monkeypatch.setattr(pipeline, "_ROWS", 16)
    monkeypatch.setattr(pipeline, "_STEPS", 10)
    monkeypatch.setattr(pipeline, "_TOLERANCE", 1e-2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Flows in the plane, without labels and with; a codec, and a flow on its latents, both hardly trained."""
    root = tmp_path_factory.mktemp("reflow")
    generator = np.random.default_rng(0)
    lines = [f"{a:.4f},{b:.4f},{'rb'[k % 2]}" for k, (a, b) in enumerate(generator.normal(size=(200, 2)))]
    (root / "table.csv").write_text("\n".join(["a,b,label", *lines]))
    for k in range(40):
        folder = root / "images" / ("ant", "bee")[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16), np.uint8)).save(folder / f"{k:03d}.png")
    fit(root / "moons", "flow_matching", data="moons", budget="12800")
    fit(root / "table", "ot_cfm", data=root / "table.csv", guidance="2", **FEW)
    codec = {"data": str(root / "images"), "size": "16", "channels": "2", "width": "16", "batch": "16"}
    codec |= {"budget": "16", "precision": "fp32"}
    train(RunFolder(root / "codec"), resolve("kl_autoencoder", codec), workers=0, fresh=False, screen=SCREEN)
    encode(RunFolder(root / "codec"), root / "latents.zarr", data=None, shard=64, workers=0, screen=SCREEN)
    latent = {"net": "dit", "patch": "1", "heads": "2", "width": "16", "batch": "16", "budget": "64", "steps": "2"}
    fit(root / "latent", "rectified_flow", data=root / "latents.zarr", **latent)
    return root


def fit(path, recipe, **knobs):
    knobs = SMALL | {name: str(value) for name, value in knobs.items()}
    train(RunFolder(path), resolve(recipe, knobs), workers=0, fresh=False, screen=SCREEN)


def again(root, out, run="moons", pairs=200, **options):
    overrides = options.pop("overrides", FEW)
    folder, new = RunFolder(root / run), RunFolder(out)
    return reflow(folder, new, pairs=pairs, overrides=overrides, workers=0, screen=SCREEN, **options)


def weights(path):
    return load_file(newest(path / "checkpoints") / "average.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_a_pair_is_where_the_flow_takes_its_noise(root, tmp_path):
    (told,) = again(root, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "reflow.json").read_text()) == told
    folder = RunFolder(tmp_path / "new")
    source, model = folder.spec().load().source, RunFolder(root / "moons").model()
    assert isinstance(source, Pairs)
    assert (len(source), source.seed, source.classes, source.shape) == (200, 1 << 40, (), (2,))
    ids = torch.arange(64)
    noise = Noise(source.seed, ids)
    assert torch.equal(source.batch(ids, Noise(5, ids)).x, model.sample({}, noise))
    # eps is what the network of the new run is trained to leave: the loss of a flow that knows the pairs is 0
    eps, new, batch = prior_of(model).initial(noise), folder.model(), source.batch(ids, Noise(5, ids))

    class Oracle(torch.nn.Module):
        def forward(self, x_t, t, cond):
            return eps - new.embed(batch.x)

    prior_of(new).denoiser.net = Oracle()
    assert new.loss(batch, Noise(9, ids, 3), "model").total == 0
    assert real_source(folder)[0].fingerprint() == open_source("moons").fingerprint()


def test_pairs_are_seen_in_the_scale_of_the_data(root, tmp_path):
    """What is trained on them from the start too: only there is eps the noise that the flow took to the sample."""
    again(root, tmp_path / "new")
    spec = RunFolder(tmp_path / "new").spec()
    assert isinstance(spec.load().source, Pairs)
    assert spec.model().same(*open_domain("moons").moments())


def test_a_round_makes_a_flow_straighter_and_carries_no_further(root, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "_ROWS", 256)
    (told,) = again(root, tmp_path / "new", pairs=1_000, overrides={"budget": "12800", "steps": "10"})
    before, after = told["before"], told["after"]
    assert after["straightness"] < before["straightness"] / 3
    assert after["transport_cost"] < 1.05 * before["transport_cost"]
    assert after["one_step"] < before["one_step"] / 2
    assert after["path_energy"] == pytest.approx(after["straightness"] + after["transport_cost"])
    assert after["relative_straightness"] == pytest.approx(after["straightness"] / after["transport_cost"])
    assert told["steps"] == 200


def test_training_goes_on_from_the_weights_that_drew_the_pairs(root, tmp_path, monkeypatch):
    """They are its first checkpoint, so that a run does not need the one before it to go on or to sample."""

    class Begun(Exception):
        pass

    def stop(*args, **options):
        raise Begun

    monkeypatch.setattr(pipeline, "train", stop)
    with pytest.raises(Begun):
        again(root, tmp_path / "new")
    at = newest(tmp_path / "new" / "checkpoints")
    assert at.name == "00000000"
    old = weights(root / "moons")
    assert same(weights(tmp_path / "new"), old)
    assert same(load_file(at / "model.safetensors"), old)
    monkeypatch.undo()
    again(root, tmp_path / "new")
    drift = max((weights(tmp_path / "new")[name] - old[name]).abs().max().item() for name in old)
    assert 0 < drift < 0.03  # ten steps of Adam, none of which is longer than the rate


class Impatient(list):
    """Asks the loop to leave when it has been asked so many times whether it should."""

    def __init__(self, after):
        super().__init__([KeyboardInterrupt()])
        self.after = after

    def __bool__(self):
        self.after -= 1
        return self.after < 0


def test_interruptions_change_no_byte(root, tmp_path, monkeypatch):
    """While pairs are drawn, and while the new run is trained."""
    (quiet,) = again(root, tmp_path / "quiet")
    with pytest.raises(KeyboardInterrupt):
        again(root, tmp_path / "new", pool=Disturbed(2))
    assert len(Store.open(tmp_path / "new" / "pairs.zarr").missing()) == 2
    assert not (tmp_path / "new" / "checkpoints").exists()

    @contextmanager
    def soon():
        yield Impatient(4)

    with monkeypatch.context() as patched:
        patched.setattr(training, "_interruptible", soon)
        with pytest.raises(KeyboardInterrupt):
            again(root, tmp_path / "new")
    assert 0 < int(newest(tmp_path / "new" / "checkpoints").name) < 10
    for _ in range(2):  # and once more, when all is done
        (disturbed,) = again(root, tmp_path / "new")
        assert files(tmp_path / "new" / "pairs.zarr") == files(tmp_path / "quiet" / "pairs.zarr")
        assert same(weights(tmp_path / "new"), weights(tmp_path / "quiet"))
        assert (disturbed["before"], disturbed["after"]) == (quiet["before"], quiet["after"])


def test_every_sample_keeps_its_label_and_pairs_have_the_guidance(root, tmp_path):
    (told,) = again(root, tmp_path / "new", run="table")
    folder = RunFolder(tmp_path / "new")
    source = folder.spec().load().source
    rows = torch.tensor([4, 199, 7])
    batch = source.batch(rows, Noise(0, rows))
    assert batch.cond["label"].tolist() == [0, 1, 1]
    assert source.classes == ("b", "r")
    assert (folder.spec().knobs["guidance"], folder.spec().knobs["dropout"]) == (1.0, 0.0)
    ids, model = torch.arange(64), RunFolder(root / "table").model()
    assert prior_of(model).sampler.guidance.scale == 2.0
    drawn = source.batch(ids, Noise(0, ids))
    assert torch.equal(drawn.x, model.sample(drawn.cond, Noise(told["pairs"]["seed"], ids)))
    again(root, tmp_path / "free", run="table", overrides=FEW | {"guidance": "1"})
    assert not torch.equal(drawn.x, RunFolder(tmp_path / "free").spec().load().source.batch(ids, Noise(0, ids)).x)


def test_a_straightened_flow_of_a_table_draws_a_table(root, tmp_path):
    again(root, tmp_path / "new", run="table")
    out = tmp_path / "samples.zarr"
    sample(
        RunFolder(tmp_path / "new"), out, ids=range(4), seed=0, label=None, overrides={}, shard=64, workers=0,
        screen=SCREEN,
    )  # fmt: skip
    assert out.with_suffix(".csv").read_text().splitlines()[0] == "a,b,label"
    mine = tmp_path / "mine.csv"
    mine.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"would have 'mine\.csv' beside it, and a file of that name is there"):
        sample(
            RunFolder(tmp_path / "new"), mine.with_suffix(".zarr"), ids=range(4), seed=0, label=None, overrides={},
            shard=64, workers=0, screen=SCREEN,
        )  # fmt: skip
    assert (mine.read_text(), mine.with_suffix(".zarr").exists()) == ("a,b\n1,2\n", False)


def test_latent_flows_are_straightened_in_their_latents(root, tmp_path):
    (told,) = again(root, tmp_path / "new", run="latent", pairs=128, overrides={"budget": "32"})
    folder, old = RunFolder(tmp_path / "new"), RunFolder(root / "latent").model()
    source = folder.spec().load().source
    ids = torch.arange(64)
    batch = source.batch(ids, Noise(0, ids))
    expected = old.prior.sample({"label": ids % 2}, Noise(told["pairs"]["seed"], ids))
    torch.testing.assert_close(batch.x, expected, rtol=1e-5, atol=1e-5)  # denormalised for the codec, and back
    assert torch.equal(folder.model().prior.initial(Noise(3, ids)), old.prior.initial(Noise(3, ids)))
    real, codec = real_source(folder)
    assert real.about == open_source(root / "images", 16).about
    assert codec is not None
    store = sample(
        folder, tmp_path / "s.zarr", ids=range(3), seed=0, label=None, overrides={"steps": "1"}, shard=None, workers=0,
        screen=SCREEN,
    )  # fmt: skip
    assert store.config.arrays["x"].shape == (1, 16, 16)


def test_a_round_keeps_snapshots_of_averages_as_any_run(root, tmp_path):
    again(root, tmp_path / "new", overrides=FEW | {"snapshots": "2"})
    kept = sorted(path.name for path in (tmp_path / "new" / "snapshots").glob("*/*.safetensors"))
    assert kept == ["0.05.safetensors"] * 2 + ["0.1.safetensors"] * 2


def test_rounds_follow_each_other(root, tmp_path):
    first, second = again(root, tmp_path / "new", rounds=2, overrides={"budget": "64"})
    assert second["run"] == str(tmp_path / "new-2")
    assert (first["from"], second["from"]) == (str(root / "moons"), str(tmp_path / "new"))
    assert second["before"] == first["after"]
    assert second["pairs"]["seed"] == first["pairs"]["seed"] + 1
    new = RunFolder(tmp_path / "new-2")
    assert new.spec().knobs["pairs"] == str(tmp_path / "new-2" / "pairs.zarr")
    with pytest.raises(ConfigError, match=r"round of reflow.*another --out"):
        train(new, new.spec(), workers=0, fresh=True, screen=SCREEN)
    assert new.weights().is_file()


def test_vectors_are_sampled_as_numbers(root, tmp_path):
    store = sample(
        RunFolder(root / "moons"), tmp_path / "s.zarr", ids=range(5), seed=2, label=None, overrides={}, shard=None,
        workers=0, screen=SCREEN,
    )  # fmt: skip
    x = torch.from_numpy(store.read("x", range(5)))
    whole = RunFolder(root / "moons").model().sample({}, Noise(2, torch.arange(64)))
    assert x.dtype == torch.float32
    assert torch.equal(x, whole[:5])


@pytest.mark.parametrize(
    ("run", "overrides", "told"),
    [
        ("codec", {}, "cannot be straightened: a flow is wanted, got Autoencoder: train flow_matching"),
        ("moons", {"width": "16"}, r"weights do not fit 'rectified_flow': .* Leave the knobs of the network"),
        ("moons", {"solver": "ddim", "eta": "0.5"}, "its solver adds fresh noise.* give solver=heun and eta=0"),
        ("moons", {"solver": "dpmpp_2m_sde"}, "its solver adds fresh noise"),
        ("moons", {"grid": "leading"}, "its grid begins at t = 0.7.*, and noise is at 1"),
        ("moons", {"wdth": "16"}, "has no knob 'wdth'. Did you mean 'width'"),
        ("moons", {"steps": "none"}, "knob 'steps' is a whole number, got 'none'"),
    ],
)
def test_what_cannot_be_straightened_is_refused_before_anything_is_written(root, tmp_path, run, overrides, told):
    with pytest.raises(ConfigError, match=told):
        again(root, tmp_path / "new", run=run, overrides=overrides)
    assert not (tmp_path / "new").exists()


def test_numbers_out_of_range_are_refused(root, tmp_path):
    for options in ({"pairs": 0}, {"rounds": 0}):
        (name,) = options
        with pytest.raises(ConfigError, match=f"'{name}' must be at least 1, got 0"):
            again(root, tmp_path / "new", **options)


@pytest.mark.parametrize("out", ["moons", "table"])
def test_another_run_is_not_written_into(root, out):
    """Nor the run itself."""
    before = sorted(p.name for p in (root / out).iterdir())
    with pytest.raises(ConfigError, match=f"{out}' is another run, and no round of this one: choose another --out"):
        again(root, root / out)
    assert sorted(p.name for p in (root / out).iterdir()) == before


def test_stores_that_hold_no_pairs_of_these_data_are_refused(root, tmp_path):
    again(root, tmp_path / "new", overrides={"budget": "64"})
    pairs, moons, table = tmp_path / "new" / "pairs.zarr", open_source("moons"), open_source(root / "table.csv")
    assert len(open_pairs(pairs, moons, (2,))) == 200
    with pytest.raises(DataError, match=r"with 0 classes, and 'table' has x \(2,\) with 2: give the data"):
        open_pairs(pairs, table, (2,))
    with pytest.raises(DataError, match="give the data that their flow was trained on"):
        open_pairs(pairs, moons, (3,))
    with pytest.raises(DataError, match="holds latents and no pairs: `gensys reflow` makes them"):
        open_pairs(root / "latents.zarr", moons, (2,))
    with pytest.raises(StoreError, match="is not a store: nothing is there"):
        open_pairs(tmp_path / "nothing.zarr", moons, (2,))
    with pytest.raises(StoreError, match="created for something else: 'rows' is 200 there and 300 here"):
        again(root, tmp_path / "new", pairs=300)
    with pytest.raises(KeyboardInterrupt):
        again(root, tmp_path / "part", pool=Disturbed(1))
    with pytest.raises(DataError, match="are not finished: give the `gensys reflow` command again"):
        open_pairs(tmp_path / "part" / "pairs.zarr", moons, (2,))


def test_the_command_tells_before_and_after(root, tmp_path):
    command = ["reflow", str(root / "moons"), "budget=640", "--out", str(tmp_path / "n"), "--pairs", "128", "--quiet"]
    found = CliRunner().invoke(cli, command)
    assert found.exit_code == 0, found.output
    for text in ("10 steps on 128 pairs", "straightness S", "transport cost", "before / after", "solver=euler steps=1"):
        assert text in found.output
