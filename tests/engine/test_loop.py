"""The training loop: players, budgets, and runs that go on as if nothing had happened."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from gensys.core import Batch, Generative, Loss
from gensys.data import order
from gensys.engine.checkpoint import newest, read_state
from gensys.engine.loop import Budget, Settings, train
from gensys.engine.memory import peak_bytes
from gensys.engine.optim import Optim
from gensys.errors import ConfigError, TrainingError
from gensys.noise import Noise, Stream

CONSTANT = Optim(lr=0.05, warmup=0, decay=0.0)
ROWS = 50


class Gauss(Generative):
    """The mean of x, by least squares: the loss is quadratic, its minimum the mean of the data."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2))
        self.drop = nn.Dropout(0.5)  # torch's own generator takes part too

    def loss(self, batch, noise, player):
        noisy = batch.x + 0.1 * noise.normal((2,), Stream.EPS) + 0.1 * (self.drop(torch.ones_like(batch.x)) - 1.0)
        total = (self.mean - noisy).square().sum(1).mean()
        return Loss(total, {"loss": total.detach()})

    def sample(self, cond, noise):
        return self.mean + noise.normal((2,), Stream.INITIAL)


class Game(Generative):
    """Two players whose losses reach into each other's parameters; notes what each turn finds."""

    players = ("critic", "critic", "generator")

    def __init__(self):
        super().__init__()
        self.critic, self.generator = nn.Linear(2, 1), nn.Linear(2, 2)
        self.noted, self.given = [], []

    def parameters_of(self, player):
        return list({"critic": self.critic, "generator": self.generator}[player].parameters())

    def loss(self, batch, noise, player):
        weights = {name: [p.detach().clone() for p in self.parameters_of(name)] for name in ("critic", "generator")}
        self.noted.append((player, weights))
        self.given.append((batch.ids.tolist(), noise.step))
        score = self.critic(self.generator(noise.normal((2,), Stream.PRIOR))).mean() - self.critic(batch.x).mean()
        total = score.square() if player == "critic" else -score
        return Loss(total, {"loss": total.detach()})

    def sample(self, cond, noise):
        return self.generator(noise.normal((2,), Stream.PRIOR))


def data():
    rows = torch.arange(ROWS)
    return Noise(9, rows).normal((2,), Stream.EPS) * 0.3 + torch.tensor([1.0, -2.0])


def batches(settings):
    x = data()

    def batch(step):
        rows = order.rows(settings.seed, step, settings.batch, ROWS)
        return Batch(x[rows], {}, rows)

    return batch


def fit(folder, kind=Gauss, stop_after=None, **options):
    """Train; with `stop_after`, ask to stop when so many batches were given."""
    folder.mkdir(exist_ok=True)
    settings = Settings(
        **{"batch": 10, "budget": Budget(images=400), "optim": CONSTANT, "precision": "fp32", "log_every": 3} | options
    )
    given, inner = [], batches(settings)

    def batch(step):
        given.append(step)
        return inner(step)

    torch.manual_seed(0)
    model = kind()
    state = train(
        model,
        batch,
        settings,
        folder,
        stop=None if stop_after is None else lambda: len(given) >= stop_after,
    )
    return model, state, given


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("seconds", "peak_bytes")} for line in found]


def tensors(folder):
    at = newest(folder / "checkpoints")
    return {file.name: file.read_bytes() for file in at.glob("*.safetensors")}


def test_a_gaussian_mean_is_found(tmp_path):
    model, state, _ = fit(tmp_path, budget=Budget(images=50 * 400), batch=50, optim=Optim(lr=0.05, decay=1.0))
    torch.testing.assert_close(model.mean.detach(), data().mean(0), atol=0.01, rtol=0)
    average = Gauss()
    from gensys.engine.checkpoint import load_weights

    load_weights(average, newest(tmp_path / "checkpoints") / "average.safetensors")
    torch.testing.assert_close(average.mean.detach(), data().mean(0), atol=0.01, rtol=0)
    assert state.finished


def test_a_least_squares_line_is_found(tmp_path):
    class Line(Generative):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(1, 1)

        def loss(self, batch, noise, player):
            total = (self.line(batch.x[:, :1]) - batch.x[:, 1:]).square().mean()
            return Loss(total, {"loss": total.detach()})

        def sample(self, cond, noise):
            raise NotImplementedError

    model, *_ = fit(tmp_path, Line, budget=Budget(images=50 * 600), batch=50, optim=Optim(lr=0.1, warmup=10))
    x, y = data().T
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert model.line.weight.item() == pytest.approx(slope.item(), abs=1e-3)
    assert model.line.bias.item() == pytest.approx((y.mean() - slope * x.mean()).item(), abs=1e-3)


