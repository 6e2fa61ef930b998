"""The resize rule: Pillow's, on floating-point values."""

import numpy as np
import pytest
import torch
from PIL import Image

from gensys.evaluate.resize import resized

SIZES = [
    ((32, 32), (224, 224)),
    ((256, 256), (64, 64)),
    ((300, 200), (224, 224)),
    ((28, 28), (64, 64)),
    ((500, 333), (299, 299)),
    ((100, 8), (3, 20)),
    ((64, 64), (1, 1)),
]


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_equals_pillow(before, after):
    values = np.random.default_rng(0).integers(0, 256, (2, *before)).astype(np.float32)
    size = (after[1], after[0])
    wanted = [np.asarray(Image.fromarray(v).resize(size, Image.Resampling.BICUBIC)).clip(0, 255) for v in values]
    got = (resized(torch.from_numpy(values)[:, None].double() / 127.5 - 1, *after).double() + 1) * 127.5
    np.testing.assert_allclose(got[:, 0].numpy(), np.stack(wanted), rtol=0, atol=4e-5)  # of 255: float32's own digits


def test_what_the_smaller_grid_cannot_hold_is_gone():
    """Stripes of one pixel are grey when shrunk; without the wider filter they would alias into broad ones."""
    stripes = (torch.arange(256) % 2 * 2.0 - 1.0).expand(1, 1, 256, 256)
    assert float(resized(stripes, 60, 60)[..., 2:-2].abs().max()) < 0.01
    aliased = torch.nn.functional.interpolate(stripes, size=(60, 60), mode="bicubic")
    assert float(aliased.abs().max()) > 0.5


def test_the_same_size_changes_nothing_and_a_constant_stays():
    x = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(resized(x, 20, 24), x)
    assert resized(x, 10, 40).shape == (2, 3, 10, 40)
    shade = torch.full((1, 1, 20, 20), 0.3)
    torch.testing.assert_close(resized(shade, 33, 7), torch.full((1, 1, 33, 7), 0.3))


def test_stays_in_the_range_of_images():
    edge = (torch.arange(16) < 8).float() * 2 - 1
    got = resized(edge.expand(1, 1, 16, 16), 50, 50)
    assert (float(got.min()), float(got.max())) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("images", "side", "match"),
    [
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 8, "'images' must be floating point"),
        (torch.full((1, 3, 4, 4), 9.0), 8, r"'images' must lie in \[-1, 1\]"),
        (torch.zeros(1, 3, 4, 4), 0, "'height' and 'width' must be at least 1, got 0 and 0"),
    ],
)
def test_errors_name_the_argument(images, side, match):
    with pytest.raises(ValueError, match=match):
        resized(images, side, side)
