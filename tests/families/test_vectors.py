"""Conditions that are numbers: the next state of a system, given its state and an action."""

import json
import math

import numpy as np
import pyarrow
import pytest
import torch
from gensys.pipelines.sample import sample
from gensys.pipelines.train import train
from pyarrow import parquet

from gensys.core import HasLikelihood
from gensys.data.sample_table import read_sample_table
from gensys.data.sources import open_source
from gensys.errors import DataError
from gensys.noise import Noise, Stream
from gensys.progress import Screen
from gensys.run import resolve
from gensys.run_folder import RunFolder

RECIPE = '''
from functools import partial

from gensys import targets
from gensys.data.sources import split
from gensys.denoiser import Denoiser
from gensys.domain import open_domain
from gensys.families.diffusion import Diffusion
from gensys.knobs import SAMPLING, Network, Sampling, Training
from gensys.objectives.denoise import denoise
from gensys.paths import Linear
from gensys.run import Run


def dynamics(
    data: str,  # states, actions and next states
    network: Network = Network(width=64, depth=3),
    training: Training = Training(batch=256, budget="80k", lr=1e-2, precision="fp32"),
    sampling: Sampling = Sampling(steps=10),
) -> Run:
    """The next state, given a state and an action."""
    domain = open_domain(data)

    def build():
        net = network.build(domain)
        return Diffusion(
            Denoiser(net, Linear(), targets.velocity),
            domain.shape,
            objective=partial(denoise, dropout=0.1),
            sampler=sampling.sampler(Linear(), domain),
        )

    return Run(domain.source, split(domain.source)[0], build, training.settings(), SAMPLING)
'''


