"""Paths, targets and their inversion against closed forms, in float64."""

import math

import pytest
import torch

from gensys import targets
from gensys.paths import (
    EDM as EDMPath,
)
from gensys.paths import (
    VE,
    VP,
    Cosine,
    Discrete,
    Linear,
    SubVP,
    at_ratio,
    cosine_schedule,
    expand,
    linear_schedule,
    scaled_linear_schedule,
    zero_terminal_snr,
)
from gensys.targets import EDM, recover, require_well_posed

PATHS = [Linear(), Cosine()]
TARGETS = [targets.data, targets.noise, targets.velocity, targets.v, targets.score, EDM(0.5), EDM(1.3)]


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_a_path_runs_from_data_to_noise(path):
    start, end = path(path.span[0]), path(path.span[1])
    assert (start.alpha, start.sigma) == pytest.approx((1.0, 0.0))
    assert (end.alpha, end.sigma) == pytest.approx((0.0, 1.0))


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_derivatives_are_those_of_the_coefficients(path):
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64, requires_grad=True)
    c = path(t)
    for value, derivative in ((c.alpha, c.d_alpha), (c.sigma, c.d_sigma)):
        (numeric,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(derivative, numeric, rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_floats_and_tensors_agree(path):
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    for k, value in enumerate(t.tolist()):
        assert [float(c[k]) for c in path(t)] == pytest.approx(list(path(value)), abs=1e-15)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: getattr(t, "__name__", repr(t)))
def test_recover_inverts_every_target(path, target):
    torch.manual_seed(0)
    x, eps = torch.randn(2, 7, 5, dtype=torch.float64)
    for t in (0.05, 0.3, 0.5, 0.9):
        c = path(t)
        a, b = target(c)
        p = recover(c, target, c.alpha * x + c.sigma * eps, a * x + b * eps)
        torch.testing.assert_close(p.x, x, rtol=0, atol=1e-12)
        torch.testing.assert_close(p.eps, eps, rtol=0, atol=1e-12)


def test_edm_on_its_own_path_is_the_published_denoiser():
    """Karras et al., 2022, table 1: D(x) = c_skip x + c_out F, at alpha = 1."""
    sigma, sigma_data = 1.7, 0.5
    x_t, output = torch.randn(2, 100, dtype=torch.float64)
    c = targets.Coefs(1.0, sigma, 0.0, 1.0)
    c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    c_out = sigma * sigma_data / math.sqrt(sigma**2 + sigma_data**2)
    got = recover(c, EDM(sigma_data), x_t, output).x
    torch.testing.assert_close(got, c_skip * x_t + c_out * output, rtol=0, atol=1e-13)


def test_a_singular_pair_is_refused_and_a_regular_one_is_not():
    with pytest.raises(ValueError, match=r"'target' noise cannot be inverted on Linear.*velocity"):
        require_well_posed(Linear(), targets.noise, [1.0, 0.5])
    with pytest.raises(ValueError, match="'target' data"):
        require_well_posed(Linear(), targets.data, [1.0, 0.0])
    require_well_posed(Linear(), targets.noise, [0.99, 0.5])
    for path in PATHS:
        require_well_posed(path, targets.velocity, [1.0, 0.5, 0.0])
        require_well_posed(path, targets.v, [1.0, 0.5, 0.0])


def test_expand_broadcasts_rows():
    assert expand(torch.arange(3), torch.zeros(3, 2, 4, 4)).shape == (3, 1, 1, 1)
