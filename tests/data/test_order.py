from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gensys.data.order import rows


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000, 4097])
def test_every_epoch_visits_every_row_once(n):
    batch = min(n, 7) if n < 100 else 64
    visited = torch.cat([rows(5, step, batch, n) for step in range(-(-3 * n // batch))])
    for epoch in range(3):
        assert sorted(visited[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))


@given(seed=st.integers(0, 2**64 - 1), step=st.integers(0, 2**40), batch=st.integers(1, 70), n=st.integers(1, 2**56))
def test_a_row_depends_on_its_position_alone(seed, step, batch, n):
    """Any batch size, so any number of workers, sees the same sequence."""
    whole = rows(seed, step, batch, n)
    single = torch.cat([rows(seed, step * batch + slot, 1, n) for slot in range(batch)])
    assert whole.dtype == torch.int64
    assert torch.equal(whole, single)
    assert 0 <= int(whole.min()) <= int(whole.max()) < n


def test_epochs_and_seeds_differ():
    n = 1000
    orders = {tuple(rows(seed, epoch, n, n).tolist()) for seed in (0, 1, 2**40) for epoch in (0, 1, 2)}
    assert len(orders) == 9


def test_small_permutations_are_uniform():
    """Chi-square over the 24 orders of four rows: 23 degrees of freedom, 1 - 1e-4 quantile about 58."""
    seen = Counter(tuple(rows(1, epoch, 4, 4).tolist()) for epoch in range(4800))
    assert len(seen) == 24
    assert sum((count - 200) ** 2 / 200 for count in seen.values()) < 58


def test_order_has_no_trace_of_the_index():
    n = 4097
    order = rows(3, 0, n, n).double()
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.06  # four standard deviations
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 0.06


def test_positions_past_63_bits():
    assert rows(0, 2**60, 2**10, 7).shape == (2**10,)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((-1, 0, 1, 1), "seed"), ((0, -1, 1, 1), "step"), ((0, 0, 0, 1), "batch"), ((0, 0, 1, 0), "n")],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=f"'{name}' must lie in"):
        rows(*arguments)
