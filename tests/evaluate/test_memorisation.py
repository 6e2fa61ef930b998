"""Memorisation on synthetic images: the two numbers at their known values."""

import pytest
import torch

from gensys.evaluate import memorisation as module
from gensys.evaluate.memorisation import memorisation, nearest_distances


def images(n, seed):
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0


TRAIN, HELD = images(400, 0), images(1000, 1)


def test_distances_are_those_of_brute_force(monkeypatch):
    x = images(50, 2)
    wanted = torch.cdist(x.flatten(1).double(), TRAIN.flatten(1).double()).amin(1) / 6.0
    torch.testing.assert_close(nearest_distances(x, TRAIN), wanted, rtol=1e-12, atol=0.0)
    monkeypatch.setattr(module, "_BLOCK", 1200)  # three rows at a time
    torch.testing.assert_close(nearest_distances(x, TRAIN), wanted, rtol=1e-12, atol=0.0)


def test_a_copy_is_at_distance_zero_exactly_and_a_shade_at_its_depth():
    assert nearest_distances(TRAIN[:20], TRAIN).tolist() == [0.0] * 20
    shaded = nearest_distances(TRAIN[:20] + 1e-3, TRAIN)
    torch.testing.assert_close(shaded, torch.full((20,), 1e-3).double(), rtol=1e-3, atol=0.0)


def test_one_training_image_is_enough():
    assert nearest_distances(TRAIN[:2], TRAIN[:1])[0] == 0.0


def test_new_images_have_ratio_one_and_fraction_one_in_a_hundred():
    got = memorisation(images(2000, 3), TRAIN, HELD)
    assert got.ratio == pytest.approx(1.0, abs=0.02)
    assert got.fraction == pytest.approx(0.01, abs=0.01)


def test_copies_are_flagged():
    got = memorisation(TRAIN, TRAIN, HELD)
    assert (got.ratio, got.fraction) == (0.0, 1.0)
    mixed = memorisation(torch.cat([TRAIN[:300], images(700, 3)]), TRAIN, HELD)
    assert mixed.fraction == pytest.approx(0.307, abs=0.01)
    near = (TRAIN + 0.02 * images(400, 4)).clamp(-1, 1)
    assert memorisation(near, TRAIN, HELD).fraction == 1.0


@pytest.mark.parametrize(
    ("samples", "train", "held", "match"),
    [
        (TRAIN, TRAIN, HELD[:99], "'held_out' needs at least 100 rows"),
        (TRAIN, TRAIN, TRAIN, "'held_out' must not be in 'train', got 400 of 400"),
        (TRAIN[:, :, :5], TRAIN, HELD, "'samples' must hold images of shape"),
        (TRAIN * torch.nan, TRAIN, HELD, "'samples' must be finite"),
        (TRAIN, TRAIN, HELD[:, :, :5], "'held_out' must hold images of shape"),
        (TRAIN[:0], TRAIN, HELD, "'samples' needs at least 1 rows"),
        (TRAIN, TRAIN[:0], HELD, "'train' needs at least 1 rows"),
        (TRAIN, TRAIN * 128, HELD, r"'train' must lie in \[-1, 1\]"),
    ],
)
def test_errors_name_the_argument(samples, train, held, match):
    with pytest.raises(ValueError, match=match):
        memorisation(samples, train, held)
