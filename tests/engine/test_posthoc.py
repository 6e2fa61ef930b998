"""Averages that are made after the training, against least squares on a fine grid and averages kept all along."""

import json
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gensys.core import Batch, Generative, Loss
from gensys.engine.checkpoint import newest
from gensys.engine.ema import exponent
from gensys.engine.loop import Budget, Settings, train
from gensys.engine.optim import Optim
from gensys.engine.posthoc import Profile, coefficients, drop_after, inner, mismatch, reconstruct, save_snapshot
from gensys.errors import CheckpointError, ConfigError
from gensys.noise import Stream

ROWS = torch.arange(4)
STEPS = 256


def kept(n, widths=(0.05, 0.1), steps=STEPS):
    return [Profile(steps * (k + 1) / n, exponent(w)) for k in range(n) for w in widths]


def sampled(profile, places):
    """The profile at (n,) times, float64."""
    p = (profile.gamma + 1) / profile.step * (places / profile.step) ** profile.gamma
    return p.where(places <= profile.step, torch.zeros(()).double())


def test_inner_products_are_integrals():
    """By the midpoint rule, whose error at the jump where a profile ends is of first order."""
    n = 400_000
    places = (torch.arange(n, dtype=torch.float64) + 0.5) / n * 10.0
    for a, b in (
        (Profile(4, 2.0), Profile(9, 6.94)),
        (Profile(9, 16.97), Profile(4, 0.5)),
        (Profile(5, 3), Profile(5, 7)),
    ):
        wanted = float((sampled(a, places) * sampled(b, places)).sum()) * 10.0 / n
        assert inner(a, b) == pytest.approx(wanted, rel=1e-4)
        assert inner(a, b) == inner(b, a)
    assert inner(Profile(1e6, 300.0), Profile(1.0, 300.0)) == 0.0  # no power overflows


@pytest.mark.parametrize(("width", "error"), [(0.03, 0.105), (0.07, 0.015), (0.12, 0.015), (0.2, 0.08)])
def test_the_combination_is_the_constrained_least_squares_of_the_profiles(width, error):
    """Solved on a grid of times with the sum as one more unknown, and near the residual of the free problem."""
    profiles, wanted = kept(8), Profile(STEPS, exponent(width))
    n = 40_000
    places = (torch.arange(n, dtype=torch.float64) + 0.5) / n * STEPS
    p = torch.stack([sampled(q, places) for q in profiles], 1)
    last = p.shape[1]
    system = torch.zeros(last + 1, last + 1, dtype=torch.float64)
    system[:last, :last], system[:last, last], system[last, :last] = p.T @ p, 1.0, 1.0
    side = torch.cat([p.T @ sampled(wanted, places), torch.ones(1, dtype=torch.float64)])
    x = coefficients(profiles, wanted)
    torch.testing.assert_close(x, torch.linalg.solve(system, side)[:last], rtol=0, atol=2e-3)
    assert float(x.sum()) == pytest.approx(1.0, abs=1e-12)
    distance = (p @ x - sampled(wanted, places)).norm() / sampled(wanted, places).norm()
    assert mismatch(profiles, x, wanted) == pytest.approx(float(distance), abs=1e-3)
    assert mismatch(profiles, x, wanted) < error


@pytest.mark.parametrize("n", [1, 4, 64])
def test_what_was_kept_is_found_again(n):
    profiles = kept(n)
    for k in (-2, -1):  # the two averages at the end
        x = coefficients(profiles, profiles[k])
        torch.testing.assert_close(x, torch.eye(2 * n, dtype=torch.float64)[k], rtol=0, atol=1e-9)
        assert mismatch(profiles, x, profiles[k]) < 1e-6  # the root of what rounding leaves of a square


class Wander(Generative):
    """Weights that go where noise pulls them."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(64))
        self.register_buffer("seen", torch.tensor(0))

    def loss(self, batch, noise, player):
        self.seen += 1
        total = (self.weight * noise.normal((64,), Stream.EPS).mean(0)).sum() + 0.05 * (self.weight - 1).square().sum()
        return Loss(total, {"loss": total.detach()})

    def sample(self, cond, noise):
        return self.weight.expand(noise.ids.shape[0], -1)


def fit(folder, stop_after=None, **options):
    folder.mkdir(exist_ok=True)
    budget = Budget(images=STEPS * 4)
    plain = {"optim": Optim(lr=0.03, warmup=0), "precision": "fp32", "log_every": STEPS, "save_every": 1e9, "clip": 1e9}
    given = []

    def batch(step):
        given.append(step)
        return Batch(torch.zeros(4, 1), {}, ROWS)

    stop = None if stop_after is None else lambda: len(given) >= stop_after
    train(Wander(), batch, Settings(4, budget, **plain | options), folder, stop=stop)
    return newest(folder / "checkpoints")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """64 snapshots of a run whose own average has the width 0.14."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    at = fit(folder, ema=0.14, snapshots=64)
    return SimpleNamespace(folder=folder, snapshots=folder / "snapshots", at=at)


