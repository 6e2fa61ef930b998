"""Pictures of tensors."""

import pytest
import torch

from gensys.pictures import grid, pairs, to_uint8


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 11])
def test_every_image_is_above_its_reconstruction(n):
    x = torch.linspace(-1.0, 0.8, n).view(n, 1, 1, 1).expand(n, 1, 2, 2)
    both = pairs(x, x + 0.1, columns=4)
    rows = both.unflatten(0, (-1, 2, 4))
    assert rows.shape[0] == -(-n // 4)
    assert torch.equal(rows[:, 0].flatten(0, 1)[:n], x)
    assert torch.equal(rows[:, 1].flatten(0, 1)[:n], x + 0.1)
    assert (rows.transpose(0, 1).flatten(1, 2)[:, n:] == 1.0).all(), "the rest of the sheet is white"
    assert grid(to_uint8(both), columns=4).size == (4 * 3 + 1, 2 * rows.shape[0] * 3 + 1)
