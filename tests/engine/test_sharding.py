"""Sharded weights: the same training as whole ones up to rounding, in less memory, and either way from a checkpoint."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gensys.core import Generative, Loss
from gensys.engine.checkpoint import newest, read_state
from gensys.engine.loop import Budget, Settings, train
from gensys.engine.parallel import World
from gensys.engine.sharding import networks, shard_weights
from gensys.errors import ConfigError

PROGRAM = """
import os
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from gensys.core import Batch
from gensys.data import order
from gensys.engine.loop import Budget, Settings, train
from gensys.engine.optim import Optim
from gensys.engine.parallel import World, is_sharded
from gensys.noise import Noise, Stream
from gensys.systems.flow_dit import flow_dit

folder, rank, size, shard, last, precision = Path(sys.argv[1]), *map(int, sys.argv[2:6]), sys.argv[6]
torch.set_num_threads(1)
if size > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}.{shard}.{last}.wires", rank=rank, world_size=size)
world = World(rank, size)
torch.manual_seed(0)
model = flow_dit((2, 8, 8), classes=3, width=16, depth=3, heads=2, dropout=0.0)
settings = Settings(9, Budget(images=9 * 24), Optim(warmup=4), precision=precision, save_every=1e9, log_every=1,
                    previews=2)
seen = [0]
shown = []

def batch(step):  # 9 rows: 4 for one of two workers, 5 for the other
    seen[0] = step
    rows = world.share(order.rows(0, step, 9, 90))
    return Batch(Noise(1, rows).normal((2, 8, 8), Stream.EPS), {"label": rows % 3}, rows)

def preview(average, step):
    assert not any(map(is_sharded, average.state_dict().values()))
    shown.append((step, float(average.sample({"label": torch.arange(2)}, Noise(0, torch.arange(2))).square().mean())))

train(model, batch, settings, folder, world=world, preview=preview, score=lambda average: float(
    sum(p.double().square().sum() for p in average.parameters())), stop=lambda: seen[0] >= last, shard=bool(shard))
local = sum((p.to_local() if is_sharded(p) else p).numel() for p in model.parameters())
print(local, sum(p.numel() for p in model.parameters()), len(shown), flush=True)
if size > 1:
    dist.destroy_process_group()
os._exit(0)  # sharded weights hold the group beyond its end, whose threads torch now and then stumbles over at exit
"""


def together(folder, size, shard, last=10**6, precision="fp32"):
    """Train with `size` processes up to step `last`. Returns the numbers that each of them prints."""
    folder.mkdir(exist_ok=True)
    crew = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, *map(str, (folder, k, size, shard, last, precision))],
            stdout=subprocess.PIPE,
            text=True,
        )
        for k in range(size)
    ]
    said = [process.communicate(timeout=300)[0] for process in crew]
    assert [process.returncode for process in crew] == [0] * size
    return [list(map(int, text.split())) for text in said]


def assert_same_training(folder, other, rtol=2e-3, atol=2e-4):
    a, b = newest(folder / "checkpoints"), newest(other / "checkpoints")
    assert a.name == b.name
    assert read_state(a).score == pytest.approx(read_state(b).score, rel=1e-3)
    for file in ("model.safetensors", "average.safetensors", "optim.safetensors"):
        found, expected = load_file(a / file), load_file(b / file)
        assert {name: t.shape for name, t in found.items()} == {name: t.shape for name, t in expected.items()}
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_sharded_weights_train_as_whole_ones_do_and_go_on_either_way(tmp_path):
    ((local, whole, drawn),) = together(tmp_path / "alone", 1, 0)
    assert (local, drawn) == (whole, 3)
    counts = together(tmp_path / "sharded", 2, 1)
    assert sum(local for local, *_ in counts) == whole
    assert max(local for local, *_ in counts) < 0.6 * whole  # a half, but for first dimensions that are odd
    assert [drawn for *_, drawn in counts] == [3, 0]
    assert_same_training(tmp_path / "sharded", tmp_path / "alone")

    turns = tmp_path / "turns"
    together(turns, 2, 1, last=7)
    assert 0 < read_state(newest(turns / "checkpoints")).step < 24
    together(turns, 1, 0, last=15)
    together(turns, 2, 1)
    assert_same_training(turns, tmp_path / "alone")


@pytest.mark.exhaustive
def test_bfloat16_weights_are_gathered_and_the_shards_stay_float32(tmp_path):
    together(tmp_path / "sharded", 2, 1, precision="bf16")
    together(tmp_path / "whole", 1, 0, precision="bf16")
    tensors = load_file(newest(tmp_path / "sharded" / "checkpoints") / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert_same_training(tmp_path / "sharded", tmp_path / "whole", rtol=0.05, atol=0.02)


class Odd(Generative):
    def __init__(self):
        super().__init__()
        self.net, self.scale = nn.Linear(2, 2), nn.Parameter(torch.ones(2))

    def loss(self, batch, noise, player):
        value = self.net(batch.x * self.scale).square().mean()
        return Loss(value, {})

    def sample(self, cond, noise):
        raise NotImplementedError


def test_what_cannot_be_sharded_is_refused(tmp_path):
    model = Odd()
    assert list(networks(model)) == [model.net]
    with pytest.raises(ConfigError, match="'scale' lies in no network"):
        shard_weights(model, World(), torch.device("cpu"), bf16=False)
    settings = Settings(8, Budget(images=8), parts=4)
    with pytest.raises(ConfigError, match="choose one of --exact and --shard-weights"):
        train(model, lambda step: None, settings, tmp_path, shard=True)