def following(vector):
    """The mean of the next state for (state, state, action): a rotation by a sixth of a turn, pushed by the action."""
    c, s = 0.5, 3**0.5 / 2
    x, y, push = vector.T
    return np.stack([c * x - s * y + push, s * x + c * y], 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run: 313 steps of a small perceptron."""
    root = tmp_path_factory.mktemp("dynamics")
    draw = np.random.default_rng(0)
    vector = draw.uniform(-1, 1, (4000, 3)).astype(np.float32)
    x = following(vector) + 0.1 * draw.standard_normal((4000, 2))
    np.savez(root / "steps.npz", x=x.astype(np.float32), vector=vector)
    (root / "mine.py").write_text(RECIPE)
    folder = RunFolder(root / "run")
    spec = resolve(f"{root}/mine.py:dynamics", {"data": str(root / "steps.npz")})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert train(folder, spec, workers=0, fresh=False, screen=Screen(quiet=True)).finished
    torch.set_num_threads(threads)
    return folder


def test_a_trained_model_knows_the_next_state(trained):
    model, ids = trained.model(), torch.arange(2000)
    assert model.conditions == {"guidance", "seed", "vector"}
    vector = Noise(5, ids).uniform((3,), Stream.PRIOR) * 2 - 1
    x = model.sample({"vector": vector}, Noise(0, ids))
    error = x - torch.from_numpy(following(vector.numpy()))
    assert error.mean(0).abs().max() < 0.03
    assert error.std(0).max() < 0.16  # 0.1 of it is the noise of the system
    none = model.sample({}, Noise(0, ids))  # by no vector: the law of all next states
    wanted = torch.from_numpy(following(np.random.default_rng(1).uniform(-1, 1, (50_000, 3)))).std(0).float()
    torch.testing.assert_close(none.std(0), wanted, rtol=0.15, atol=0)


def test_guidance_follows_the_vector(trained):
    """Scale 0 is the model without it; row by row as for all."""
    ids = torch.arange(200)
    vector = torch.tensor([0.5, -0.5, 0.8]).expand(200, -1)
    noise, aim = Noise(0, ids), torch.from_numpy(following(vector[:1].numpy()))

    def spread(scale):
        model = trained.model(trained.retuned({"guidance": str(scale)}))
        return (model.sample({"vector": vector}, noise) - aim).square().mean().sqrt().item()

    assert spread(1.0) < 0.2 < 0.6 < spread(0.0)
    model = trained.model()
    scales = torch.tensor([0.0, 1.0] * 100, dtype=torch.float64)
    mixed = model.sample({"vector": vector, "guidance": scales}, noise)
    torch.testing.assert_close(mixed[::2], model.sample({}, noise)[::2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mixed[1::2], model.sample({"vector": vector}, noise)[1::2], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"cond\['vector'\] must be \(200, 3\), got \(200, 2\)"):
        model.sample({"vector": vector[:, :2]}, noise)


@pytest.mark.parametrize("recipe", ["realnvp", "maf", "iaf", "nsf", "glow"])
def test_flows_go_by_vectors_too(tmp_path, recipe):
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (40, 4, 4), np.uint8)  # images: glow has no other data
    file = save(tmp_path / "a.npz", x, vector=draw.standard_normal((40, 3)))
    knobs = {"levels": "1"} if recipe in ("realnvp", "glow") else {}
    model = resolve(recipe, {"data": str(file), "width": "16", **knobs}).model().eval()
    assert isinstance(model, HasLikelihood)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        pixels = torch.zeros(2, 1, 4, 4)
        first, second = model.log_prob(pixels, {"vector": torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 2.0]])}).tolist()
    assert first != second


def save(path, x, **arrays):
    np.savez(path, x=x, **arrays)
    return path


def test_vectors_of_an_array_file(tmp_path):
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    vector = np.arange(18).reshape(6, 3)
    source = open_source(save(tmp_path / "a.npz", x, vector=vector, y=np.arange(6) % 2))
    batch = source.batch(torch.tensor([4, 1]), Noise(0, torch.tensor([4, 1])))
    assert batch.cond["vector"].tolist() == [[12, 13, 14], [3, 4, 5]]
    assert batch.cond["label"].tolist() == [0, 1]
    assert batch.cond["vector"].dtype == torch.float32
    assert "2 classes, each with 3 numbers to go by" in source.about
    other = vector.copy()
    other[2, 1] += 1
    changed = open_source(save(tmp_path / "b.npz", x, vector=other, y=np.arange(6) % 2))
    assert (source.digests() != changed.digests()).any(1).tolist() == [False, False, True, False, False, False]
    images = open_source(save(tmp_path / "c.npz", np.zeros((6, 4, 4), np.uint8), vector=vector))
    assert images.batch(torch.arange(6), Noise(0, torch.arange(6))).cond["vector"].shape == (6, 3)


def test_a_vector_that_is_not_finite_costs_its_row(tmp_path):
    vector = np.zeros((6, 3))
    vector[2, 1], vector[4, 0] = np.nan, 1e300
    source = open_source(save(tmp_path / "a.npz", np.zeros((6, 4, 4), np.uint8), vector=vector))
    assert source.quarantine() == dict.fromkeys((2, 4), "its vector holds a number that is not finite")
    with pytest.raises(DataError, match=r"the row 'a.npz:2' cannot be used: its vector holds"):
        source.batch(torch.tensor([0, 2]), Noise(0, torch.arange(2)))


@pytest.mark.parametrize(
    "vector", [np.zeros((5, 3)), np.zeros(6), np.zeros((6, 0)), np.array([["a"] * 3] * 6), np.zeros((6, 3, 1))]
)
def test_vectors_that_do_not_belong_to_the_rows_are_refused(tmp_path, vector):
    with pytest.raises(
        DataError, match=r"the array 'vector' of .*a.npz' is .* of shape .*: numbers \(6, L\) are wanted"
    ):
        open_source(save(tmp_path / "a.npz", np.zeros((6, 2), np.float32), vector=vector))


def test_a_table_says_what_each_sample_goes_by(trained, tmp_path):
    """In any kind of file; the store keeps it beside the samples."""
    vectors = [[0.5, -0.25, 1.0], [0.0, 1.0, -1.0]]
    (tmp_path / "t.csv").write_text("vector,guidance\n0.5 -0.25 1,1\n0 1 -1.0,2\n")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"vector": v, "guidance": 1.0}) + "\n" for v in vectors))
    parquet.write_table(pyarrow.table({"vector": vectors}), tmp_path / "t.parquet")
    for kind in ("csv", "jsonl", "parquet"):
        table = read_sample_table(tmp_path / f"t.{kind}", (), frozenset({"vector", "guidance"}), 3)
        assert table.columns["vector"].tolist() == vectors
    options = {"ids": None, "seed": 0, "label": None, "overrides": {}, "shard": 64, "workers": 0}
    screen = Screen(quiet=True)
    store = sample(trained, tmp_path / "s.zarr", table=tmp_path / "t.csv", screen=screen, **options)
    assert store.read("vector", np.arange(2)).tolist() == vectors
    (tmp_path / "u.csv").write_text("vector\n0.5 -0.25\n")
    with pytest.raises(DataError, match=r"row 0 .*'vector': a vector is 3 finite numbers, got '0.5 -0.25'"):
        sample(trained, tmp_path / "u.zarr", table=tmp_path / "u.csv", screen=screen, **options)
    for value in ([1, 2, None], [1, 2, math.inf], 3.0, "1 2 x", [True, 1, 2]):
        (tmp_path / "u.jsonl").write_text(json.dumps({"vector": value}) + "\n")
        with pytest.raises(DataError, match="a vector is 3 finite numbers, got"):
            read_sample_table(tmp_path / "u.jsonl", (), frozenset({"vector"}), 3)
    with pytest.raises(DataError, match="has the column 'vector', and this model takes no vectors"):
        read_sample_table(tmp_path / "t.csv", (), frozenset({"guidance"}))
