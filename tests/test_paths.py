"""Paths, targets and their inversion against closed forms, in float64. A new path is tested by adding it to PATHS."""

import math
from itertools import pairwise

import pytest
import torch

from gensys import paths, targets
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

WHOLE = [Linear(), Cosine(), Discrete(cosine_schedule(10)), Discrete(zero_terminal_snr(linear_schedule()))]
PATHS = [*WHOLE[:3], VP(), VP(0.2, 12.0), SubVP(), VE(), paths.EDM(), Discrete(linear_schedule()), WHOLE[3]]
TARGETS = [targets.data, targets.noise, targets.velocity, targets.v, targets.score, EDM(0.5), EDM(1.3)]
SCHEDULES = {"linear": linear_schedule, "scaled_linear": scaled_linear_schedule, "squaredcos_cap_v2": cosine_schedule}
per_path = pytest.mark.parametrize("path", PATHS, ids=repr)


def inside(path, n=19):
    """Times within the span, none of them at a step of a schedule, where a derivative jumps."""
    low, high = path.span
    return low + (high - low) * torch.linspace(0.0503, 0.9507, n, dtype=torch.float64)


@per_path
def test_a_path_starts_at_the_data(path):
    start = path(path.span[0])
    assert start[:2] == (1.0, 0.0)
    assert [float(c) for c in path(torch.zeros((), dtype=torch.float64))[:2]] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("path", "alpha", "sigma"),
    [
        (Linear(), 0.0, 1.0),
        (Cosine(), 0.0, 1.0),
        (WHOLE[3], 0.0, 1.0),
        (VP(), math.exp(-5.025), math.sqrt(1 - math.exp(-10.05))),
        (SubVP(), math.exp(-5.025), 1 - math.exp(-10.05)),
        (VE(), 1.0, math.sqrt(50.0**2 - 0.01**2)),
        (paths.EDM(), 1.0, 80.0),
        (Discrete(linear_schedule()), math.sqrt(linear_schedule()[-1]), math.sqrt(1 - linear_schedule()[-1])),
    ],
    ids=repr,
)
def test_a_path_ends_where_it_should(path, alpha, sigma):
    for t in (path.span[1], torch.tensor(path.span[1], dtype=torch.float64)):
        assert [float(c) for c in path(t)[:2]] == pytest.approx([alpha, sigma], rel=1e-13, abs=0)  # a 0 is exact


