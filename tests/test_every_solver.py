"""Every solver on every path: its table is its eager run, nothing breaks at the edges, and orders of convergence."""

import math
from functools import partial

import pytest
import torch
from solvers.gaussian import LINEAR, NONLINEAR, PATHS, exact, flow, grid, no_noise, target_of

from gensys.guidance import Clip, Rescale, Threshold
from gensys.noise import Noise, Stream
from gensys.paths import VP, Coefs, Cosine, Linear
from gensys.solvers import dpmpp_2m, dpmpp_3m, euler, heun, plms, rk4, unipc
from gensys.solvers.solver import NotLinear
from gensys.solvers.stepper import execute
from gensys.solvers.trace import guide, trace
from gensys.targets import Prediction, recover
from gensys.times import uniform

NOISE = Noise(1, torch.arange(3))
per_path = pytest.mark.parametrize("path", PATHS, ids=lambda p: str(p).split("(", 1)[0] + f"-{PATHS.index(p)}")
per_linear = pytest.mark.parametrize("name", LINEAR)

CORRECTED = [  # (scale, nodes, the same for `model`)
    (1.0, [], {}),
    (2.5, [], {}),
    (2.5, [Clip(-0.8, 0.9)], {"bounds": (-0.8, 0.9)}),
    (2.5, [Rescale(0.7), Threshold(70.0)], {"phi": 0.7, "percentile": 70.0}),
]


def start(path, t):
    return path(t).sigma * NOISE.normal((4,), Stream.INITIAL).double()


def draw(k):
    return NOISE.at(k).normal((4,), Stream.SOLVER).double()


def network(x, t):
    """Some bounded nonlinear function of any scale of x."""
    return torch.tanh(x) * (1 + t / (1 + t)) + 0.1 * torch.sin(3 * x)


def weak(x, t):
    return 0.5 * torch.cos(x)


def spread(x):
    return x.sub(x.mean(1, keepdim=True)).square().mean(1, keepdim=True).sqrt()


def model(path, target, scale=1.0, phi=0.0, percentile=0.0, bounds=None):
    """An eager model: guided, rescaled, then thresholded or clipped, keeping x_t = alpha x + sigma eps."""

    def predict(x, t):
        c, out = path(t), network(x, t)
        data = conditional = recover(c, target, x, out).x
        if scale != 1.0:
            out = weak(x, t) + scale * (out - weak(x, t))
            data = recover(c, target, x, out).x
            data = data * (phi * spread(conditional) / spread(data) + 1 - phi)
        if percentile:
            s = data.abs().quantile(percentile / 100, 1, keepdim=True).clamp(min=1)
            data = torch.maximum(torch.minimum(data, s), -s) / s
        if bounds:
            data = data.clamp(*bounds)
        if not (phi or percentile or bounds):
            return recover(c, target, x, out)
        return Prediction(data, (x - c.alpha * data) / c.sigma)

    return predict


@per_path
@per_linear
def test_the_table_is_the_eager_run(path, name):
    solver, target = LINEAR[name], target_of(path)
    for n in (1, 2, 7):
        times = grid(path, name, uniform(n))
        x = start(path, times[0])
        for scale, nodes, corrected in CORRECTED:
            table = guide(trace(solver, path, target, times, nodes), lambda t, scale=scale: scale)

            def net(y, t, guided):
                return (
                    torch.cat([f(half, t) for f, half in zip((network, weak), y.chunk(2), strict=True)])
                    if guided
                    else network(y, t)
                )

            got = execute(table, net, x, NOISE)
            want = solver(model(path, target, scale, **corrected), path, x, times, draw)
            # coefficients of opposite signs cancel: what is left is judged by the size of the state
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10 * float(x.abs().max()))


