"""Precision, recall, density and coverage: identities, and the authors' package as the oracle."""

import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensys.evaluate import prdc as module
from gensys.evaluate.prdc import neighbour_radii, prdc

FOUR = ("precision", "recall", "density", "coverage")


def cloud(n, d, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_set_against_itself_is_perfect(k):
    x = cloud(60, 4)
    got = prdc(x, x, k)
    # A row is in its own ball and in that of each row that counts it among its k - 1 nearest: k balls on average.
    assert (got.precision, got.recall, got.coverage) == (1.0, 1.0, 1.0)
    assert got.density == pytest.approx(1.0, abs=1e-15)


def test_sets_far_apart_share_nothing():
    got = prdc(cloud(50, 4), cloud(70, 4, 1, shift=100.0))
    assert [getattr(got, name) for name in FOUR] == [0.0] * 4


def test_one_mode_of_two_has_precision_but_half_of_the_recall():
    modes = torch.cat([cloud(200, 3, 1), cloud(200, 3, 2, shift=50.0)])
    got = prdc(cloud(400, 3, 3), modes)
    assert got.precision > 0.9
    assert 0.4 < got.recall <= 0.5
    assert 0.4 < got.coverage <= 0.5


def test_swapping_the_sets_swaps_precision_and_recall():
    x, y = cloud(80, 3), cloud(90, 3, 1, shift=0.7)
    assert prdc(x, y).precision == prdc(y, x).recall
    assert prdc(x, y).recall == prdc(y, x).precision


def test_density_expects_one_on_samples_of_the_same_law():
    values = [prdc(cloud(400, 8, 2 * seed), cloud(400, 8, 2 * seed + 1)).density for seed in range(5)]
    assert sum(values) / 5 == pytest.approx(1.0, abs=0.05)


def test_rotation_shift_and_scale_change_nothing():
    x, y = cloud(100, 5), cloud(100, 5, 1, shift=0.5)
    turn = torch.linalg.qr(cloud(5, 5, 9)).Q
    before, after = prdc(x, y), prdc(3.0 * x @ turn + 7.0, 3.0 * y @ turn + 7.0)
    assert [getattr(before, name) for name in FOUR] == [getattr(after, name) for name in FOUR]


def test_by_hand_on_a_line():
    real, fake = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.5], [10.0]])
    assert neighbour_radii(real, 1).tolist() == [1.0, 1.0, 2.0]
    got = prdc(fake, real, 1)  # balls (-1, 1), (0, 2), (1, 5): 0.5 is in two of them; the fake balls have radius 9.5
    assert (got.precision, got.recall, got.density, got.coverage) == (0.5, 1.0, 1.0, 2 / 3)
    assert got.balls.tolist() == [2.0, 0.0]


def test_a_point_on_the_sphere_is_outside():
    real = torch.tensor([[0.0], [1.0], [2.0]])
    assert prdc(torch.tensor([[-1.0], [3.0]]), real, 1).precision == 0.0


@pytest.mark.parametrize("block", [1, 50, 333])
def test_blocks_change_no_bit(monkeypatch, block):
    x, y = cloud(70, 4), cloud(50, 4, 1, shift=0.4)
    whole = prdc(x, y)
    monkeypatch.setattr(module, "_BLOCK", block)
    part = prdc(x, y)
    assert [getattr(part, name) for name in FOUR] == [getattr(whole, name) for name in FOUR]
    assert torch.equal(part.balls, whole.balls)


@pytest.mark.skipif(importlib.util.find_spec("prdc") is None, reason="needs the package prdc: pip install prdc")
@settings(deadline=None, max_examples=12, derandomize=True)
@given(
    n=st.integers(12, 150),
    m=st.integers(12, 150),
    d=st.integers(1, 20),
    k=st.integers(1, 9),
    shift=st.floats(0, 2),
    seed=st.integers(0, 99),
)
def test_equals_the_authors_package(n, m, d, k, shift, seed):
    from prdc import compute_prdc

    fake, real = cloud(n, d, seed, shift), cloud(m, d, seed + 1000)
    wanted = compute_prdc(real.numpy(), fake.numpy(), k)
    got = prdc(fake, real, k)
    for name in FOUR:
        assert getattr(got, name) == pytest.approx(float(wanted[name]), abs=1e-12), name


