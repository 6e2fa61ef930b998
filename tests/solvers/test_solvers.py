"""Solvers against the exact flow of a Gaussian (gaussian.py), where prediction, ODE and solution are known."""

import math
from functools import partial

import pytest
import torch
from gaussian import MEAN, STD, exact, flow, no_noise

from gensys import targets
from gensys.noise import Noise, Stream
from gensys.paths import Cosine, Linear
from gensys.solvers import ddim, dpmpp_2m, euler, heun
from gensys.solvers.stepper import execute
from gensys.solvers.trace import Symbol, guide, trace
from gensys.targets import Prediction, recover
from gensys.times import on, shifted, uniform

PATHS = [Linear(), Cosine()]


def error(solver, path, n, end=0.0):
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    times = [end + (1 - end) * f for f in uniform(n)]
    got = solver(lambda y, t: exact(path, y, t), path, x, times, no_noise)
    return float((got - flow(path, x, times[0], times[-1])).abs().max())


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize(
    ("solver", "order"), [(euler, 1), (heun, 2), (dpmpp_2m, 2)], ids=lambda s: getattr(s, "__name__", s)
)
def test_order_of_convergence(path, solver, order):
    # To t = 0.1: the last step to 0 is Euler's by design.
    errors = [error(solver, path, n, end=0.1) for n in (40, 80, 160)]
    slopes = [math.log2(errors[k] / errors[k + 1]) for k in range(2)]
    assert slopes == pytest.approx([order] * 2, abs=0.12)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_ddim_is_first_order_and_euler_on_the_linear_path(path):
    errors = [error(ddim, path, n) for n in (80, 160)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.12)
    if isinstance(path, Linear):
        assert error(euler, path, 10) == pytest.approx(error(ddim, path, 10), abs=1e-14)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_ddim_is_exact_where_the_prediction_is_constant(path, n):
    """One datum x*: E[x | x_t] = x*, and x_t = alpha x* + sigma eps for the same eps at all t."""
    star, eps = torch.randn(2, 100, dtype=torch.float64)

    def predict(x, t):
        c = path(t)
        return Prediction(star, (x - c.alpha * star) / c.sigma)

    seen = []
    ddim(lambda x, t: seen.append((x, t)) or predict(x, t), path, eps.clone(), uniform(n), no_noise)
    for x, t in seen:
        c = path(t)
        torch.testing.assert_close(x, c.alpha * star + c.sigma * eps, rtol=0, atol=1e-10)
    torch.testing.assert_close(ddim(predict, path, eps, uniform(n), no_noise), star, rtol=0, atol=1e-10)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_stochastic_ddim_keeps_the_marginals(path):
    """eta = 1 from the exact marginal at t = 1: mean and variance at the end are those of the data."""
    n, rows = 200, 20_000
    noise = Noise(3, torch.arange(rows))
    x = noise.normal((1,), Stream.INITIAL).double()
    times = [0.02 + 0.97 * f for f in uniform(n)]
    c = path(times[0])
    x = c.alpha * MEAN + math.sqrt((c.alpha * STD) ** 2 + c.sigma**2) * x

    def draw(k):
        return noise.at(k).normal((1,), Stream.SOLVER).double()

    out = partial(ddim, eta=1.0)(lambda y, t: exact(path, y, t), path, x, times, draw)
    end = path(times[-1])
    assert float(out.mean()) == pytest.approx(end.alpha * MEAN, abs=0.02)
    assert float(out.std()) == pytest.approx(math.sqrt((end.alpha * STD) ** 2 + end.sigma**2), rel=0.03)


SOLVERS = {
    "ddim": ddim,
    "ddim eta 0.5": partial(ddim, eta=0.5),
    "ddim eta 1": partial(ddim, eta=1.0),
    "dpmpp_2m": dpmpp_2m,
    "euler": euler,
    "heun": heun,
}
PAIRS = [
    (Linear(), targets.velocity, 1.0),
    (Linear(), targets.noise, 0.99),
    (Cosine(), targets.v, 1.0),
    (Cosine(), targets.data, 1.0),
]


def network(x, t):
    """Some nonlinear function."""
    return torch.tanh(x) * (1 + t) + 0.1 * torch.sin(3 * x)


def eager(solver, path, target, times, x, noise, net=network):
    def draw(k):
        return noise.at(k).normal(tuple(x.shape[1:]), Stream.SOLVER).to(x.dtype)

    return solver(lambda y, t: recover(path(t), target, y, net(y, t)), path, x, times, draw)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(("path", "target", "start"), PAIRS, ids=["velocity", "noise", "v", "data"])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_the_traced_table_equals_the_eager_solver(name, path, target, start, n):
    solver, times = SOLVERS[name], [start * f for f in uniform(n)]
    if target is targets.noise and name in ("euler", "heun") and n == 1:
        times = [start, 0.1]
    noise = Noise(1, torch.arange(5))
    x = noise.normal((3, 4), Stream.INITIAL).double()
    table = trace(solver, path, target, times)
    got = execute(table, lambda y, t, guided: network(y, t), x, noise)
    want = eager(solver, path, target, times, x, noise)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert max(len(call.input) for call in table.calls) <= 4, "a step reads a handful of tensors"


@pytest.mark.parametrize("name", ["ddim eta 0.5", "dpmpp_2m", "heun"])
def test_guidance_in_the_table_equals_guidance_of_the_output(name):
    path, target, times = Linear(), targets.velocity, uniform(6)
    noise = Noise(1, torch.arange(5))
    x = noise.normal((3, 4), Stream.INITIAL).double()

    def weak(y, t):
        return 0.5 * torch.cos(y) * t

    def scale(t):
        return 2.5 if 0.2 <= t <= 0.8 else 1.0

    def guided_network(y, t):
        return weak(y, t) + scale(t) * (network(y, t) - weak(y, t))

    seen = []

    def both(y, t, guided):
        seen.append((t, guided))
        if not guided:
            return network(y, t)
        first, second = y.chunk(2)
        assert torch.equal(first, second), "the state, twice"
        return torch.cat([network(first, t), weak(second, t)])

    table = guide(trace(SOLVERS[name], path, target, times), scale)
    got = execute(table, both, x, noise)
    want = eager(SOLVERS[name], path, target, times, x, noise, guided_network)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert all(guided == (scale(t) != 1.0) for t, guided in seen), "no reference call where it has no weight"


def test_a_table_can_be_read():
    table = trace(euler, Linear(), targets.velocity, uniform(2))
    assert table.calls[0].input == {Symbol("X"): 1.0}
    assert table.output == pytest.approx({Symbol("I", 1): 1.0, Symbol("F", 1): -0.5})
    assert "x_0 = +1 I1 -0.5 F1" in str(table)


def test_bad_grids_are_refused():
    for times in ([1.0], [0.0, 0.5, 1.0], [1.0, 1.0, 0.0]):
        with pytest.raises(ValueError, match="'times' must hold two or more decreasing values"):
            euler(lambda x, t: exact(Linear(), x, t), Linear(), torch.zeros(1), times, no_noise)
    with pytest.raises(ValueError, match="'steps' must be at least 1"):
        uniform(0)
    with pytest.raises(ValueError, match="'shift' must be positive"):
        shifted(uniform(3), 0.0)


def test_a_shifted_grid_keeps_its_ends_and_moves_towards_the_noise():
    times = shifted(uniform(10), 3.0)
    assert times[0] == 1.0
    assert times[-1] == 0.0
    assert all(a > b for a, b in zip(times[1:-1], uniform(10)[1:-1], strict=True))
    assert on(Linear(), times) == times
