"""Steps: in parts or whole, with state in buffers, activations that are recomputed, and a guard against spikes."""

import math
import os
import subprocess
import sys

import pytest
import torch
from engine.games import Game, batches
from torch import nn

from gensys.core import Batch, Generative, Loss
from gensys.engine.buffers import Buffers
from gensys.engine.checkpoint import State, newest, read_state
from gensys.engine.guard import WINDOW, Guard
from gensys.engine.loop import Budget, Settings, train
from gensys.engine.optim import Optim, adamw
from gensys.engine.parallel import World
from gensys.engine.recompute import recompute_blocks
from gensys.engine.step import Turns
from gensys.errors import ConfigError, TrainingError
from gensys.noise import Noise, Stream

CPU = torch.device("cpu")


class Still(torch.optim.SGD):
    """Takes no step, so that gradients can be looked at."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.0)


class Blocks(nn.Module):
    """A backbone that lists its blocks; each has dropout, so that a second pass must draw the same numbers."""

    def __init__(self, state=False):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Dropout(0.2), nn.Linear(64, 8)) for _ in range(4)
        )
        if state:
            self.blocks[2].append(nn.BatchNorm1d(8))

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


class Regression(Generative):
    def __init__(self, body=None):
        super().__init__()
        self.body = body or nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8))

    def loss(self, batch, noise, player):
        total = (self.body(batch.x) - noise.normal((8,), Stream.EPS)).square().mean()
        return Loss(total, {"loss": total.detach()})

    def sample(self, cond, noise):
        raise NotImplementedError


def rows(count=32, width=8):
    ids = torch.arange(count)
    return Batch(Noise(3, ids).normal((width,), Stream.EPS), {"label": ids % 3}, ids)


def gradient(model, step=1, batch=None, **options):
    settings = Settings(32, Budget(images=32), precision="fp32", clip=1e9, **options)
    turns = Turns(model, {"model": Still(model.parameters())}, settings, {}, World(), CPU)
    terms, sound = turns.step([batch or rows()], State(step), 0.0)
    assert sound
    return torch.cat([p.grad.flatten() for p in model.parameters()]), terms


def made(kind, *arguments):
    torch.manual_seed(0)
    return kind(*arguments)


# ----------------------------------------------------------------------------------------------------------accumulation


@pytest.mark.parametrize("how", [{"accumulate": 2}, {"accumulate": 8}, {"parts": 1}, {"parts": 8}])
def test_the_gradient_of_the_parts_is_that_of_the_whole(how):
    whole, terms = gradient(made(Regression))
    parts, terms_2 = gradient(made(Regression), **how)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(terms_2, terms, rtol=1e-5, atol=1e-7, check_device=False)


@pytest.mark.parametrize(
    "wrong", [{"accumulate": 0}, {"accumulate": 5}, {"accumulate": 2, "parts": 2}, {"spike": 0.5}, {"spike": -1.0}]
)
def test_settings_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"must be"):
        Settings(32, Budget(images=1), **wrong)


# -------------------------------------------------------------------------------------------------------------recompute


def held(model, batch):
    """Bytes that a forward pass keeps for the backward one, without the weights."""
    weights = {p.data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.loss(batch, Noise(0, batch.ids), "model").total
    loss.backward()
    return sum(kept.values())


def test_recomputed_activations_give_the_same_bits_and_hold_less():
    plain, lean = made(Regression, Blocks()), made(Regression, Blocks())
    lean.load_state_dict(plain.state_dict())
    names = list(lean.state_dict())
    recompute_blocks(lean)
    assert list(lean.state_dict()) == names
    assert torch.equal(gradient(plain)[0], gradient(lean)[0])
    most, least = held(plain, rows()), held(lean, rows())
    assert least < most / 4  # a block's input (8 wide) instead of the 64 wide in it, three times over


def test_recompute_needs_blocks_without_state(tmp_path):
    with pytest.raises(ConfigError, match="lists its blocks"):
        recompute_blocks(Regression())
    with pytest.raises(ConfigError, match=r"the buffer '4\.num_batches_tracked' of a block \(Sequential\) twice"):
        recompute_blocks(Blocks(state=True))


def test_the_loop_recomputes_with_the_same_bits(tmp_path):
    results = []
    for recompute in (False, True):
        settings = Settings(32, Budget(images=32 * 3), precision="fp32", recompute=recompute)
        model = made(Regression, made(Blocks))
        folder = tmp_path / str(recompute)
        folder.mkdir()
        train(model, lambda step: rows(), settings, folder)
        results.append(model.state_dict())
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


# ---------------------------------------------------------------------------------------------------------------buffers


class Normed(Regression):
    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))


@pytest.mark.parametrize("how", [{"accumulate": 4}, {"parts": 4}])
def test_running_statistics_move_by_the_mean_of_the_parts(how):
    model = made(Normed)
    norm = model.body[1]
    norm.running_mean.fill_(0.5)
    with torch.no_grad():
        parts = [model.body[0](x) for x in rows().x.chunk(4)]
    gradient(model, **how)
    mean = 0.9 * 0.5 + 0.1 * torch.stack([y.mean(0) for y in parts]).mean(0)
    variance = 0.9 + 0.1 * torch.stack([y.var(0) for y in parts]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-5, atol=1e-6)
    assert int(norm.num_batches_tracked) == 1  # counted once


class Counting(Regression):
    """Counts its rows with a label of 0 in whole numbers, which is refused."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.tensor(0))

    def loss(self, batch, noise, player):
        self.count += (batch.cond["label"] == 0).sum()
        return super().loss(batch, noise, player)


