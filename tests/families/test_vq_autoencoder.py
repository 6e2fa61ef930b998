"""Vector-quantised autoencoders: codes that decode to reconstructions, and codebooks that workers share."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from gensys.bottlenecks.ema import EmaQuantiser
from gensys.bottlenecks.fsq import ScalarQuantiser
from gensys.bottlenecks.residual import ResidualQuantiser
from gensys.bottlenecks.vq import VectorQuantiser
from gensys.core import Batch, Codec, Codes
from gensys.engine.checkpoint import newest
from gensys.noise import Noise, Stream
from gensys.systems.vq_vae import vq_vae
from gensys.systems.vq_vae_2 import vq_vae_2

IDS = torch.arange(6)
QUANTISERS = {
    "ema": lambda: EmaQuantiser(16, 4),
    "gradient": lambda: VectorQuantiser(16, 4),
    "residual": lambda: ResidualQuantiser([EmaQuantiser(16, 4) for _ in range(2)]),
    "fsq": lambda: ScalarQuantiser((5, 3)),
}


def data(shape):
    return Batch(Noise(1, IDS).uniform(shape, Stream.EPS) * 2 - 1, {}, IDS)


@pytest.mark.parametrize("kind", QUANTISERS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (7,)])
def test_codes_decode_to_what_the_loss_compares(kind, shape):
    torch.manual_seed(0)
    model = vq_vae(shape, QUANTISERS[kind](), width=8)
    batch = data(shape)
    first = model.loss(batch, Noise(0, IDS), "model")
    first.total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    codes = model.encode(batch.x)  # also while it trains: looking is no step
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert isinstance(model, Codec)
    assert isinstance(codes, Codes)
    grid = (4, 4) if len(shape) == 3 else (4,)
    assert codes.indices.shape == (6, *model.quantiser.shape(grid))
    assert codes.indices.dtype == torch.int64
    assert 0 <= codes.indices.min() <= codes.indices.max() < codes.size == model.quantiser.size
    model.eval()
    loss = model.loss(batch, Noise(0, IDS), "model")
    error = (model.decode(codes.mode) - batch.x).square().mean()
    torch.testing.assert_close(loss.terms["reconstruction"], error.detach(), rtol=1e-4, atol=1e-6)
    assert model.sample({}, Noise(3, IDS)).shape == (6, *shape)


def test_two_grids_of_codes_decode_to_what_the_loss_compares():
    torch.manual_seed(0)
    model = vq_vae_2((1, 16, 24), EmaQuantiser(16, 4), EmaQuantiser(16, 3), width=8)
    batch = data((1, 16, 24))
    model.loss(batch, Noise(0, IDS), "model").total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.eval()
    codes = model.encode(batch.x)
    assert (codes.grids, codes.indices.shape) == (((2, 3), (4, 6)), (6, 30))
    loss = model.loss(batch, Noise(0, IDS), "model")
    error = (model.decode(codes.mode) - batch.x).square().mean()
    torch.testing.assert_close(loss.terms["reconstruction"], error.detach(), rtol=1e-4, atol=1e-6)
    assert model.sample({}, Noise(3, IDS)).shape == (6, 1, 16, 24)
    with pytest.raises(ValueError, match="vectors have no coarser grid, take vq_vae"):
        vq_vae_2((7,), EmaQuantiser(16, 4), EmaQuantiser(16, 4))
    with pytest.raises(ValueError, match="multiples of 8"):
        vq_vae_2((1, 12, 16), EmaQuantiser(16, 4), EmaQuantiser(16, 4))


def test_samples_are_decoded_uniform_codes_of_their_own_rows():
    torch.manual_seed(0)
    model = vq_vae((1, 16, 16), VectorQuantiser(16, 4), width=8)
    torch.testing.assert_close(model.sample({}, Noise(3, IDS))[4:], model.sample({}, Noise(3, IDS[4:])))
    seen = []
    model.decode = lambda z: seen.append(z) or z
    model.sample({}, Noise(3, torch.arange(500)))
    share = torch.bincount(seen[0].flatten(), minlength=16) / seen[0].numel()
    torch.testing.assert_close(share, torch.full((16,), 1 / 16), rtol=0, atol=0.01)


def test_what_are_no_codes_is_refused():
    model = vq_vae((1, 16, 16), VectorQuantiser(16, 4), width=8)
    with pytest.raises(ValueError, match="'z' must be codes, whole numbers, got"):
        model.decode(torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match=r"'z' must lie in \[0, 16\), got 0\.\.16"):
        model.decode(torch.tensor([[[0, 16]]]))
    with pytest.raises(ValueError, match="multiples of 4"):
        vq_vae((1, 14, 16), VectorQuantiser(16, 4))
    with pytest.raises(ValueError, match="'beta' must not be negative"):
        vq_vae((7,), VectorQuantiser(16, 4), beta=-1.0)


# --------------------------------------------------------------------------------- processes that share a codebook

PROGRAM = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from gensys.bottlenecks.ema import EmaQuantiser
from gensys.core import Batch
from gensys.data import order
from gensys.engine.loop import Budget, Settings, train
from gensys.engine.optim import Optim
from gensys.engine.parallel import World
from gensys.noise import Noise, Stream
from gensys.systems.vq_prior import vq_prior
from gensys.systems.vq_vae import vq_vae
from gensys.systems.vq_vae_2 import vq_vae_2

folder, kind, rank, size = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
torch.set_num_threads(1)
if size > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}.wires", rank=rank, world_size=size)
world = World(rank, size)
torch.manual_seed(0)
book = lambda: EmaQuantiser(12, 3, decay=0.8, revive=0.5)  # splits at many steps
shape, model = {
    "vq_vae": lambda: ((6,), vq_vae((6,), book(), width=16, depth=1)),
    "vq_vae_2": lambda: ((1, 4, 4), vq_vae_2((1, 4, 4), book(), book(), width=8, depth=1)),
    "vq_prior": lambda: ((5,), vq_prior([(1,), (4,)], 9, (5,), classes=3, width=8, depth=1, heads=2)),
}[kind]()
settings = Settings(32, Budget(images=32 * 25), Optim(warmup=5), precision="fp32", save_every=1e9, parts=4)

def batch(step):
    rows = world.share(order.rows(0, step, 32, 1000), 4)
    noise = Noise(1, rows)
    x = (noise.uniform(shape, Stream.EPS) * 9).long() if kind == "vq_prior" else noise.normal(shape, Stream.EPS)
    return Batch(x, {"label": rows % 3}, rows)

train(model, batch, settings, folder, world=world)
if size > 1:
    dist.destroy_process_group()
"""


BOOKS = {"vq_vae": ["quantiser."], "vq_vae_2": ["quantiser.top.", "quantiser.bottom."], "vq_prior": []}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOOKS)
def test_two_processes_keep_the_codebook_of_one_bit_for_bit(tmp_path, kind):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    crew = []
    for size in (1, 2):
        folder = tmp_path / str(size)
        folder.mkdir()
        crew += [
            subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder), kind, str(rank), str(size)], env=environment)
            for rank in range(size)
        ]
    assert [process.wait(timeout=120) for process in crew] == [0, 0, 0]
    one, two = (load_file(newest(tmp_path / str(size) / "checkpoints") / "model.safetensors") for size in (1, 2))
    for book in BOOKS[kind]:
        assert {book + "counts", book + "sums"} < one.keys()
        assert one[book + "begun"].item() == 1
    assert all(torch.equal(value, two[name]) for name, value in one.items())
