"""Toys of the plane: each law against its closed form, rows by number, independence of what a row is drawn from."""

import math

import numpy as np
import pytest
import torch

from gensys.data import toys
from gensys.data.sources import open_source, split
from gensys.noise import Noise, Stream

N = 40_000
NOISE = Noise(5, torch.arange(N))
by_name = pytest.mark.parametrize("name", toys.TOYS)


def points(name, noise=NOISE, stream=Stream.EPS):
    return toys.LAWS[name](noise, (2,), stream)


@by_name
def test_a_toy_is_a_source_of_vectors(name):
    source = open_source(name)
    assert (source.shape, source.classes, len(source), source.quarantine()) == ((2,), (), 50_000, {})
    batch = source.batch(torch.tensor([7, 49_999, 7]), Noise(3, torch.arange(3)))
    assert (batch.x.dtype, dict(batch.cond)) == (torch.float32, {})
    assert torch.equal(batch.x[0], batch.x[2])
    assert source.named(torch.tensor([7])) == [f"{name}:7"]
    train, test = split(source)
    assert 0.09 < len(test) / (len(train) + len(test)) < 0.11
    assert not np.isin(source.x[train[:500]], source.x[test]).all(1).any()


@by_name
def test_a_row_is_a_function_of_its_number(name):
    whole = torch.from_numpy(open_source(name).x)
    some = torch.tensor([31, 5, 40_001, 6, 31])
    law = toys.LAWS[name]
    assert torch.equal(law(Noise(toys._SEED, some), (2,), Stream.PRIOR), whole[some])
    assert not torch.equal(law(Noise(1, some), (2,), Stream.PRIOR), whole[some])


@by_name
def test_no_law_is_of_another_space(name):
    with pytest.raises(ValueError, match=r"'shape' must be \(2,\), a law of the plane gives points, got \(1, 8, 8\)"):
        toys.LAWS[name](NOISE, (1, 8, 8), Stream.EPS)


def test_eight_gaussians_are_eight_gaussians():
    x = points("8gaussians").double()
    centres = toys._centres()
    distance, mode = torch.cdist(x, centres).min(1)
    counts = torch.bincount(mode, minlength=8)
    assert ((counts - N / 8).abs() < 4 * (N * 7 / 64) ** 0.5).all()
    offset = (x - centres[mode]) / 0.1**0.25
    assert offset.mean(0).abs().max() < 4 / N**0.5
    assert (offset.T @ offset / N - torch.eye(2)).abs().max() < 4 * (2 / N) ** 0.5
    within = (distance < 0.1**0.25).double().mean().item()  # Rayleigh: 1 - exp(-1/2)
    assert within == pytest.approx(1 - math.exp(-0.5), abs=4 * 0.5 / N**0.5)
    for k in range(8):  # the offset knows nothing of the mode
        assert offset[mode == k].mean(0).abs().max() < 5 / (N / 8) ** 0.5


def test_the_density_of_eight_gaussians_is_one_and_has_their_entropy():
    grid = torch.linspace(-9, 9, 361, dtype=torch.float64)
    x = torch.cartesian_prod(grid, grid)
    log_p, cell = toys.log_eight_gaussians(x), 0.05**2
    assert (log_p.exp().sum() * cell).item() == pytest.approx(1.0, abs=1e-9)
    entropy = -(log_p.exp() * log_p).sum().item() * cell
    apart = math.log(8) + math.log(2 * math.pi * math.e * 0.1**0.5)  # of modes that do not overlap at all
    assert entropy == pytest.approx(apart, abs=3e-3)
    assert entropy < apart
    drawn = -toys.log_eight_gaussians(points("8gaussians").double())
    assert drawn.mean().item() == pytest.approx(entropy, abs=4 * float(drawn.std()) / N**0.5)


def test_moons_lie_on_two_half_circles():
    x = (points("moons").double() + 1) / 3
    upper, lower = (x.norm(dim=1) - 1).abs(), ((x - torch.tensor([1.0, 0.5])).norm(dim=1) - 1).abs()
    assert torch.minimum(upper, lower).square().mean().sqrt().item() < 0.2
    assert (x.mean(0) - torch.tensor([0.5, 0.25])).abs().max() < 4 * 0.9 / N**0.5
    # E cos^2 = 1/2; E sin = 2/pi: the variance of a half circle and of its mirror image about (1/2, 1/4)
    variance = torch.tensor([0.5 + 0.25 + 0.04, 0.5 - (2 / math.pi) / 2 + 1 / 16 + 0.04])
    assert (x.var(0) - variance).abs().max() < 0.02


def test_a_checkerboard_has_eight_even_squares():
    x = points("checkerboard").double()
    column, row = ((x + 4) / 2).floor().long().unbind(1)
    assert ((column >= 0) & (column < 4) & (row >= 0) & (row < 4)).all()
    assert ((column + row) % 2 == 0).all()
    counts = torch.bincount(4 * column + row, minlength=16)[[0, 2, 5, 7, 8, 10, 13, 15]]
    assert ((counts - N / 8).abs() < 4 * (N * 7 / 64) ** 0.5).all()
    inside = ((x + 4) / 2).frac()
    assert (inside.mean(0) - 0.5).abs().max() < 4 / (12 * N) ** 0.5
    assert (inside.var(0) - 1 / 12).abs().max() < 0.002


def test_points_of_the_grid_are_counted_where_they_are():
    counts = toys.count_grid_gaussians(points("25gaussians"))
    share = 1 - math.exp(-4.5)  # Rayleigh, within 3
    assert counts.sum().item() / N == pytest.approx(share, abs=4 * (share * (1 - share) / N) ** 0.5)
    assert ((counts - N * share / 25).abs() < 4 * (N * 24 / 625) ** 0.5).all()
    forgotten = points("25gaussians")
    forgotten = forgotten[(forgotten - torch.tensor([2.0, -4.0])).norm(dim=1) > 1]
    assert (toys.count_grid_gaussians(forgotten) == 0).nonzero()[:, 0].tolist() == [15]  # column 3, row 0
    near, far = torch.tensor([0.149, 0.0]), torch.tensor([0.151, 0.0])  # 0.15 = 3 standard deviations
    beyond = torch.tensor([9.0, 9.0])  # of no mode
    found = toys.count_grid_gaussians(torch.stack([near, far, beyond, near - torch.tensor([0.0, 4.0])]))
    assert {k: int(found[k]) for k in found.nonzero()[:, 0].tolist()} == {10: 1, 12: 1}


def test_spirals_are_two_arms_that_are_each_others_image():
    x = points("spirals")
    assert x.mean(0).abs().max() < 4 * 2 / N**0.5
    radius = x.norm(dim=1)
    assert 2.9 < radius.max() < 3.6
    assert radius.square().mean().item() == pytest.approx(9 / 2 + 0.02, abs=0.1)  # E of (3 sqrt u)^2, and the noise
    assert (x[:, 0] > 0).float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_streams_and_steps_are_of_their_own():
    a, b, c = points("moons"), points("moons", stream=Stream.INITIAL), points("moons", NOISE.at(1))
    for one, other in ((a, b), (a, c)):
        both = torch.corrcoef(torch.cat([one, other], 1).T)[:2, 2:]
        assert both.abs().max() < 5 / N**0.5
