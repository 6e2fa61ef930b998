"""Pictures of tensors."""

import pytest
import torch

from gensys.pictures import beneath, grid


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("count", [2, 3])
def test_every_image_is_above_what_was_made_of_it(n, count):
    x = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, 2, 2)
    sets = [x + 20 * k for k in range(count)]
    sheet = beneath(sets, columns=4)
    rows = sheet.unflatten(0, (-1, count, 4))
    assert rows.shape[0] == -(-n // 4)
    for k, images in enumerate(sets):
        assert torch.equal(rows[:, k].flatten(0, 1)[:n], images)
    assert (rows.transpose(0, 1).flatten(1, 2)[:, n:] == 255).all(), "the rest of the sheet is white"
    assert grid(sheet, columns=4).size == (4 * 3 + 1, count * rows.shape[0] * 3 + 1)
