"""EQ-T and EQ-R: of signals whose translations and rotations are known in closed form."""

import math

import pytest
import torch

from gensys.evaluate.equivariance import (
    rotated,
    rotation_equivariance,
    rotations,
    translated,
    translation_equivariance,
    translations,
)
from gensys.noise import Noise

SIDE = 32
NOISE = Noise(3, torch.arange(64))


def waves(frequency):
    """A generator that moves exactly: one wave of random direction, moved by its phase."""
    place = (torch.arange(SIDE) + 0.5) / SIDE

    def generate(shift):
        x = place[None, None, :] - shift[:, 0, None, None]
        y = place[None, :, None] - shift[:, 1, None, None]
        return torch.sin(2 * math.pi * (frequency * x + 0.5 * frequency * y))[:, None]

    return generate


def test_translations():
    whole, free = translations(NOISE, SIDE), translations(NOISE, SIDE, whole=False)
    assert whole.shape == (64, 2)
    assert torch.equal(whole * SIDE, (whole * SIDE).round())
    assert 0.1 < float(free.abs().max()) <= 0.125
    assert not torch.equal(whole, free)


def test_whole_pixels_are_moved_exactly():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    moved, known = translated(x, torch.tensor([[0.25, 0.0], [-0.125, 0.5]]))
    assert torch.equal(moved[0, :, :, 2:], x[0, :, :, :-2])
    assert torch.equal(moved[1, :, 4:, :-1], x[1, :, :4, 1:])
    wanted = torch.zeros(2, 8, 8, dtype=torch.bool)
    wanted[0, :, 2:] = wanted[1, 4:, :-1] = True
    assert torch.equal(known, wanted)


def test_a_generator_that_moves_exactly():
    assert translation_equivariance(waves(3.0), translations(NOISE, SIDE)) > 100.0
    # between pixels the Lanczos filter's own error is seen: little at low frequencies
    assert translation_equivariance(waves(2.0), translations(NOISE, SIDE, whole=False)) > 40.0


def test_a_generator_that_stays_where_it_is():
    """(sin(a + d) - sin(a))^2 has the mean 1 - cos d over a, known for each shift."""
    still = waves(4.0)
    shift = translations(NOISE, SIDE)
    phase = 2 * math.pi * (4.0 * shift[:, 0] + 2.0 * shift[:, 1])
    wanted = 10 * math.log10(4.0 / float((1.0 - phase.cos()).mean()))
    found = translation_equivariance(lambda s: still(torch.zeros_like(s)), shift)
    assert found == pytest.approx(wanted, abs=0.3)  # the known pixels are not quite whole waves


def test_what_has_no_answer():
    with pytest.raises(ValueError, match="leave a part of the image"):
        translation_equivariance(waves(1.0), torch.full((1, 2), 1.5))
    with pytest.raises(ValueError, match="must return"):
        translation_equivariance(lambda shift: torch.zeros(2, 1, 8, 4), torch.zeros(2, 2))
    assert translation_equivariance(lambda shift: torch.zeros(2, 1, 8, 8), torch.zeros(2, 2)) == math.inf


def turning(frequency):
    """A generator that turns exactly: one wave about the centre."""
    place = (torch.arange(SIDE) + 0.5) / SIDE - 0.5

    def generate(turn):
        cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
        x, y = place[None, None, :], place[None, :, None]
        x, y = cos * x + sin * y, cos * y - sin * x
        return torch.sin(2 * math.pi * (frequency * x + 0.5 * frequency * y) + 0.3)[:, None]

    return generate


def test_quarter_turns_are_exact():
    torch.manual_seed(0)
    x = torch.randn(3, 2, 8, 8)
    turned, known = rotated(x, torch.tensor([0.0, math.pi / 2, math.pi]))
    assert bool(known.all())
    torch.testing.assert_close(turned[0], x[0])
    # from the axis to the right towards the one that points down: clockwise, as rows are counted downwards
    torch.testing.assert_close(turned[1], x[1].rot90(-1, (1, 2)))
    torch.testing.assert_close(turned[2], x[2].rot90(2, (1, 2)))


def test_the_corners_of_a_turned_image_are_not_known():
    _, known = rotated(torch.zeros(1, 1, 16, 16), torch.tensor([math.pi / 4]))
    assert not bool(known[0, 0, 0])
    assert bool(known[0, 6:10, 6:10].all())


def test_a_generator_that_turns_exactly():
    turn = rotations(NOISE)
    assert 0.0 <= float(turn.min()) < 0.3
    assert 6.0 < float(turn.max()) < 2 * math.pi
    assert rotation_equivariance(turning(2.0), turn) > 50.0
    assert rotation_equivariance(turning(3.0), torch.full((3,), math.pi / 2)) > 100.0


def test_a_generator_that_turns_the_other_way_or_not_at_all():
    turn, generate = rotations(NOISE), turning(3.0)
    assert rotation_equivariance(lambda by: generate(-by), turn) < 10.0
    assert rotation_equivariance(lambda by: generate(torch.zeros_like(by)), turn) < 10.0
    with pytest.raises(ValueError, match="must return"):
        rotation_equivariance(lambda by: torch.zeros(2, 1, 8, 4), torch.zeros(2))
