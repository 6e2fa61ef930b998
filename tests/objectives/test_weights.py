"""Weights of the denoising loss, against the formulas of the papers, for every target on several paths."""

import pytest
import torch

from gensys import targets
from gensys.objectives.weights import EDMWeight, MinSNR, even, snr_plus_one, truncated_snr
from gensys.paths import EDM, VP, Coefs, Cosine, Discrete, Linear, SubVP, linear_schedule, zero_terminal_snr

PATHS = [Linear(), Cosine(), VP(), SubVP(), EDM(), Discrete(linear_schedule())]
TARGETS = [targets.data, targets.noise, targets.v, targets.velocity, targets.score, targets.EDM(0.4)]
per_path = pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
per_target = pytest.mark.parametrize("target", TARGETS, ids=lambda t: getattr(t, "__name__", "edm"))

# On the squared error of the data, as the papers have them; r = snr.
ON_DATA = {
    "min snr": (MinSNR(5.0), lambda r: r.clamp(max=5.0)),
    "snr + 1": (snr_plus_one, lambda r: r + 1),
    "truncated snr": (truncated_snr, lambda r: r.clamp(min=1.0)),
    "edm": (EDMWeight(0.4), lambda r: (1 / r + 0.16) / (0.16 / r)),  # (s^2 + d^2) / (s d)^2, s^2 = 1 / snr
}


def coefs(path, inner=1e-3):
    low, high = path.span
    return path(low + (high - low) * torch.linspace(inner, 1 - inner, 41, dtype=torch.float64))


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-10, atol=0)


@per_path
@per_target
@pytest.mark.parametrize("name", ON_DATA)
def test_the_weighted_error_of_the_output_is_that_of_the_data(path, target, name):
    """For an output that is off by one, the data that `recover` finds are off by so much."""
    weight, published = ON_DATA[name]
    c = coefs(path)
    one, zero = torch.ones_like(c.alpha), torch.zeros_like(c.alpha)
    off = (targets.recover(c, target, zero, one).x - targets.recover(c, target, zero, zero).x).square()
    close(weight(c, target), published((c.alpha / c.sigma) ** 2) * off)


@pytest.mark.parametrize("path", [Cosine(), VP(), Discrete(linear_schedule())], ids=lambda p: type(p).__name__)
def test_min_snr_as_published_for_other_outputs(path):
    """Hang et al., section 3.4 and their code: of a variance-preserving path."""
    c, weight = coefs(path), MinSNR(5.0)
    r = (c.alpha / c.sigma) ** 2
    close(weight(c, targets.data), r.clamp(max=5.0))
    close(weight(c, targets.noise), r.clamp(max=5.0) / r)
    close(weight(c, targets.v), r.clamp(max=5.0) / (r + 1))


def test_where_weights_are_even():
    for path in (Cosine(), VP()):
        c = coefs(path)
        close(snr_plus_one(c, targets.v), even(c, targets.v))
    for path in PATHS:
        c = coefs(path)
        for spread in (0.2, 0.5, 1.0):
            close(EDMWeight(spread)(c, targets.EDM(spread)), even(c, targets.noise))
    c = coefs(Linear())
    close(snr_plus_one(c, targets.velocity), c.alpha**2 + c.sigma**2)  # det = 1
    c = coefs(EDM())
    close(truncated_snr(c, targets.noise), (1 / c.sigma**2).clamp(min=1.0) * c.sigma**2)


AT_THE_DATA, AT_THE_NOISE = (Coefs(*torch.tensor([[a], [s], [0.0], [0.0]])) for a, s in ((1.0, 0.0), (0.0, 1.0)))


@pytest.mark.parametrize("name", ON_DATA)
def test_at_the_ends_of_a_path_weights_are_the_limits_or_an_error(name):
    """Never a NaN. The limits are taken from 1e-9 beside the end."""
    weight, _ = ON_DATA[name]
    beside = [Cosine()(torch.tensor([t], dtype=torch.float64)) for t in (1e-9, 1 - 1e-9)]
    for end, near, singular in (
        (AT_THE_DATA, beside[0], targets.data),
        (AT_THE_NOISE, beside[1], targets.noise),
    ):
        for target in (targets.data, targets.noise, targets.v):
            if target is singular:
                with pytest.raises(ValueError, match=rf"'target' {target.__name__} does not tell the data at alpha ="):
                    weight(end, target)
            else:
                got = weight(end, target).double()
                assert got.isfinite().all()
                torch.testing.assert_close(got, weight(near, target), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="does not tell the data at alpha = 1, sigma = 0"):
        weight(AT_THE_DATA, targets.EDM())


def test_a_schedule_that_ends_in_pure_noise():
    path = Discrete(zero_terminal_snr(linear_schedule(50)))
    c = path(torch.arange(1, 51) / 50)
    assert torch.equal(MinSNR()(c, targets.v)[-1:], torch.zeros(1))
    with pytest.raises(ValueError, match="'target' noise does not tell the data at alpha = 0, sigma = 1"):
        MinSNR()(c, targets.noise)


def test_elsewhere_than_on_a_cpu_it_is_infinite():
    """Whose values cannot be looked at without waiting: no error there, and no NaN. (meta has the same branch.)"""
    end = Coefs(*(value.to("meta") for value in AT_THE_NOISE))
    assert MinSNR()(end, targets.noise).shape == (1,)


def test_bad_settings():
    with pytest.raises(ValueError, match="'gamma' must be positive, got 0"):
        MinSNR(0.0)
    with pytest.raises(ValueError, match="'sigma_data' must be positive, got -1"):
        EDMWeight(-1.0)