@per_path
@pytest.mark.parametrize("name", LINEAR | NONLINEAR)
@pytest.mark.parametrize("fractions", [[1.0, 0.0], [1.0, 0.5, 0.0], [1.0, 1e-3, 1e-6, 0.0]], ids=len)
def test_few_steps_over_the_whole_span_are_finite(path, name, fractions):
    """alpha may be 0 at the start, sigma is 0 at the end; the exact model of a Gaussian."""
    if name == "dopri5" and len(fractions) == 2:
        return  # it names the step that it wants (test_dopri5.py)
    times = grid(path, name, fractions)
    solver = (LINEAR | NONLINEAR)[name]
    got = solver(lambda x, t: exact(path, x, t), path, start(path, times[0]), times, draw)
    assert got.isfinite().all()
    if name != "ancestral, large" and name.startswith(
        ("ancestral", "ddim", "dpmpp", "multistep")
    ):  # stable at any step
        assert got.abs().max() < 10


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_repeated_level_is_harmless(name, place):
    """Two times with the same alpha and sigma, at the start, inside, before the end: as if one were not there."""
    clock = [0.9, 0.7, 0.4, 0.1, 0.0]
    levels = sorted([*clock, clock[place]], reverse=True)

    def path(t):
        s = levels[5 - int(t)]
        return Coefs(1 - s, s, -1.0, 1.0) if t == int(t) else Linear()(0.5)

    path = type("Plateau", (), {"__call__": staticmethod(path), "span": (0.0, 5.0)})()
    solver = LINEAR[name]
    if name in ("churn", "rk4", "heun", "euler", "euler_maruyama"):
        return  # steps of the clock, whose derivatives such a path does not have
    got = solver(
        lambda x, t: exact(path, x, t),
        path,
        torch.ones(3, 4).double(),
        [5.0, 4.0, 3.0, 2.0, 1.0, 0.0],
        lambda k: torch.zeros(3, 4).double(),
    )
    assert got.isfinite().all()
    if name.startswith("dpmpp"):
        plain = solver(
            lambda x, t: exact(Linear(), x, t),
            Linear(),
            torch.ones(3, 4).double(),
            clock,
            lambda k: torch.zeros(3, 4).double(),
        )
        torch.testing.assert_close(got, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NONLINEAR)
def test_what_is_not_linear_says_so(name):
    with pytest.raises(NotLinear, match=f"{name} .*no table and runs on tensors"):
        trace(NONLINEAR[name], VP(), target_of(VP()), uniform(3))


def error(solver, path, n, end=0.1):
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    times = [end + (1 - end) * f for f in uniform(n)]
    got = solver(lambda y, t: exact(path, y, t), path, x, times, no_noise)
    return float((got - flow(path, x, times[0], times[-1])).abs().max())


ORDERS = {
    "euler": (euler, 1),
    "heun": (heun, 2),
    "rk4": (rk4, 4),
    "plms": (plms, 2),
    "dpmpp_2m": (dpmpp_2m, 2),
    "unipc 1": (partial(unipc, order=1), 2),
    "unipc 2": (unipc, 3),
}


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name):
    """On the part of VP where nothing is infinite, at sizes of error from 1e-2 to 1e-9."""
    solver, order = ORDERS[name]

    def at(n):
        x = torch.linspace(-2, 2, 41, dtype=torch.float64)
        times = [0.1 + 0.5 * f for f in uniform(n)]
        got = solver(lambda y, t: exact(VP(), y, t), VP(), x, times, no_noise)
        return float((got - flow(VP(), x, times[0], times[-1])).abs().max())

    errors = [at(n) for n in (80, 160, 320)]
    slopes = [math.log2(errors[k] / errors[k + 1]) for k in range(2)]
    assert slopes[-1] == pytest.approx(order, abs=0.35), (errors, slopes)


@pytest.mark.parametrize("path", [Linear(), Cosine(), VP()], ids=repr)
def test_third_order_pays(path):
    assert error(dpmpp_3m, path, 160) * 3 < error(dpmpp_2m, path, 160)
    slope = math.log2(error(unipc, path, 80) / error(unipc, path, 160))
    assert slope >= 2.5