def test_each_player_changes_in_its_own_turn_only(tmp_path):
    model, state, _ = fit(tmp_path, Game, budget=Budget(images=40))
    assert [player for player, _ in model.noted] == list(Game.players) * state.step
    after = [weights for _, weights in model.noted[1:]]
    for (player, before), then in zip(model.noted[:-1], after, strict=True):
        for name in ("critic", "generator"):
            moved = any(not torch.equal(a, b) for a, b in zip(before[name], then[name], strict=True))
            assert moved == (name == player), (player, name)


def test_the_turns_of_a_player_are_on_different_rows_and_noise(tmp_path):
    model, state, given = fit(tmp_path, Game, budget=Budget(images=60))
    assert (state.step, state.images) == (3, 60)  # two batches a step: the critic has two turns
    assert given == [0, 1, 2, 3, 4, 5]
    numbers = [number for step in range(3) for number in (2 * step, 2 * step + 1, 2 * step)]
    assert model.given == [(order.rows(0, k, 10, ROWS).tolist(), k) for k in numbers]


def test_players_have_paces(tmp_path):
    """AdamW's first step is the learning rate, whatever the gradient."""
    model, *_ = fit(tmp_path, Game, budget=Budget(images=20), optim=CONSTANT, paces=(("generator", 0.1),))
    (_, before), _, (_, after) = model.noted
    critic = (after["critic"][0] - before["critic"][0]).abs().max().item()
    generator = (model.generator.weight - after["generator"][0]).abs().max().item()
    assert generator == pytest.approx(0.1 * 0.05, rel=1e-3)
    assert critic == pytest.approx(2 * 0.05, rel=0.2)


def test_gradients_do_not_leak_from_one_turn_into_another(tmp_path):
    """The critic's loss leaves gradients in the generator; its own turn must not see them."""
    seen = {}
    real = nn.utils.clip_grad_norm_

    class Alone(Game):
        players = ("generator",)

    def noting(parameters, *rest):
        kept = [p.grad.clone() for p in parameters]
        seen.setdefault(tuple(kept[0].shape), []).append(kept)
        return real(parameters, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.utils, "clip_grad_norm_", noting)
        fit(tmp_path / "game", Game, budget=Budget(images=10), optim=Optim(lr=1e-9, warmup=0))
        together = seen.pop((2, 2))
        fit(tmp_path / "alone", Alone, budget=Budget(images=10), optim=Optim(lr=1e-9, warmup=0))
        alone = seen.pop((2, 2))
    assert len(together) == len(alone) == 1
    for a, b in zip(together[0], alone[0], strict=True):
        torch.testing.assert_close(a, b)


def test_a_game_is_logged_player_by_player(tmp_path):
    fit(tmp_path, Game, budget=Budget(images=10))
    names = set(lines(tmp_path)[0])
    assert {"critic/loss", "generator/loss", "critic/grad_norm", "generator/grad_norm", "lr", "images"} <= names


@pytest.mark.parametrize(("images", "batch", "steps"), [(400, 10, 40), (401, 10, 41), (7, 10, 1), (10, 10, 1)])
def test_a_budget_of_images_ends_exactly(tmp_path, images, batch, steps):
    _, state, given = fit(tmp_path, budget=Budget(images=images), batch=batch)
    assert (state.step, state.images, state.finished) == (steps, steps * batch, True)
    assert given == list(range(steps))
    assert read_state(newest(tmp_path / "checkpoints")) == state


def test_a_finished_run_is_left_alone(tmp_path):
    fit(tmp_path)
    before = tensors(tmp_path)
    _, state, given = fit(tmp_path)
    assert (state.step, given) == (40, [])
    assert tensors(tmp_path) == before


def test_a_budget_of_time_ends(tmp_path):
    begun = time.perf_counter()
    _, state, _ = fit(tmp_path, budget=Budget(seconds=0.5))
    assert state.finished
    assert 0.5 <= state.seconds < 1.5
    assert time.perf_counter() - begun < 5
    assert read_state(newest(tmp_path / "checkpoints")) == state


@pytest.mark.parametrize(("cpu", "steps"), [(True, 10), (False, 2)])
def test_a_budget_of_processor_time_has_a_clock_of_its_own(tmp_path, monkeypatch, cpu, steps):
    ticks = {name: itertools.count(5.0, by) for name, by in (("process_time", 0.1), ("perf_counter", 0.5))}
    clocks = SimpleNamespace(**{name: partial(next, count) for name, count in ticks.items()})
    monkeypatch.setattr("gensys.engine.settings.time", clocks)
    _, state, given = fit(tmp_path, budget=Budget(seconds=0.95, cpu=cpu))
    assert (state.finished, state.step, len(given)) == (True, steps - 1, steps - 1)


def test_a_budget_of_images_has_no_clock():
    with pytest.raises(ConfigError, match="'cpu'"):
        Budget(images=5, cpu=True)


