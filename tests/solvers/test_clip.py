"""Clipping the estimate of the data: in the table, in the eager run and in another library."""

from functools import partial

import pytest
import torch

from gensys import targets
from gensys.guidance import Clip
from gensys.noise import Noise, Stream
from gensys.paths import Coefs, Cosine, Linear
from gensys.solvers import ddim, dpmpp_2m, euler, heun
from gensys.solvers.stepper import execute
from gensys.solvers.trace import Symbol, guide, trace
from gensys.targets import Prediction, recover
from gensys.times import uniform

SOLVERS = {"ddim": ddim, "ddim eta 1": partial(ddim, eta=1.0), "dpmpp_2m": dpmpp_2m, "euler": euler, "heun": heun}
PAIRS = {
    "velocity": (Linear(), targets.velocity, 1.0),
    "noise": (Cosine(), targets.noise, 0.9),
    "data": (Cosine(), targets.data, 1.0),
}
BOUNDS = (-0.3, 0.5)
NOISE = Noise(1, torch.arange(5))
START = NOISE.normal((3, 4), Stream.INITIAL).double()


def network(x, t):
    return torch.tanh(x) * (1 + t) + 0.1 * torch.sin(3 * x)


def weak(x, t):
    return 0.5 * torch.cos(x) * t


def eager(solver, path, target, times, scale=1.0):
    """The solver, on a model that guides, then clips its estimate of x, and keeps x_t = alpha x + sigma eps."""
    bound = 0

    def predict(x, t):
        nonlocal bound
        c = path(t)
        out = weak(x, t) + scale * (network(x, t) - weak(x, t))
        estimate = recover(c, target, x, out).x
        low, high = x.new_tensor(BOUNDS)
        clipped = torch.minimum(torch.maximum(estimate, low), high)
        bound += int((clipped != estimate).sum())
        return Prediction(clipped, (x - c.alpha * clipped) / c.sigma)

    def draw(k):
        return NOISE.at(k).normal((3, 4), Stream.SOLVER).double()

    result = solver(predict, path, START, times, draw)
    assert bound, "nothing was clipped: this case tests nothing"
    return result


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_table_clips_as_an_eager_sampler_does(name, pair, scale):
    path, target, start = PAIRS[pair]
    times = [start * f for f in uniform(6)]
    table = guide(trace(SOLVERS[name], path, target, times, [Clip(*BOUNDS)]), lambda t: scale)

    def both(x, t, guided):
        if not guided:
            return network(x, t)
        first, second = x.chunk(2)
        return torch.cat([network(first, t), weak(second, t)])

    got = execute(table, both, START, NOISE)
    torch.testing.assert_close(got, eager(SOLVERS[name], path, target, times, scale), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", SOLVERS)
def test_bounds_that_never_bind_change_nothing(name):
    def run(clip):
        table = trace(SOLVERS[name], Cosine(), targets.v, uniform(6), [Clip(*clip)] if clip else ())
        return execute(table, lambda x, t, guided: network(x, t), START, NOISE)

    torch.testing.assert_close(run((-1e6, 1e6)), run(None), rtol=1e-11, atol=1e-11)


def test_the_last_estimate_is_the_sample():
    """sigma is 0 at the end: x_0 is the clipped estimate itself, so a sample lies within the bounds."""
    table = trace(ddim, Cosine(), targets.v, uniform(4), [Clip(*BOUNDS)])
    x = execute(table, lambda x, t, guided: 5 * network(x, t), START.float(), NOISE)
    assert table.output == {Symbol("C", 3): 1.0}
    assert x.min() == torch.tensor(BOUNDS[0])
    assert x.max() == torch.tensor(BOUNDS[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_stays_nan_and_stays_where_it_is(dtype):
    def spoilt(x, t, guided):
        out = network(x, t)
        out[2, 1, 3] = torch.nan
        out[0, 0, 0] = torch.inf
        return out

    table = trace(ddim, Linear(), targets.velocity, uniform(5), [Clip(*BOUNDS)])
    got = execute(table, spoilt, START.to(dtype), NOISE)
    expected = torch.zeros(5, 3, 4, dtype=torch.bool)
    expected[2, 1, 3] = True
    assert torch.equal(got.isnan(), expected)
    assert got[0, 0, 0] == torch.tensor(BOUNDS[0], dtype=dtype)  # x = x_t - t inf, clipped


def test_a_clipped_table_can_be_read():
    table = guide(trace(euler, Linear(), targets.velocity, uniform(1), [Clip(-1, 1)]), lambda t: 3.0)
    assert table.calls[0].estimate == pytest.approx({Symbol("I", 0): 1.0, Symbol("F", 0): -3.0, Symbol("R", 0): 2.0})
    assert table.calls[0].nodes == (Clip(-1, 1),)
    assert "C0 = +1 I0 -3 F0 +2 R0, Clip(low=-1, high=1)" in str(table)
    assert all(symbol.kind in "IC" for symbol in table.output), "what the network said enters through C only"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of diffusers' own code
def test_diffusers_clips_the_same_way():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(clip_sample=True, clip_sample_range=0.4, set_alpha_to_one=True)
    scheduler.set_timesteps(7)
    kept = scheduler.alphas_cumprod.double().tolist()

    def path(t):
        cumulated = 1.0 if t < 0 else kept[int(t)]
        return Coefs(cumulated**0.5, (1 - cumulated) ** 0.5, 0.0, 0.0)

    x = START.clone()
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, float(t) / 1000), t, x, use_clipped_model_output=True).prev_sample
    table = trace(ddim, path, targets.noise, [*map(float, scheduler.timesteps), -1.0], [Clip(-0.4, 0.4)])
    got = execute(table, lambda x, t, guided: network(x, t / 1000), START, NOISE)
    torch.testing.assert_close(got, x, rtol=0, atol=1e-5)  # its coefficients are float32
    assert float(x.abs().max()) == pytest.approx(0.4)