def test_an_average_that_was_kept_all_along_is_met_the_closer_the_more_snapshots(run, tmp_path):
    tracked = load_file(run.at / "average.safetensors")
    rough = load_file(run.at / "profile_0.1.safetensors")["weight"]
    spread = (rough - tracked["weight"]).norm()
    errors = []
    for n in (2, 4, 8, 16, 32, 64):
        some = tmp_path / str(n)
        some.mkdir()
        for directory in sorted(run.snapshots.iterdir())[64 // n - 1 :: 64 // n]:
            (some / directory.name).symlink_to(directory)
        made = reconstruct(some, 0.14)
        assert (made.step, made.snapshots) == (STEPS, 2 * n)
        assert made.tensors["seen"] == tracked["seen"] == STEPS
        errors.append(float((made.tensors["weight"] - tracked["weight"]).norm() / spread))
    assert all(b < 0.75 * a for a, b in pairwise(errors)), errors
    assert errors[-1] < 0.01, errors


def test_the_widths_that_were_kept_and_earlier_steps_come_back(run):
    for width in (0.05, 0.1):
        wanted = load_file(run.at / f"profile_{width}.safetensors")["weight"]
        torch.testing.assert_close(reconstruct(run.snapshots, width).tensors["weight"], wanted, rtol=0, atol=1e-6)
    early = load_file(run.snapshots / "00000128" / "0.05.safetensors")
    made = reconstruct(run.snapshots, 0.05, step=128)
    assert made.tensors["seen"] == 128
    torch.testing.assert_close(made.tensors["weight"], early["weight"], rtol=0, atol=1e-6)


def test_snapshots_change_no_bit_of_the_run(run, tmp_path):
    plain = fit(tmp_path / "plain", ema=0.14)
    assert not (tmp_path / "plain" / "snapshots").exists()
    assert {f.name for f in run.at.iterdir()} - {f.name for f in plain.iterdir()} == {
        "profile_0.05.safetensors",
        "profile_0.1.safetensors",
    }
    for file in plain.glob("*.safetensors"):
        assert file.read_bytes() == (run.at / file.name).read_bytes()


def test_a_run_that_was_stopped_leaves_the_same_snapshots(run, tmp_path):
    for after in (50, 8, 75):
        at = fit(tmp_path / "stopped", ema=0.14, snapshots=64, stop_after=after)
    save_snapshot(tmp_path / "stopped" / "snapshots", STEPS - 1, {0.05: {"weight": torch.zeros(64)}})  # another future
    at = fit(tmp_path / "stopped", ema=0.14, snapshots=64)
    for root, again in ((run.snapshots, tmp_path / "stopped" / "snapshots"), (run.at, at)):
        made = {p.relative_to(root): p.read_bytes() for p in root.rglob("*.safetensors")}
        assert made == {p.relative_to(again): p.read_bytes() for p in again.rglob("*.safetensors")}


def test_what_cannot_be_made_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match=r"there are no snapshots in .*: train with snapshots=32"):
        reconstruct(tmp_path, 0.1)
    with pytest.raises(ValueError, match=r"'width' must lie in \(0, 0.28\), got nan"):
        reconstruct(run.snapshots, float("nan"))
    with pytest.raises(ConfigError, match="'step' must be that of a snapshot, got 9: there are 4, 8, 12"):
        reconstruct(run.snapshots, 0.1, step=9)
    with pytest.raises(ConfigError, match=r"'width' 0.01 is out of reach of 8 averages.*more snapshots"):
        reconstruct(run.snapshots, 0.01, step=16)
    with pytest.raises(ConfigError, match="'snapshots' must be at least 0, got -1"):
        Settings(4, Budget(images=4), snapshots=-1)


@pytest.mark.parametrize("damage", ["weights", "digests", "no file", "another name"])
def test_damage_is_told(tmp_path, damage):
    for step in (4, 8):
        save_snapshot(tmp_path, step, {w: {"weight": torch.ones(3) * step} for w in (0.05, 0.1)})
    file = tmp_path / "00000004" / "0.05.safetensors"
    if damage == "weights":
        data = bytearray(file.read_bytes())
        data[-2] ^= 1
        file.write_bytes(data)
    elif damage == "digests":
        (file.parent / "digests.json").write_text("[1]")
    elif damage == "no file":
        file.unlink()
    else:
        digests = json.loads((file.parent / "digests.json").read_text())
        (file.parent / "digests.json").write_text(json.dumps({"x": "", **digests}))
    with pytest.raises(CheckpointError, match=r"the snapshot .*00000004.* is damaged.*: remove its directory"):
        reconstruct(tmp_path, 0.07)
    drop_after(tmp_path, 4)
    assert [d.name for d in tmp_path.iterdir()] == ["00000004"]
