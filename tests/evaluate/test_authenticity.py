"""Authenticity: copies, its expectation, and the definition in the plainest way."""

import math

import pytest
import torch

from gensys.evaluate import prdc as neighbours
from gensys.evaluate.authenticity import authenticity


def cloud(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(samples, train):
    found = []
    for x in samples:
        distances = (train - x).norm(dim=1)
        at = int(distances.argmin())
        others = (torch.cat([train[:at], train[at + 1 :]]) - train[at]).norm(dim=1)
        found.append(bool(others.min() < distances[at]))
    return found


def test_by_hand_on_a_line():
    train = torch.tensor([[0.0], [1.0], [5.0]])
    samples = torch.tensor([[-0.5], [-2.0], [5.0], [9.0], [9.5]])
    found = authenticity(samples, train)
    # to 0 and 1 another row is at 1, to 5 one is at 4; 9 is at 4 as well, and a tie is not authentic
    assert found.authentic.tolist() == [False, True, False, False, True]
    assert found.nearest.tolist() == [0, 0, 2, 2, 2]
    assert found.share == 0.4


def test_copies_and_near_copies_are_not_authentic_and_strangers_are():
    train = cloud(300, 8)
    assert authenticity(train, train).share == 0.0
    assert authenticity(train + 1e-3 * cloud(300, 8, 1), train).share == 0.0
    assert authenticity(cloud(100, 8, 1) + 50.0, train).share == 1.0


def test_a_copied_share_is_missing():
    train = cloud(500, 4)
    honest, mixed = cloud(400, 4, 1), torch.cat([cloud(400, 4, 1)[:200], train[:200]])
    assert authenticity(mixed, train).authentic[200:].sum() == 0
    assert torch.equal(authenticity(mixed, train).authentic[:200], authenticity(honest, train).authentic[:200])


@pytest.mark.parametrize(
    ("d", "reflexive"), [(1, 2 / 3), (2, 6 * math.pi / (8 * math.pi + 3 * 3**0.5))], ids=["a line", "a plane"]
)
def test_new_rows_are_authentic_where_neighbours_are_not_each_others(d, reflexive):
    """The share of a uniform law's rows that are the nearest neighbour of their nearest neighbour is known."""
    rows = torch.rand(12000, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
    share = authenticity(rows[:6000], rows[6000:]).share
    assert share == pytest.approx(1 - reflexive, abs=4 * (0.25 / 6000) ** 0.5)


@pytest.mark.parametrize("block", [100, 1 << 22])
@pytest.mark.parametrize("d", [1, 5, 40])
def test_equals_the_definition(d, block, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    samples, train = cloud(60, d, 1), cloud(80, d, 2)
    samples[:10] = train[:10]
    train[20:25] = train[0]
    assert authenticity(samples, train).authentic.tolist() == by_loops(samples, train)


@pytest.mark.parametrize(
    ("samples", "train", "match"),
    [
        (torch.zeros(0, 2), torch.zeros(5, 2), "'samples' needs at least 1 rows"),
        (torch.zeros(5, 2), torch.zeros(1, 2), "'train' needs at least 2 rows for a neighbour, got 1"),
        (torch.zeros(5, 2), torch.zeros(5, 3), "'train' must have 2 columns"),
        (torch.full((5, 2), torch.nan), torch.zeros(5, 2), "'samples' must be finite"),
    ],
)
def test_errors_name_the_argument(samples, train, match):
    with pytest.raises(ValueError, match=match):
        authenticity(samples, train)
