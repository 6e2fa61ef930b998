"""Stochastic solvers in float64 on a Gaussian: affine maps and fresh noise, so mean and variance are known."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from solvers.gaussian import LINEAR, MEAN, STD, exact, grid

from gensys.paths import EDM, VE, VP, Cosine, Discrete, Linear, SubVP, linear_schedule
from gensys.solvers import ancestral, ddim, euler_maruyama
from gensys.solvers.reverse_sde import forward_sde
from gensys.times import leading, on, quadratic, uniform

DDPM = Discrete(linear_schedule())


def moments(solver, path, times, mean, variance):
    """Of the end, exactly: x carries (the mean, the factor of the start, the factor of every draw) as its rows."""
    n = 2 * len(times)
    x = torch.zeros(n + 2, dtype=torch.float64)
    x[0], x[1] = mean, math.sqrt(variance)
    offset = torch.zeros_like(x)
    offset[0] = 1.0

    def predict(y, t):
        constant, slope = exact(path, torch.zeros(()).double(), t), exact(path, torch.ones(()).double(), t)
        return type(constant)(*(b * offset + (a - b) * y for a, b in zip(slope[:2], constant[:2], strict=True)))

    def draw(k):
        z = torch.zeros_like(x)
        z[2 + k] = 1.0
        return z

    out = solver(predict, path, x, times, draw)
    return float(out[0]), float(out[1:].square().sum())


def alpha_bars(times):
    """Of the discrete schedule."""
    bars = (1.0, *linear_schedule())
    return [bars[round(1000 * t)] for t in times]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_on_its_schedule(eta):
    """Song et al., equations 12 and 16, written with alpha_bar, for the mean and the variance."""
    times = leading(50)
    bars = alpha_bars(times)
    mean, variance = 0.0, 1.0
    for a, b in pairwise(bars):
        sigma = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
        total = a * STD**2 + 1 - a
        slope = math.sqrt(1 - a) / total  # eps = slope (x - sqrt(a) m)
        direction = math.sqrt(1 - b - sigma**2)
        factor = math.sqrt(b / a) * (1 - math.sqrt(1 - a) * slope) + direction * slope
        shift = (math.sqrt(b / a) * math.sqrt(1 - a) - direction) * slope * math.sqrt(a) * MEAN
        mean, variance = factor * mean + shift, factor**2 * variance + sigma**2
    got = moments(partial(ddim, eta=eta), DDPM, times, 0.0, 1.0)
    assert got == pytest.approx((mean, variance), rel=0, abs=1e-10)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_a_ddpm_step_is_its_posterior(variance):
    """Ho et al., equations 6 and 7, between neighbouring steps, with beta and alpha_bar."""
    bars, z = (1.0, *linear_schedule()), torch.ones(1, dtype=torch.float64)
    for k in (1000, 500, 100, 2):
        a, b = bars[k], bars[k - 1]
        beta = 1 - a / b
        x = torch.tensor([0.3], dtype=torch.float64)
        p = exact(DDPM, x, k / 1000)
        mean = math.sqrt(b) * beta / (1 - a) * p.x + math.sqrt(1 - beta) * (1 - b) / (1 - a) * x
        std = math.sqrt(beta * (1 - b) / (1 - a) if variance == "small" else beta)
        got = ancestral(
            lambda x, t: exact(DDPM, x, t), DDPM, x, [k / 1000, (k - 1) / 1000], lambda _: z, variance=variance
        )
        torch.testing.assert_close(got, mean + std, rtol=0, atol=1e-10)


@pytest.mark.parametrize("path", [VP(), SubVP(), VE(), EDM(), Cosine(), Linear(), DDPM], ids=repr)
@pytest.mark.parametrize(
    ("name", "n", "tolerance"),
    [
        ("ddim eta 1", 500, 0.02),
        ("dpmpp_2m_sde", 200, 2e-3),
        ("dpmpp_3m_sde", 200, 2e-3),
        ("euler_maruyama", 2000, 0.02),
    ],
)
def test_the_reverse_sde_has_the_marginals_of_the_path(path, name, n, tolerance):
    """From the exact marginal at the noisy end to that near the data."""
    times = grid(path, name, [0.02 + 0.96 * f for f in quadratic(n)])
    start, end = path(times[0]), path(times[-1])

    def spread(c):
        return (c.alpha * STD) ** 2 + c.sigma**2

    mean, variance = moments(LINEAR[name], path, times, start.alpha * MEAN, spread(start))
    assert mean == pytest.approx(end.alpha * MEAN, abs=tolerance)
    assert variance == pytest.approx(spread(end), rel=3 * tolerance)


@pytest.mark.parametrize(("path", "beta"), [(VP(), True), (SubVP(), True), (VE(), False)], ids=repr)
def test_the_forward_sde_is_the_published_one(path, beta):
    for t in (0.1, 0.5, 1.0):
        b = 0.1 + 19.9 * t
        f, g2 = forward_sde(path(t))
        grown = -math.expm1(-2 * (0.1 * t + 9.95 * t * t)) if isinstance(path, SubVP) else 1.0
        wanted = (-b / 2, b * grown) if beta else (0.0, 2 * math.log(5000) * (0.01 * 5000**t) ** 2)
        assert (f, g2) == pytest.approx(wanted, rel=1e-10)


def test_pure_noise_has_no_reverse_drift():
    with pytest.raises(ValueError, match="no drift at alpha = 0: start the grid below the end"):
        moments(euler_maruyama, Linear(), uniform(3), 0.0, 1.0)


def test_values_that_no_solver_takes():
    x, times = torch.ones(1), on(VP(), uniform(2))

    def run(solver):
        return solver(lambda x, t: exact(VP(), x, t), VP(), x, times, lambda k: x)

    for solver, message in (
        (partial(ddim, eta=1.5), r"'eta' must lie in \[0, 1\], got 1.5"),
        (partial(ancestral, variance="larg"), "'variance' must be 'small', 'large' or 'learned', got 'larg'"),
        (partial(LINEAR["plms"], order=5), "'order' must be 1 to 4, got 5"),
        (partial(LINEAR["unipc"], order=0), "'order' must be 1 to 4, got 0"),
        (partial(LINEAR["multistep_consistency"], end=0.6), r"'end', where the jumps land, must lie in \[0, 0.5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            run(solver)