def test_time_counts_on_after_a_stop(tmp_path):
    _, first, _ = fit(tmp_path, budget=Budget(seconds=1.0), stop_after=20)
    assert not first.finished
    time.sleep(0.3)  # not training
    _, second, _ = fit(tmp_path, budget=Budget(seconds=1.0))
    assert second.finished
    assert 1.0 <= second.seconds < 1.3


def test_a_stop_saves_and_leaves(tmp_path):
    _, state, given = fit(tmp_path, stop_after=7)
    assert (state.step, state.finished, given) == (7, False, list(range(7)))
    assert read_state(newest(tmp_path / "checkpoints")) == state


@pytest.mark.parametrize("kind", [Gauss, Game])
@pytest.mark.parametrize("stops", [(1,), (17,), (3, 5, 20)])
def test_stopped_and_resumed_equals_undisturbed(tmp_path, kind, stops):
    """Weights, average, optimizer and log, byte for byte."""
    optim = Optim(lr=0.05, warmup=20, decay=0.5)
    fit(tmp_path / "quiet", kind, optim=optim)
    for after in stops:
        _, state, _ = fit(tmp_path / "stopped", kind, stop_after=after, optim=optim)
        assert not state.finished
    _, state, given = fit(tmp_path / "stopped", kind, optim=optim)
    a_step = 2 if kind is Game else 1  # batches
    begun = sum(-(-after // a_step) * a_step for after in stops)
    assert given == list(range(begun, 40))
    assert state.step == 40 // a_step
    assert tensors(tmp_path / "stopped") == tensors(tmp_path / "quiet")
    assert lines(tmp_path / "stopped") == lines(tmp_path / "quiet")


def test_resumed_from_an_older_checkpoint_the_log_is_the_same(tmp_path):
    fit(tmp_path / "quiet", save_every=0.0)
    fit(tmp_path / "torn", save_every=0.0, stop_after=30, keep=5)
    for damaged in sorted((tmp_path / "torn" / "checkpoints").iterdir())[-3:]:
        (damaged / "COMMITTED").unlink()
    fit(tmp_path / "torn", save_every=0.0)
    assert tensors(tmp_path / "torn") == tensors(tmp_path / "quiet")
    assert lines(tmp_path / "torn") == lines(tmp_path / "quiet")


def test_saving_at_every_step_ends_finished(tmp_path):
    """The last step's checkpoint says that the run is over, although one was due at that step anyway."""
    _, state, _ = fit(tmp_path, save_every=0.0)
    assert state.finished
    assert read_state(newest(tmp_path / "checkpoints")) == state


class Breaking(Gauss):
    """The loss is not a number from the third step on."""

    at = 3

    def loss(self, batch, noise, player):
        loss = super().loss(batch, noise, player)
        broken = loss.total * (math.nan if noise.step >= self.at - 1 else 1.0)
        return Loss(broken, {"loss": broken.detach()})


def test_a_loss_that_stays_not_a_number_ends_the_run(tmp_path):
    with pytest.raises(TrainingError, match=r"not finite at step 6, .* of all of its samples .*lower 'lr'"):
        fit(tmp_path, Breaking, save_every=0.0)
    last = read_state(newest(tmp_path / "checkpoints"))
    assert (last.step, last.skipped) == (6, 4)  # of weights that are numbers: those of step 2


class Unlucky(Gauss):
    """Some samples have no finite loss, from some step to another."""

    guilty, begin, end = (), 0, 10**9

    def loss(self, batch, noise, player):
        loss = super().loss(batch, noise, player)
        hit = self.begin <= noise.step < self.end and any(int(i) in self.guilty for i in batch.ids)
        total = loss.total * (math.inf if hit else 1.0)
        return Loss(total, {"loss": total.detach()})


def test_steps_without_a_finite_gradient_are_skipped_and_counted(tmp_path):
    class Once(Unlucky):
        guilty, begin, end = range(ROWS), 3, 5  # two steps; more would need more patience

    model, state, given = fit(tmp_path, Once, log_every=1)
    assert (state.step, state.skipped, state.finished) == (40, 2, True)
    assert given == list(range(40))
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    log = {line["step"]: line for line in lines(tmp_path)}
    assert "skipped" not in log[3]
    assert (log[4]["skipped"], log[5]["skipped"], log[40]["skipped"]) == (1, 2, 2)
    assert "loss" not in log[4]
    assert "loss" in log[6]


def test_the_samples_that_break_a_run_are_named(tmp_path):
    class Some(Unlucky):
        guilty = (3, 41)

    with pytest.raises(TrainingError, match=r"of the samples (3|41)(, (3|41))? is not: mend the data"):
        fit(tmp_path, Some, batch=50, budget=Budget(images=5000))


def test_no_checkpoint_holds_weights_that_are_not_numbers(tmp_path):
    class Overflowing(Gauss):
        def loss(self, batch, noise, player):
            if noise.step == 2:
                self.mean.data.fill_(math.inf)
            return super().loss(batch, noise, player)

    with pytest.raises(TrainingError, match="the weights 'mean' are not finite at step 3"):
        fit(tmp_path, Overflowing, save_every=0.0)
    assert read_state(newest(tmp_path / "checkpoints")).step == 2
    assert fit(tmp_path / "stop", Breaking, stop_after=5)[1].skipped == 3


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**43 - 1])
def test_every_seed_can_train(tmp_path, seed):
    _, state, _ = fit(tmp_path, seed=seed, budget=Budget(images=20))
    assert state.finished


