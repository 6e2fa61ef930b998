"""Laws against their distribution functions, grids against their formulas. A new law is tested by adding it to LAWS."""

import math
from itertools import pairwise
from statistics import NormalDist

import pytest
import torch
from scipy import stats

from gensys import times
from gensys.noise import Noise
from gensys.paths import EDM, VE, VP, Cosine, Discrete, Linear, linear_schedule
from gensys.times import LogitNormal, LogNormal, Mode, Shifted, Steps, Uniform, on, shifted

ROWS = 20_000
NOISE = Noise(5, torch.arange(ROWS))
NORMAL = NormalDist()


def logit(t):
    return math.log(t / (1 - t))


def mode(scale):
    """P(t <= c): the map of u falls, so it is 1 - u at f(u) = c, by bisection."""

    def at(c):
        low, high = 0.0, 1.0
        for _ in range(60):
            u = (low + high) / 2
            value = 1 - u - scale * (math.cos(math.pi * u / 2) ** 2 - 1 + u)
            low, high = (u, high) if value > c else (low, u)
        return 1 - low

    return at


LAWS = {
    "uniform": (Uniform(), lambda t: t),
    "uniform inside": (Uniform(0.2, 0.7), lambda t: min(max((t - 0.2) / 0.5, 0.0), 1.0)),
    "logit-normal": (LogitNormal(), lambda t: NORMAL.cdf(logit(t))),
    "logit-normal shifted and narrow": (LogitNormal(-0.4, 0.6), lambda t: NORMAL.cdf((logit(t) + 0.4) / 0.6)),
    "mode": (Mode(), mode(1.29)),
    "mode, heavy ends": (Mode(-0.8), mode(-0.8)),
    "EDM": (LogNormal(EDM()), lambda t: NORMAL.cdf((math.log(80 * t) + 1.2) / 1.2)),
    "EDM's on the linear path": (LogNormal(Linear(), 0.3, 0.8), lambda t: NORMAL.cdf((logit(t) - 0.3) / 0.8)),
    "EDM's on the cosine path": (
        LogNormal(Cosine()),
        lambda t: NORMAL.cdf((math.log(math.tan(math.pi * t / 2)) + 1.2) / 1.2),
    ),
    "a shifted uniform": (Shifted(Uniform(), 3.0), lambda t: t / (3 - 2 * t)),
    "a shifted logit-normal is moved by ln 3": (
        Shifted(LogitNormal(), 3.0),
        lambda t: NORMAL.cdf(logit(t) - math.log(3)),
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_a_law_has_its_distribution(name):
    law, cdf = LAWS[name]
    t = law(NOISE)
    assert t.shape == (ROWS,)
    assert t.dtype == torch.float32
    assert 0 <= float(t.min()) <= float(t.max()) <= 1
    values = sorted(cdf(min(max(v, 1e-9), 1 - 1e-9)) for v in t.double().tolist())
    assert stats.kstest(values, "uniform").pvalue > 0.01, "Kolmogorov and Smirnov, for this seed"
    assert torch.equal(law(Noise(5, NOISE.ids[40:60])), t[40:60]), "a row's time is its own"


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_steps_are_uniform_on_the_steps(n):
    t = Steps(n)(NOISE)
    k = (t * n).round()
    torch.testing.assert_close(t, k / n, rtol=0, atol=0)
    counts = torch.bincount(k.long() - 1, minlength=n)
    assert counts.shape == (n,)
    assert n == 1 or stats.chisquare(counts.numpy()).pvalue > 0.01


def test_levels_beyond_a_path_are_taken_at_its_end():
    t = LogNormal(VP(), 4.0, 2.0)(NOISE)
    share = 1 - NORMAL.cdf((math.log(VP()(1.0).sigma / VP()(1.0).alpha) - 4) / 2)
    assert float((t > 1 - 1e-6).float().mean()) == pytest.approx(share, abs=0.02)
    assert float(t.max()) == pytest.approx(1.0, abs=1e-7)


PATHS = [EDM(), VP(), VE(), Linear(), Cosine(), Discrete(linear_schedule())]
GRIDS = {
    "uniform": times.uniform,
    "quadratic": times.quadratic,
    "cosine": times.cosine,
    "leading": times.leading,
    "trailing": times.trailing,
    "linspace": times.linspace,
    "shifted": lambda n: shifted(times.uniform(n), 3.0),
    **{f"karras {path}": lambda n, path=path: times.karras(path, n) for path in PATHS},
    **{f"log_snr {path}": lambda n, path=path: times.log_snr(path, n) for path in PATHS},
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("n", [1, 2, 15])
def test_a_grid_falls_to_zero_in_n_steps(name, n):
    grid = GRIDS[name](n)
    assert len(grid) == n + 1
    assert 0 < grid[0] <= 1
    assert grid[-1] == 0.0
    assert all(isinstance(t, float) and t > s for t, s in pairwise(grid))


@pytest.mark.parametrize("name", GRIDS)
def test_no_steps_are_refused(name):
    with pytest.raises(ValueError, match="'steps' must be at least 1, got 0"):
        GRIDS[name](0)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_levels_are_karras(path):
    n, rho, low, high = 12, 7.0, 0.01, 45.0
    grid = on(path, times.karras(path, n, low, high, rho))
    for i, t in enumerate(grid[:-1]):
        wanted = (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        c = path(t)
        assert c.sigma / c.alpha == pytest.approx(wanted, rel=1e-10)
    assert path(grid[-1]).sigma == 0


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_levels_are_even_in_log_snr(path):
    grid = on(path, times.log_snr(path, 9, 0.01, 45.0))
    levels = [math.log(path(t).sigma / path(t).alpha) for t in grid[:-1]]
    assert levels[0] == pytest.approx(math.log(45))
    assert [b - a for a, b in pairwise(levels)] == pytest.approx([math.log(0.01 / 45) / 8] * 8, rel=1e-9)


def test_grids_by_their_formulas():
    assert times.uniform(4) == [1, 0.75, 0.5, 0.25, 0]
    assert times.quadratic(4) == [1, 0.5625, 0.25, 0.0625, 0]
    assert times.cosine(2) == pytest.approx([1, 1 - math.sqrt(0.5), 0])
    assert times.leading(4, 10) == [0.7, 0.5, 0.3, 0.1, 0]
    assert times.leading(4, 10, offset=1) == [0.8, 0.6, 0.4, 0.2, 0]
    assert times.trailing(4, 10) == [1, 0.8, 0.5, 0.2, 0]  # 7.5 and 2.5 are rounded to even, as numpy does
    assert times.linspace(4, 10) == [1, 0.7, 0.4, 0.1, 0]
    assert shifted(times.uniform(2), 3.0) == pytest.approx([1, 0.75, 0])
    assert on(EDM(10.0), times.uniform(2)) == [10, 5, 0]


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("n", [1, 3, 10, 20, 37, 1000])
def test_diffusers_has_the_same_spacing(spacing, n):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing)
    if spacing == "linspace" and n == 1:
        return  # numpy's linspace starts with its first number: theirs is a step from the data
    scheduler.set_timesteps(n)
    wanted = [(k + 1) / 1000 for k in scheduler.timesteps.tolist()]
    assert getattr(times, spacing)(n) == pytest.approx([*wanted, 0.0], abs=1e-15)


def test_bad_values_are_refused():
    for law in (lambda: Mode(2.0), lambda: Mode(-1.1)):
        with pytest.raises(ValueError, match=r"'scale' must lie in \[-1, 1.7519\]"):
            law()
    for bad in (lambda: Shifted(Uniform(), 0.0), lambda: shifted([1.0, 0.0], -1.0)):
        with pytest.raises(ValueError, match="'shift' must be positive"):
            bad()
    with pytest.raises(
        ValueError, match=r"4 different numbers in \[0, 10\), .*are wanted for 'steps' = 4: give fewer steps, or"
    ):
        times.leading(4, 10, offset=4)
    with pytest.raises(ValueError, match=r"are wanted for 'steps' = 11"):
        times.trailing(11, 10)
    with pytest.raises(ValueError, match=r"'high' must be a level that VP.* reaches, 152.167, got 200"):
        times.karras(VP(), 5, high=200.0)
    for low, high in ((0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)):
        with pytest.raises(ValueError, match="'low' must be a level between 0 and 'high', 1, got"):
            times.log_snr(EDM(), 5, low, high)