@per_path
def test_derivatives_are_those_of_the_coefficients(path):
    t = inside(path).requires_grad_()
    c = path(t)
    for value, derivative in ((c.alpha, c.d_alpha), (c.sigma, c.d_sigma)):
        numeric = torch.zeros_like(t)
        if value.requires_grad:
            (numeric,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(derivative, numeric, rtol=1e-11, atol=1e-12)


@per_path
def test_floats_and_tensors_agree(path):
    low, high = path.span
    t = torch.cat([inside(path), torch.tensor([low, high, low + 0.3 * (high - low)], dtype=torch.float64)])
    for k, value in enumerate(t.tolist()):
        one = path(value)
        assert all(isinstance(c, float) for c in one)
        assert [float(c[k]) for c in path(t)] == pytest.approx(list(one), rel=1e-13, abs=1e-15)
    assert all(c.dtype == torch.float32 and c.shape == t.shape for c in path(t.float()))


@per_path
def test_the_ratio_of_noise_to_data_is_inverted(path):
    t = inside(path)
    c = path(t)
    torch.testing.assert_close(at_ratio(path, c.sigma / c.alpha), t, rtol=1e-11, atol=0)
    assert at_ratio(path, float((c.sigma / c.alpha)[3])) == pytest.approx(float(t[3]), rel=1e-11)
    assert at_ratio(path, 0.0) == pytest.approx(path.span[0], abs=1e-15)
    assert at_ratio(path, math.inf) == pytest.approx(path.span[1], rel=1e-15)


@pytest.mark.parametrize("path", [VP(), SubVP(), VE()], ids=repr)
def test_an_sde_has_these_marginals(path):
    """x' = f x in the mean, and v' = 2 f v + g^2 in the variance, integrated by themselves; f and g as published."""
    beta = lambda t: 0.1 + 19.9 * t  # noqa: E731
    fall = lambda t: math.exp(-2 * (0.1 * t + 9.95 * t * t))  # noqa: E731 - exp(-2 B)
    f, g2 = {
        VP: (lambda t: -beta(t) / 2, beta),
        SubVP: (lambda t: -beta(t) / 2, lambda t: beta(t) * (1 - fall(t))),
        VE: (lambda t: 0.0, lambda t: 2 * math.log(5000) * (0.01 * 5000**t) ** 2),
    }[type(path)]

    def rates(t, alpha, v):
        return f(t) * alpha, 2 * f(t) * v + g2(t)

    alpha, v, n = 1.0, 0.0, 4000
    for k in range(n):  # the classical Runge-Kutta method
        t, h = k / n, 1 / n
        a = rates(t, alpha, v)
        b = rates(t + h / 2, alpha + h / 2 * a[0], v + h / 2 * a[1])
        c = rates(t + h / 2, alpha + h / 2 * b[0], v + h / 2 * b[1])
        d = rates(t + h, alpha + h * c[0], v + h * c[1])
        alpha += h / 6 * (a[0] + 2 * b[0] + 2 * c[0] + d[0])
        v += h / 6 * (a[1] + 2 * b[1] + 2 * c[1] + d[1])
        if (k + 1) % 1000 == 0:
            got = path((k + 1) / n)
            assert (got.alpha, got.sigma**2) == pytest.approx((alpha, v), rel=1e-10)


def test_schedules_are_the_published_ones():
    kept, roots = 1.0, 1.0
    for k, (linear, scaled) in enumerate(zip(linear_schedule(), scaled_linear_schedule(), strict=True)):
        kept *= 1 - (1e-4 + (0.02 - 1e-4) * k / 999)
        roots *= 1 - (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * k / 999) ** 2
        assert (linear, scaled) == pytest.approx((kept, roots), rel=1e-10)
    f = [math.cos((k / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(1001)]
    cosine = (1.0, *cosine_schedule())
    assert cosine[1:990] == pytest.approx([b / f[0] for b in f[1:990]], rel=1e-10)
    assert all(1 - b / a <= 0.999 + 1e-12 for a, b in pairwise(cosine))
    assert cosine[-1] == pytest.approx(cosine[-2] * 0.001, rel=1e-9), "the last beta is capped"
    assert linear_schedule(250)[-1] == pytest.approx(linear_schedule()[-1], rel=0.25)


def test_a_schedule_that_ends_at_pure_noise():
    """Lin et al., algorithm 1: the first step stays, the last is 0, the square roots between are an affine map."""
    old, new = linear_schedule(), zero_terminal_snr(linear_schedule())
    assert new[0] == pytest.approx(old[0], rel=1e-14)
    assert new[-1] == 0.0
    slopes = [(new[k] ** 0.5 - new[-1] ** 0.5) / (old[k] ** 0.5 - old[-1] ** 0.5) for k in (0, 10, 500, 998)]
    assert slopes == pytest.approx(slopes[:1] * 4, rel=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("rescaled", [False, True])
def test_diffusers_has_the_same_schedules(name, rescaled):
    diffusers = pytest.importorskip("diffusers")
    first, last = (0.00085, 0.012) if name == "scaled_linear" else (1e-4, 0.02)
    theirs = diffusers.DDIMScheduler(
        beta_schedule=name, beta_start=first, beta_end=last, rescale_betas_zero_snr=rescaled
    ).alphas_cumprod
    ours = SCHEDULES[name]()
    ours = zero_terminal_snr(ours) if rescaled else ours
    torch.testing.assert_close(torch.tensor(ours), theirs, rtol=1e-4, atol=1e-6)  # theirs are products in float32


def test_a_discrete_path_passes_through_its_schedule():
    schedule = scaled_linear_schedule()
    path = Discrete(schedule)
    for k in range(1, 1001):
        assert path(k / 1000).alpha ** 2 == pytest.approx(schedule[k - 1], rel=1e-12)
    t = torch.rand(1000, dtype=torch.float64)
    c = path(t)
    torch.testing.assert_close(c.alpha**2 + c.sigma**2, torch.ones_like(t), rtol=0, atol=1e-14)
    assert repr(path) == "Discrete(1000 steps, alpha_bar 0.99915 to 0.0046601)"


def test_a_step_of_a_discrete_path_has_its_derivatives_in_float32_too():
    """A float32 k / T may lie on either side of k: what is trained must be what solvers, in float64, take it for."""
    path, steps = Discrete(linear_schedule(1000)), torch.arange(1, 1001)
    wanted = path(steps.double() / 1000)
    for got, exact in zip(path(steps.float() / 1000), wanted, strict=True):
        torch.testing.assert_close(got.double(), exact, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("bars", [(), (0.9, 0.9), (1.0, 0.5), (0.5, -0.1), (0.5, math.nan)])
def test_bad_schedules_are_refused(bars):
    with pytest.raises(ValueError, match="'alpha_bar' must"):
        Discrete(bars)


def test_bad_betas_are_refused():
    with pytest.raises(ValueError, match=r"'first' and 'last' must give betas in \(0, 1\), got 0.005 to 1"):
        linear_schedule(20)
    with pytest.raises(ValueError, match="'steps' must be at least 1, got 0"):
        linear_schedule(0)
    with pytest.raises(ValueError, match="'alpha_bar' must decrease over two or more steps"):
        zero_terminal_snr([0.5])


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: getattr(t, "__name__", repr(t)))
@per_path
def test_recover_inverts_every_target(path, target):
    torch.manual_seed(0)
    x, eps = torch.randn(2, 7, 5, dtype=torch.float64)
    for f in (0.0503, 0.3003, 0.5003, 0.9003):
        c = path(path.span[0] + (path.span[1] - path.span[0]) * f)
        a, b = target(c)
        p = recover(c, target, c.alpha * x + c.sigma * eps, a * x + b * eps)
        torch.testing.assert_close(p.x, x, rtol=0, atol=1e-10)
        torch.testing.assert_close(p.eps, eps, rtol=0, atol=1e-10)


def test_edm_on_its_own_path_is_the_published_denoiser():
    """Karras et al., 2022, table 1: D(x) = c_skip x + c_out F, at alpha = 1."""
    x_t, output = torch.randn(2, 100, dtype=torch.float64)
    for sigma, sigma_data in ((0.002, 0.5), (1.7, 0.5), (80.0, 1.0)):
        c = paths.EDM()(sigma)
        c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
        c_out = sigma * sigma_data / math.sqrt(sigma**2 + sigma_data**2)
        got = recover(c, EDM(sigma_data), x_t, output).x
        torch.testing.assert_close(got, c_skip * x_t + c_out * output, rtol=0, atol=1e-10)


def test_a_singular_pair_is_refused_and_a_regular_one_is_not():
    with pytest.raises(ValueError, match=r"'target' noise cannot be inverted on Linear.*velocity"):
        require_well_posed(Linear(), targets.noise, [1.0, 0.5])
    with pytest.raises(ValueError, match="'target' data"):
        require_well_posed(Linear(), targets.data, [1.0, 0.0])
    require_well_posed(Linear(), targets.noise, [0.99, 0.5])
    for path in WHOLE:
        require_well_posed(path, targets.velocity, [1.0, 0.5, 0.0])
        require_well_posed(path, targets.v, [1.0, 0.5, 0.0])


def test_expand_broadcasts_rows():
    assert expand(torch.arange(3), torch.zeros(3, 2, 4, 4)).shape == (3, 1, 1, 1)
