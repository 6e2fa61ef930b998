"""Wavelets of a fixed bank: what they see, and what they are blind to."""

import math

import pytest
import torch

from gensys.nn.features import Wavelets

SIDE = 64
PLACE = torch.arange(SIDE) - (SIDE - 1) / 2


def wave(angle, length, phase=0.0):
    """A wave of some pixels' length across the whole image, (1, 1, side, side)."""
    down, right = torch.meshgrid(PLACE, PLACE, indexing="ij")
    along = right * math.cos(angle) + down * math.sin(angle)
    return torch.cos(2 * math.pi * along / length + phase)[None, None]


def strengths(maps, k):
    """What the four channels of each direction see in the k-th map of the first image, away from its border."""
    inside = maps[k][0, :, 2:-2, 2:-2].mean((1, 2))
    return inside.view(2, 4, 2).sum((0, 2))  # signs, directions, parts


@pytest.mark.parametrize("k", range(4))
def test_every_channel_sees_waves_of_its_own_direction(k):
    maps = Wavelets(1)(wave(math.pi * k / 4, 8 / 3))
    assert [tuple(m.shape) for m in maps] == [(1, 16, 16, 16), (1, 16, 8, 8), (1, 16, 4, 4)]
    inside = strengths(maps, 0)
    assert inside.argmax() == k
    assert inside[k] > 3 * inside[(k + 2) % 4]  # at right angles


@pytest.mark.parametrize("octave", range(2))
def test_every_resolution_sees_waves_twice_as_long(octave):
    maps = Wavelets(1)(wave(0.0, 8 / 3 * 2**octave))
    found = [float(strengths(maps, k)[0]) for k in range(2)]
    assert found[octave] > 1.5 * found[1 - octave]


def test_a_wave_is_the_same_wherever_it_begins():
    maps = [Wavelets(1)(wave(0.4, 8 / 3, phase))[0][..., 2:-2, 2:-2] for phase in (0.0, 1.0, 2.0)]
    for other in maps[1:]:
        assert (other - maps[0]).abs().mean() < 0.25 * maps[0].mean()  # of the pixels by 0.75 to 1.3 times


def test_a_dark_stroke_is_no_bright_one_and_a_constant_is_not_seen():
    x = torch.randn(2, 3, 20, 14)
    features = Wavelets(3)
    for a, b, c in zip(features(x), features(-x), features(x + 0.7), strict=True):
        half = a.shape[1] // 2
        torch.testing.assert_close(b, torch.cat([a[:, half:], a[:, :half]], 1))
        assert (b - a).abs().max() > 0.1 * a.max()
        torch.testing.assert_close(c, a, rtol=1e-3, atol=1e-3)
    assert [tuple(m.shape[1:]) for m in features(x)] == [(48, 5, 4), (48, 3, 2), (48, 2, 1)]
    for flat in features(torch.full((1, 3, 16, 16), 0.4)):
        torch.testing.assert_close(flat, torch.zeros_like(flat), rtol=0, atol=1e-5)  # the border is no contour


def test_a_channel_of_the_image_is_by_itself_and_nothing_is_state():
    x = torch.randn(2, 3, 16, 16)
    for all_three, middle in zip(Wavelets(3)(x), Wavelets(1)(x[:, 1:2]), strict=True):
        torch.testing.assert_close(all_three.view(2, 2, 3, 8, *middle.shape[2:])[:, :, 1].flatten(1, 2), middle)
    assert not Wavelets(1).state_dict()
    with pytest.raises(ValueError, match="'channels' and 'angles' must be at least 1"):
        Wavelets(1, 0)
