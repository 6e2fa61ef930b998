"""The exact mean: its tree, and training whose bits do not depend on the number of workers."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from gensys.engine.checkpoint import newest, read_state
from gensys.engine.loop import Budget, Settings
from gensys.engine.parallel import World, exact_mean, flat_gradients, pairwise_sum, set_gradients
from gensys.errors import ConfigError


def test_the_tree_is_the_one_that_is_written_down():
    a, b, c, d = torch.randn(4, 100, generator=torch.Generator().manual_seed(0)).unbind()
    expected = (a + b) + (c + d)
    assert torch.equal(pairwise_sum(x.clone() for x in (a, b, c, d)), expected)
    assert not torch.equal(((a + b) + c) + d, expected)  # the order matters, so the test can fail


@pytest.mark.parametrize("count", [1, 2, 8, 32])
@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_subtrees_add_up_to_the_tree(count, workers):
    if count % workers:
        pytest.skip("a worker has a whole number of parts")
    values = torch.randn(count, 50, generator=torch.Generator().manual_seed(count))
    alone = pairwise_sum(values.clone().unbind())
    subtrees = [pairwise_sum(part.clone().unbind()) for part in values.chunk(workers)]
    assert torch.equal(pairwise_sum(subtrees), alone)
    assert torch.equal(exact_mean(values.clone().unbind(), count, World()), alone / count)


@pytest.mark.parametrize("count", [0, 3, 6])
def test_only_powers_of_two_are_whole_trees(count):
    with pytest.raises(ValueError, match="power of two"):
        pairwise_sum(torch.zeros(2) for _ in range(count))


def test_flat_gradients_and_back():
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (), (4,))]
    parameters[0].grad = torch.arange(6.0).view(2, 3)
    flat = flat_gradients(parameters)
    assert flat.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    set_gradients(parameters, torch.arange(11.0))
    assert [p.grad.tolist() for p in parameters] == [[[0, 1, 2], [3, 4, 5]], 6, [7, 8, 9, 10]]


@pytest.mark.parametrize(
    ("parts", "what"), [(3, "power of two"), (-1, "power of two"), (16, "'batch' must be a multiple")]
)
def test_parts_that_do_not_fit_are_refused(parts, what):
    with pytest.raises(ConfigError, match=what):
        Settings(8, Budget(images=8), parts=parts)


# ------------------------------------------------------------------------------------ processes that train together

PROGRAM = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch import nn
from gensys.core import Batch
from gensys.data import order
from gensys.denoiser import Denoiser
from gensys.engine.loop import Budget, Settings, train
from gensys.engine.optim import Optim
from gensys.engine.parallel import World
from gensys.families.diffusion import Diffusion
from gensys.nn.mlp import MLP
from gensys.noise import Noise, Stream
from gensys.paths import Linear
from gensys.targets import velocity

folder, rank, size, parts, last = Path(sys.argv[1]), *map(int, sys.argv[2:])
torch.set_num_threads(1)
if size > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}.{size}.{last}.wires", rank=rank, world_size=size)
world = World(rank, size)
torch.manual_seed(0)

class Dropped(MLP):  # draws from torch's own generator
    def forward(self, x_t, t, cond):
        return super().forward(nn.functional.dropout(x_t, 0.1, self.training), t, cond)

model = Diffusion(Denoiser(Dropped(2, width=32, depth=2), Linear(), velocity), (2,))
settings = Settings(
    32, Budget(images=32 * 60), Optim(warmup=10), precision="fp32", save_every=0.0, log_every=7, parts=parts
)
seen = [0]

def batch(step):
    seen[0] = step
    print(step, flush=True)
    rows = world.share(order.rows(0, step, 32, 1000))
    return Batch(Noise(1, rows).normal((2,), Stream.EPS), {}, rows)

train(model, batch, settings, folder, world=world, stop=lambda: seen[0] >= last)
"""


def together(folder, size, parts, last=10**6, kill_at=None):
    """Train with `size` processes up to step `last`; kill all of them when the first one is at step `kill_at`."""
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    crew = [
        subprocess.Popen(
            [*command, *map(str, (rank, size, parts, last))], stdout=subprocess.PIPE, text=True, env=environment
        )
        for rank in range(size)
    ]
    for line in crew[0].stdout:
        if kill_at is not None and int(line) >= kill_at:
            for process in crew:
                process.send_signal(signal.SIGKILL)
            break
    for process in crew:
        process.communicate(timeout=120)
    assert all(process.returncode == (0 if kill_at is None else -signal.SIGKILL) for process in crew)


def bits(folder):
    """The weights, their average and the optimizer's state at the end, and the log without its clock."""
    at = newest(folder / "checkpoints")
    log = [line.partition('"seconds"')[0] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {file.name: file.read_bytes() for file in at.glob("*.safetensors")}, log


@pytest.mark.slow
def test_exact_training_gives_the_same_bits_for_1_2_and_4_workers_and_for_all_of_them_in_turn(tmp_path):
    for size in (1, 2, 4):
        together(tmp_path / str(size), size, parts=8)
    alone = bits(tmp_path / "1")
    assert bits(tmp_path / "2") == alone
    assert bits(tmp_path / "4") == alone

    changing = tmp_path / "changing"
    together(changing, 4, parts=8, kill_at=15)
    together(changing, 1, parts=8, last=25)
    killed = read_state(newest(changing / "checkpoints")).step
    assert 20 <= killed <= 30
    together(changing, 2, parts=8)
    assert bits(changing) == alone

    # without it they differ, or the above would prove nothing
    for size in (1, 2):
        together(tmp_path / f"fast{size}", size, parts=0)
    assert bits(tmp_path / "fast2") != bits(tmp_path / "fast1")
