"""Filters: what they let through, against scipy's design, and resampling against its definition."""

import math

import numpy as np
import pytest
import scipy.signal
import scipy.special
import torch

from gensys.nn.fir import BINOMIAL, RadialResample, Resample, kaiser_beta, lowpass, radial_lowpass

RATE = 64.0


def gain(taps, frequency):
    """|H| of symmetric taps at a frequency in the unit of RATE."""
    place = torch.arange(len(taps), dtype=torch.float64) - (len(taps) - 1) / 2
    return abs(float((taps * torch.cos(2 * math.pi * frequency / RATE * place)).sum()))


@pytest.mark.parametrize(("taps", "cutoff", "width"), [(12, 8.0, 12.0), (24, 5.0, 8.0), (33, 16.0, 4.0)])
def test_the_design_is_scipys(taps, cutoff, width):
    wanted = scipy.signal.firwin(taps, cutoff, width=width, fs=RATE)
    np.testing.assert_allclose(lowpass(taps, cutoff, width, RATE), wanted, atol=1e-14)
    attenuation = scipy.signal.kaiser_atten(taps, width / (RATE / 2))
    assert kaiser_beta(taps, width / (RATE / 2)) == pytest.approx(scipy.signal.kaiser_beta(attenuation), abs=1e-12)


def test_gains():
    """1 at rest, 1/2 at the cutoff, and beyond the transition band what Kaiser's formula promises."""
    taps, cutoff, width = 48, 10.0, 8.0
    kernel = lowpass(taps, cutoff, width, RATE)
    attenuation = 2.285 * (taps - 1) * math.pi * width / (RATE / 2) + 7.95
    assert gain(kernel, 0.0) == pytest.approx(1.0, abs=1e-12)
    assert gain(kernel, cutoff) == pytest.approx(0.5, abs=0.01)
    worst = max(gain(kernel, f) for f in np.linspace(cutoff + width / 2, RATE / 2, 200))
    assert 20 * math.log10(worst) < -attenuation + 2.0  # the formula is a fit, good to a decibel or two


def test_the_radial_filter_is_the_same_in_all_directions():
    kernel = radial_lowpass(32, 12.0, 8.0, RATE)
    place = torch.arange(32, dtype=torch.float64) - 15.5
    assert float(kernel.sum()) == pytest.approx(1.0, abs=1e-12)
    for frequency in (6.0, 12.0, 14.0):
        found = []
        for angle in (0.0, 0.4, math.pi / 4):
            x, y = frequency * math.cos(angle), frequency * math.sin(angle)
            wave = torch.cos(2 * math.pi / RATE * (x * place[None] + y * place[:, None]))
            found.append(float((kernel * wave).sum()))
        assert max(found) - min(found) < 0.01
    product = lowpass(32, 12.0, 8.0, RATE)  # a filter of products is not
    diagonal = gain(product, 12.0 / math.sqrt(2.0)) ** 2
    assert abs(diagonal - gain(product, 12.0)) > 0.2
    odd = radial_lowpass(31, 12.0, 8.0, RATE)
    assert bool(odd.isfinite().all())
    assert float(odd[15, 15]) == float(odd.max())


@pytest.mark.parametrize(
    ("up", "down", "padding"), [(1, 1, (2, 1)), (2, 1, (2, 1)), (1, 2, (1, 1)), (4, 2, (-3, 7)), (2, 3, (0, 5))]
)
def test_resampling_is_zeros_in_filter_and_decimation(up, down, padding):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    taps = lowpass(6, 9.0, 8.0, RATE).float()
    fine = torch.zeros(2, 3, 8 * up, 8 * up)
    fine[..., ::up, ::up] = x * up**2
    fine = torch.nn.functional.pad(fine, padding * 2)
    kernel = (taps[:, None] * taps[None]).expand(3, 1, 6, 6)
    wanted = torch.nn.functional.conv2d(fine, kernel, groups=3)[..., ::down, ::down]
    torch.testing.assert_close(Resample(8, taps, up=up, down=down, padding=padding)(x), wanted, atol=1e-5, rtol=0)
    if up == 1:
        radial = RadialResample(taps[:, None] * taps[None], down=down, padding=padding)
        torch.testing.assert_close(radial(x), wanted, atol=1e-5, rtol=0)


def test_doubling_keeps_a_constant():
    inner = Resample(8, BINOMIAL, up=2, padding=(2, 1))(torch.ones(1, 1, 8, 8))[..., 2:-2, 2:-2]
    torch.testing.assert_close(inner, torch.ones_like(inner))


def test_what_no_filter_is_made_of():
    for bad in ((1, 8.0, 4.0), (8, 32.0, 4.0), (8, 0.0, 4.0), (8, 8.0, 0.0)):
        with pytest.raises(ValueError, match="must"):
            lowpass(*bad, RATE)
    with pytest.raises(ValueError, match=r"'taps' .5. must fit"):
        Resample(4, torch.ones(5))
