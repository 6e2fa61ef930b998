"""The exact mean: its tree, and training whose bits do not depend on the number of workers."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gensys.engine.checkpoint import newest, read_state
from gensys.engine.loop import Budget, Settings
from gensys.engine.parallel import World, _heights, exact_mean, packed, subtrees, unpacked
from gensys.errors import ConfigError


def leaves(values):
    return ((0, value.clone()) for value in values)


def test_the_tree_is_the_one_that_is_written_down():
    a, b, c, d = torch.randn(4, 100, generator=torch.Generator().manual_seed(0)).unbind()
    expected = (a + b) + (c + d)
    ((height, total),) = subtrees(leaves((a, b, c, d)))
    assert height == 2
    assert torch.equal(total, expected)
    assert not torch.equal(((a + b) + c) + d, expected)  # the order matters, so the test can fail
    alone, pair, last = subtrees(leaves((b, c, d, a)), first=1)  # the leaves 1 to 4
    assert [alone[0], pair[0], last[0]] == [0, 1, 0]
    assert torch.equal(pair[1], c + d)


@pytest.mark.parametrize(
    ("count", "workers"), [(count, size) for count in (1, 2, 8, 32) for size in range(1, count + 1)]
)
def test_subtrees_add_up_to_the_tree(count, workers):
    values = torch.randn(count, 50, generator=torch.Generator().manual_seed(count))
    ((_, alone),) = subtrees(leaves(values))
    spans = [World(rank, workers).span(count) for rank in range(workers)]
    assert [k for span in spans for k in span] == list(range(count))
    assert max(map(len, spans)) - min(map(len, spans)) <= 1
    found = [subtrees(leaves(values[span.start : span.stop]), span.start) for span in spans]
    assert [[height for height, _ in part] for part in found] == [_heights(span) for span in spans]
    ((_, total),) = subtrees(tree for part in found for tree in part)
    assert torch.equal(total, alone)
    assert torch.equal(exact_mean(values.clone().unbind(), count, World()), alone / count)


@pytest.mark.parametrize("count", [0, 3, 6])
def test_only_powers_of_two_are_whole_trees(count):
    with pytest.raises(ValueError, match="power of two"):
        exact_mean((torch.zeros(2) for _ in range(count)), count, World())


@pytest.mark.parametrize(("size", "parts"), [(1, 0), (2, 0), (3, 0), (7, 0), (10, 0), (3, 5), (5, 5)])
def test_shares_are_contiguous_and_differ_by_at_most_one(size, parts):
    rows = torch.arange(10)
    shares = [World(rank, size).share(rows, parts) for rank in range(size)]
    assert torch.equal(torch.cat(shares), rows)
    lengths = [len(share) // (10 // parts if parts else 1) for share in shares]
    assert max(lengths) - min(lengths) <= 1
    if parts:
        assert all(len(share) % 2 == 0 for share in shares)  # whole parts


def test_more_workers_than_rows_are_refused():
    with pytest.raises(ValueError, match=r"'size' must be at most the number of rows of a batch \(2\), got 3 workers"):
        World(0, 3).share(torch.arange(2))
    with pytest.raises(ValueError, match=r"'size' must be at most the number of parts of a batch \(2\), got 3"):
        World(0, 3).share(torch.arange(8), 2)


def test_gradients_and_terms_in_one_vector_and_back():
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (), (4,))]
    parameters[0].grad = torch.arange(6.0).view(2, 3)
    flat = packed(parameters, torch.tensor(7.0))
    assert flat.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 7.0]
    assert unpacked(parameters, torch.arange(12.0)).tolist() == [11.0]
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
        return super().forward(nn.functional.dropout(x_t, 0.1, self.training and parts > 0), t, cond)

model = Diffusion(Denoiser(Dropped(2, width=32, depth=2), Linear(), velocity), (2,))
settings = Settings(
    32, Budget(images=32 * 40), Optim(warmup=10), precision="fp32", save_every=0.0, log_every=7, parts=parts
)
seen = [0]

def batch(step):
    seen[0] = step
    print(step, flush=True)
    rows = world.share(order.rows(0, step, 32, 1000), parts)
    return Batch(Noise(1, rows).normal((2,), Stream.EPS), {}, rows)

train(model, batch, settings, folder, world=world, stop=lambda: seen[0] >= last)
if size > 1:
    dist.destroy_process_group()  # its threads do not like to be left
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
def test_exact_training_gives_the_same_bits_for_any_number_of_workers_and_for_all_of_them_in_turn(tmp_path):
    for size in (1, 3):
        together(tmp_path / str(size), size, parts=8)
    alone = bits(tmp_path / "1")
    assert bits(tmp_path / "3") == alone

    changing = tmp_path / "changing"
    together(changing, 5, parts=8, kill_at=15)
    together(changing, 1, parts=8, last=25)
    killed = read_state(newest(changing / "checkpoints")).step
    assert 20 <= killed <= 30
    together(changing, 2, parts=8)
    assert bits(changing) == alone


@pytest.mark.slow
def test_without_parts_uneven_shares_give_the_same_training_up_to_rounding(tmp_path):
    """The mean over the batch of gradients and of the terms of the log, not the mean over workers of their means."""
    for size in (1, 3):
        together(tmp_path / str(size), size, parts=0)
    alone, three = (newest(tmp_path / str(size) / "checkpoints") for size in (1, 3))
    # dropout draws other numbers in every share, so the program leaves it out
    a, b = load_file(alone / "model.safetensors"), load_file(three / "model.safetensors")
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=1e-3, atol=1e-4)
    first, other = (json.loads((tmp_path / str(k) / "metrics.jsonl").read_text().splitlines()[0]) for k in (1, 3))
    assert other["loss"] == pytest.approx(first["loss"], rel=1e-5)
    # the last bits differ, or the test above would prove nothing
    assert bits(tmp_path / "3") != bits(tmp_path / "1")