@pytest.mark.parametrize("how", [{"accumulate": 4}, {"parts": 4}])
def test_counts_that_depend_on_the_data_must_be_floating_point(how):
    with pytest.raises(TrainingError, match="the buffer 'count' holds whole numbers"):
        gradient(made(Counting), **how)
    model = made(Counting)
    gradient(model)  # whole, it may count as it likes
    assert int(model.count) == 11
    model = made(Counting)
    model.count = model.count.float()
    gradient(model, **how)
    assert float(model.count) == 11 / 4


def test_constants_and_what_is_not_persistent_are_left_alone():
    model = nn.Module()
    model.register_buffer("big", torch.tensor([2**40 + 1, -7]))
    model.register_buffer("other", torch.zeros(2), persistent=False)
    buffers = Buffers(model)
    old = buffers.copy()
    assert len(old) == 1
    change = buffers.change(old)
    buffers.add(old, change, [change])
    assert model.big.tolist() == [2**40 + 1, -7]
    assert not Buffers(nn.Linear(2, 2))


def test_a_refused_step_changes_no_buffer():
    class Broken(Normed):
        def loss(self, batch, noise, player):
            total = super().loss(batch, noise, player).total * math.nan
            return Loss(total, {"loss": total.detach()})

    model = made(Broken)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = Settings(32, Budget(images=32), precision="fp32")
    turns = Turns(model, {"model": adamw(list(model.parameters()), Optim())}, settings, {}, World(), CPU)
    assert not turns.step([rows()], State(3), 1.0)[1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ----------------------------------------------------------------------------------------------------------------spikes


def test_the_guard_refuses_what_is_far_above_the_median():
    guard = Guard(10.0, {})
    assert all(guard.passes("model", 100.0) for _ in range(WINDOW - 1))
    assert guard.passes("model", 1e6)  # the window was not full
    assert guard.passes("model", 999.0)
    assert not guard.passes("model", 1001.0)
    assert not guard.passes("model", math.inf)
    assert guard.passes("other", 1e9)
    again = Guard(10.0, guard.norms())
    assert again.norms() == guard.norms()
    assert not again.passes("model", 1001.0)
    assert not Guard(0.0, {}).passes("model", math.nan)
    assert Guard(0.0, guard.norms()).passes("model", 1e30)


class Spiking(Regression):
    """From some step on, some samples have a loss a thousand times too large."""

    guilty, begin, end = (7, 901), 80, 82

    def loss(self, batch, noise, player):
        out = (self.body(batch.x) - 0.5).square().mean(1)
        if self.begin <= noise.step < self.end:
            out = out * torch.tensor([1e4 if int(i) in self.guilty else 1.0 for i in batch.ids])
        return Loss(out.mean(), {"loss": out.mean().detach()})


def spiking_batch(step):
    ids = torch.cat([torch.tensor([7, 901]), 100 + torch.arange(30)])
    return Batch(
        Noise(3, ids).normal(
            (8,),
            Stream.EPS,
        ),
        {},
        ids,
    )


def spiked(folder, kind, stop_after=None, **options):
    folder.mkdir(exist_ok=True)
    settings = Settings(
        **{"batch": 32, "budget": Budget(images=32 * 100), "precision": "fp32", "spike": 10.0, "log_every": 1} | options
    )
    given = []

    def batch(step):
        given.append(step)
        return spiking_batch(step)

    model = made(kind)
    stop = None if stop_after is None else lambda: len(given) >= stop_after
    return train(model, batch, settings, folder, stop=stop)


@pytest.mark.parametrize("how", [{}, {"parts": 4}])
def test_spikes_are_skipped_and_a_resumed_run_skips_the_same(tmp_path, how):
    assert spiked(tmp_path / "quiet", Spiking, **how).skipped == 2
    for after in (70, 11):  # the second stop lies between the two spikes
        spiked(tmp_path / "stopped", Spiking, stop_after=after, **how)
    stopped = read_state(newest(tmp_path / "stopped" / "checkpoints"))
    assert (stopped.step, stopped.skipped, len(stopped.norms["model"])) == (81, 1, WINDOW)
    assert spiked(tmp_path / "stopped", Spiking, **how).skipped == 2
    files = [
        {f.name: f.read_bytes() for f in newest(tmp_path / name / "checkpoints").glob("*.safetensors")}
        for name in ("quiet", "stopped")
    ]
    assert files[0] == files[1]
    assert spiked(tmp_path / "off", Spiking, spike=0.0, **how).skipped == 0


def test_spikes_that_do_not_end_name_the_samples(tmp_path):
    class Forever(Spiking):
        end = 10**9

    with pytest.raises(TrainingError, match=r"10 times as large as usual.* are (7|901) \(.*\), (7|901) \(.*'spike'"):
        spiked(tmp_path, Forever)


# -----------------------------------------------------------------------------------------------------------------games


def played(folder, stop_after=None, **options):
    folder.mkdir(exist_ok=True)
    settings = Settings(
        **{"batch": 32, "budget": Budget(images=32 * 30), "precision": "fp32", "log_every": 7, "spike": 50.0} | options
    )
    given, inner = [], batches(World())

    def batch(step):
        given.append(step)
        return inner(step)

    model = made(Game)
    train(model, batch, settings, folder, stop=None if stop_after is None else lambda: len(given) >= stop_after)
    return model


def bits(folder):
    """The weights, their average and the optimizer's state at the end, and the log without its clock."""
    at = newest(folder / "checkpoints")
    log = [line.partition('"seconds"')[0] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {file.name: file.read_bytes() for file in at.glob("*.safetensors")}, log


@pytest.mark.parametrize("how", [{}, {"parts": 4}, {"accumulate": 2}])
def test_a_game_is_resumed_bit_for_bit(tmp_path, how):
    model = played(tmp_path / "quiet", **how)
    assert bool(model.critic[0].seen)
    assert model.constant.tolist() == [3, 5]
    turns = 15 * 3 + (2 if how else 0)  # the generator runs in all of them, and in the first look
    assert int(model.generator[1].num_batches_tracked) == turns
    played(tmp_path / "stopped", stop_after=9, **how)
    played(tmp_path / "stopped", **how)
    assert bits(tmp_path / "stopped") == bits(tmp_path / "quiet")


PROGRAM = """
import os
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from engine import games
from gensys.engine.loop import Budget, Settings, train
from gensys.engine.parallel import World

kind, folder, rank, size, parts = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
torch.set_num_threads(1)
if size > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}.wires", rank=rank, world_size=size)
world = World(rank, size)
torch.manual_seed(rank)  # only the first worker's weights count
model = getattr(games, kind)()
settings = Settings(32, Budget(images=32 * 20), precision="fp32", log_every=7, parts=parts, spike=50.0)
train(model, games.batches(world), settings, folder, world=world)
flat = torch.cat([t.flatten().double() for t in model.state_dict().values()])
if size > 1:
    every = [torch.empty_like(flat) for _ in range(size)]
    dist.all_gather(every, flat)
    assert all(torch.equal(flat, other) for other in every), "the workers' weights or buffers differ"
    dist.barrier()  # nobody leaves while another still waits for its part
    dist.destroy_process_group()
    os._exit(0)  # on a busy machine a thread of gloo's may outlive the interpreter, which then aborts
"""


def together(folder, size, parts, kind="Game"):
    """Train a game with `size` processes; each compares its weights and buffers with the others'."""
    folder.mkdir()
    path = os.pathsep.join([os.path.dirname(os.path.dirname(__file__)), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-c", PROGRAM, kind, str(folder)]
    crew = [
        subprocess.Popen([*command, *map(str, (rank, size, parts))], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(size)
    ]
    said = [process.communicate(timeout=600)[1] for process in crew]
    assert [process.returncode for process in crew] == [0] * size, said
    return bits(folder)


@pytest.mark.slow
def test_a_game_has_the_same_bits_for_1_2_and_4_workers_if_exact_and_always_the_same_on_all_of_them(tmp_path):
    alone = together(tmp_path / "1", 1, parts=8)
    assert together(tmp_path / "2", 2, parts=8) == alone
    assert together(tmp_path / "4", 4, parts=8) == alone
    assert together(tmp_path / "fast", 2, parts=0) != alone


@pytest.mark.slow
def test_an_adversarial_model_has_the_same_bits_for_1_and_2_workers(tmp_path):
    alone = together(tmp_path / "1", 1, parts=4, kind="adversarial")
    assert together(tmp_path / "2", 2, parts=4, kind="adversarial") == alone
