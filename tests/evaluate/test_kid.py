"""The kernel distance: its expectation, its sums by hand, and torch-fidelity on the same subsets."""

import numpy as np
import pytest
import torch

from gensys.evaluate.kid import kernel_distance, squared_mmd, subset_rows


def cloud(n, d, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_by_hand():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [0.0]])
    # k(x, x') = 1, k(y, y') = 1; k(x, y): 0.2 -> 1, 0.0 -> 1, 1.2 -> 27, 1.0 -> 1
    assert squared_mmd(x, y) == 2 * 1 / 2 + 2 * 1 / 2 - 2 * 30 / 4


def test_equals_the_sums_of_the_formula_term_by_term():
    x, y = cloud(9, 4), cloud(9, 4, 1, 0.3)
    total = 0.0
    for i in range(9):
        for j in range(9):
            cross = ((x[i] @ y[j]) / 4 + 1) ** 3
            total -= 2 * float(cross) / 81
            if i != j:
                total += float(((x[i] @ x[j]) / 4 + 1) ** 3 + ((y[i] @ y[j]) / 4 + 1) ** 3) / 72
    assert squared_mmd(x, y) == pytest.approx(total, rel=1e-12)


def test_of_a_shift_expects_its_polynomial():
    """One dimension, y = x + c with x normal: MMD^2 = sum over powers p of C(3, p) (E x^p - E y^p)^2."""
    c = 0.8
    wanted = 3 * c**2 + 3 * (c**2) ** 2 + (c**3 + 3 * c) ** 2  # moments 0, 1, 0 against c, 1 + c^2, c^3 + 3c
    values = [squared_mmd(cloud(500, 1, 2 * s), cloud(500, 1, 2 * s + 1, c)) for s in range(40)]
    assert np.mean(values) == pytest.approx(wanted, abs=4 * np.std(values) / 40**0.5)
    assert np.std(values) / 40**0.5 < wanted / 10


def test_of_equal_distributions_is_zero_within_its_error_and_sometimes_below():
    values = [squared_mmd(cloud(100, 8, 2 * s), cloud(100, 8, 2 * s + 1)) for s in range(100)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 10  # the biased estimate has a mean of 15 of these
    assert min(values) < 0.0 < max(values)
    found = kernel_distance(cloud(2000, 8), cloud(2000, 8, 1), subsets=20, size=100)
    assert found.spread is not None
    assert abs(found.mean) < found.spread


def test_subsets_are_a_function_of_seed_and_number_without_replacement():
    rows = subset_rows(50, 20, 3, 4, 0)
    assert len(set(rows.tolist())) == 20
    assert torch.equal(rows, subset_rows(50, 20, 3, 4, 0))
    for other in (subset_rows(50, 20, 2, 4, 0), subset_rows(50, 20, 3, 5, 0), subset_rows(50, 20, 3, 4, 1)):
        assert not torch.equal(rows, other)
    assert sorted(subset_rows(50, 50, 0, 0, 0).tolist()) == list(range(50))
    torch.manual_seed(1)
    first = kernel_distance(cloud(50, 3), cloud(60, 3, 1), subsets=3, size=20)
    torch.manual_seed(2)
    assert torch.equal(first.values, kernel_distance(cloud(50, 3), cloud(60, 3, 1), subsets=3, size=20).values)


def test_every_row_is_as_likely_as_any_other():
    counts = torch.zeros(40)
    for subset in range(2000):
        counts[subset_rows(40, 10, 0, subset, 1)] += 1
    assert float((counts - 500).abs().max()) < 4 * (2000 * 0.25 * 0.75) ** 0.5


def test_size_is_capped_and_all_rows_are_one_subset():
    found = kernel_distance(cloud(40, 3), cloud(60, 3, 1), subsets=5)
    assert (found.size, found.subsets) == (40, 5)
    whole = kernel_distance(cloud(40, 3), cloud(40, 3, 1))
    assert (whole.size, whole.subsets, whole.spread) == (40, 1, None)
    assert whole.mean == pytest.approx(squared_mmd(cloud(40, 3), cloud(40, 3, 1)), rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_equals_torch_fidelity_on_the_same_subsets(fidelity, shift, monkeypatch):
    kid = fidelity("metric_kid")
    x, y = cloud(300, 64).relu(), (cloud(250, 64, 1) + shift).relu()
    ours = kernel_distance(x, y, subsets=7, size=100)
    draws = iter([subset_rows(n, 100, 0x6B_69_64, s, w).numpy() for s in range(7) for w, n in ((0, 300), (1, 250))])

    class Rows:
        def __init__(self, seed):
            pass

        def choice(self, n, size, replace):
            return next(draws)

    monkeypatch.setattr(kid.np.random, "RandomState", Rows)
    theirs = kid.kid_features_to_metric(x, y, kid_subsets=7, kid_subset_size=100, verbose=False)
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert ours.spread == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-9)


@pytest.mark.parametrize(
    ("samples", "reference", "settings", "match"),
    [
        (torch.zeros(1, 2), torch.zeros(9, 2), {}, "'samples' needs at least 2 rows for pairs"),
        (torch.zeros(9, 2), torch.zeros(9, 3), {}, "'reference' must have 2 columns"),
        (torch.zeros(9, 2), torch.full((9, 2), torch.nan), {}, "'reference' must be finite"),
        (torch.zeros(9, 2), torch.zeros(9, 2), {"size": 1}, "'size' at least 2, got 100 and 1"),
        (torch.zeros(9, 2), torch.zeros(9, 2), {"subsets": 0}, "'subsets' must be at least 1"),
    ],
)
def test_errors_name_the_argument(samples, reference, settings, match):
    with pytest.raises(ValueError, match=match):
        kernel_distance(samples, reference, **settings)


def test_the_estimate_asks_for_as_many_of_both():
    with pytest.raises(ValueError, match="'y' must have 5 rows as 'x' has, got 6"):
        squared_mmd(torch.zeros(5, 2), torch.zeros(6, 2))