def test_previews_come_at_the_start_and_at_even_parts(tmp_path):
    drawn = []
    settings = Settings(10, Budget(images=400), CONSTANT, precision="fp32", previews=4)
    train(Gauss(), batches(settings), settings, tmp_path, preview=lambda average, step: drawn.append(step))
    assert drawn[0] == 0
    assert drawn[-1] == 40
    assert len(drawn) == 5


def test_previews_are_shown_in_tensorboard(tmp_path):
    settings = Settings(10, Budget(images=400), CONSTANT, precision="fp32", previews=4)
    drawn = []

    def preview(average, step):
        drawn.append(step)
        return torch.full((1, 4, 4), step, dtype=torch.uint8)

    train(Gauss(), batches(settings), settings, tmp_path, preview=preview)
    board = EventAccumulator(str(tmp_path / "tensorboard"), {"images": 0}).Reload()
    assert [event.step for event in board.Images("samples")] == drawn


def test_the_memory_of_the_process_is_logged(tmp_path):
    fit(tmp_path)
    peaks = [json.loads(line)["peak_bytes"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(50 << 20 < peak < peak_bytes() + (1 << 20) for peak in peaks)  # the kernel counts in batches of pages


def test_the_last_step_is_logged_with_the_rate_it_was_trained_at(tmp_path):
    fit(tmp_path, budget=Budget(images=370), log_every=20, optim=Optim(lr=1.0, warmup=0, decay=1.0))
    assert [line["step"] for line in lines(tmp_path)] == [1, 20, 37]
    assert [line["lr"] for line in lines(tmp_path)] == pytest.approx([1.0, 1 - 19 / 37, 1 - 36 / 37])
    assert [line["images"] for line in lines(tmp_path)] == [10, 200, 370]


def test_watchers_see_every_line_of_the_log(tmp_path):
    seen = []
    settings = Settings(10, Budget(images=400), CONSTANT, precision="fp32", log_every=10)
    train(Gauss(), batches(settings), settings, tmp_path, watch=seen.append)
    assert [p.state.step for p in seen] == [line["step"] for line in lines(tmp_path)] == [1, 10, 20, 30, 40]
    assert all(math.isfinite(p.loss) and 0.0 <= p.fraction <= 1.0 for p in seen)


PROGRAM = """
import sys, time
from pathlib import Path
import torch
from gensys.core import Batch
from gensys.data import order
from gensys.denoiser import Denoiser
from gensys.engine.loop import Budget, Settings, train
from gensys.engine.optim import Optim
from gensys.families.diffusion import Diffusion
from gensys.nn.mlp import MLP
from gensys.noise import Noise, Stream
from gensys.paths import Linear
from gensys.targets import velocity

torch.set_num_threads(1)
torch.manual_seed(0)
model = Diffusion(Denoiser(MLP(2, width=32, depth=2), Linear(), velocity), (2,))
settings = Settings(32, Budget(images=32 * 300), Optim(warmup=10), precision="fp32", save_every=0.05)

def batch(step):
    time.sleep(0.002)
    print(step, flush=True)
    rows = order.rows(0, step, 32, 1000)
    return Batch(Noise(1, rows).normal((2,), Stream.EPS), {}, rows)

train(model, batch, settings, Path(sys.argv[1]))
"""


def start(folder):
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_killed_and_resumed_equals_undisturbed(tmp_path):
    """SIGKILL at an unlucky moment, twice; the files at the end are those of a quiet run."""
    quiet = start(tmp_path / "quiet")
    for moment in (90, 170):
        with start(tmp_path / "killed") as process:
            for line in process.stdout:
                if int(line) >= moment:
                    process.send_signal(signal.SIGKILL)
                    break
    with start(tmp_path / "killed") as process:
        first = int(process.stdout.readline())
        process.stdout.read()
    assert process.returncode == 0
    assert 0 < first <= 175  # it went on, and not from the start
    with quiet:
        quiet.stdout.read()
    assert quiet.returncode == 0
    assert tensors(tmp_path / "killed") == tensors(tmp_path / "quiet")
    assert lines(tmp_path / "killed") == lines(tmp_path / "quiet")