@pytest.mark.parametrize(
    ("samples", "reference", "k", "match"),
    [
        (torch.zeros(5, 2), torch.zeros(9, 2), 5, "'samples' needs at least 6 rows for balls of 5 neighbours, got 5"),
        (torch.zeros(9, 2), torch.zeros(0, 2), 5, "'reference' needs at least 6 rows"),
        (torch.zeros(9, 2), torch.zeros(9, 3), 5, "'reference' must have 2 columns"),
        (torch.full((9, 2), torch.nan), torch.zeros(9, 2), 5, "'samples' must be finite.* 9 of 9"),
        (torch.zeros(9, 2), torch.zeros(9, 2), 0, "'k' must be at least 1"),
    ],
)
def test_errors_name_the_argument(samples, reference, k, match):
    with pytest.raises(ValueError, match=match):
        prdc(samples, reference, k)


def test_radii_ask_for_a_k():
    with pytest.raises(ValueError, match="'k' must be at least 1"):
        neighbour_radii(torch.zeros(9, 2), 0)


def by_differences(samples, reference, k):
    """The definition, in the plainest way."""
    fake, real = samples.double(), reference.double()

    def distances(a, b):
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")

    real_radii, fake_radii = (distances(x, x).kthvalue(k + 1, dim=1).values for x in (real, fake))
    cross = distances(real, fake)
    balls = (cross < real_radii[:, None]).double().sum(0)
    covered = (cross < real_radii[:, None]).any(1)
    recalled = (cross < fake_radii).any(1)
    parts = (balls > 0, recalled, balls / k, covered)
    return [float(part.double().mean()) for part in parts], balls / k


HARD = {
    "integers, full of ties": lambda n, seed: cloud(n, 3, seed).mul(2).round(),
    "each row four times": lambda n, seed: cloud((n + 3) // 4, 6, seed).repeat(4, 1)[:n],
    "half of them one row": lambda n, seed: torch.cat([torch.ones(n // 2, 5).double(), cloud(n - n // 2, 5, seed)]),
    "far from the origin": lambda n, seed: cloud(n, 6, seed) * 1e-3 + 1e6,
    "with an outlier": lambda n, seed: torch.cat([cloud(n - 1, 6, seed), torch.full((1, 6), 1e8).double()]),
    "large": lambda n, seed: cloud(n, 4, seed) * 1e150,
    "small": lambda n, seed: cloud(n, 4, seed) * 1e-150,
}


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("kind", HARD)
def test_the_search_never_decides_what_its_rounding_leaves_open(kind, precision, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 3000)
    fake, real = HARD[kind](120, 1), HARD[kind](150, 2)
    real[:20] = fake[:20]  # at distance zero
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        got = prdc(fake, real, 3)
    finally:
        torch.set_float32_matmul_precision(before)
    wanted, balls = by_differences(fake, real, 3)
    assert [getattr(got, name) for name in FOUR] == pytest.approx(wanted, rel=1e-14)
    assert torch.equal(got.balls, balls)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_equal_torch_fidelity(fidelity, k):
    """Its balls are closed (<=), which differs only where a distance is a radius; what is generated comes first."""
    fake, real = cloud(200, 8, 1, 0.3), cloud(230, 8, 2)
    theirs = fidelity("metric_prc").calculate_precision_recall_full(fake, real, neighborhood=k)
    got = prdc(fake, real, k)
    assert (got.precision, got.recall) == pytest.approx(theirs, rel=1e-6)  # theirs are means in float32
    assert got.precision != got.recall
