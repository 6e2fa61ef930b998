"""DPM-Solver++(2M): its formula, its ends, and another implementation. (Its order: test_solvers.py.)"""

import math

import pytest
import torch
from scipy import integrate

from gensys import targets
from gensys.noise import Noise
from gensys.paths import Coefs, Cosine, Linear
from gensys.solvers import ddim, dpmpp_2m, dpmpp_3m, dpmpp_3m_sde
from gensys.solvers.stepper import execute
from gensys.solvers.trace import trace
from gensys.targets import Prediction, recover
from gensys.times import uniform


def network(x, t):
    return torch.tanh(x) * (1 + t) + 0.1 * torch.sin(3 * x)


def no_noise(k):
    raise AssertionError("a deterministic solver asked for noise")


def solve(solver, path, target, x, times):
    return solver(lambda y, t: recover(path(t), target, y, network(y, t)), path, x, times, no_noise)


@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=repr)
def test_a_prediction_that_is_linear_in_lambda_is_followed_to_second_order(path):
    """x_s / sigma_s = x_t / sigma_t + the integral of exp(l) D(l) dl over l = lambda, known in closed form."""

    def lam(t):
        return math.log(path(t).alpha / path(t).sigma)

    def predict(x, t):
        data = torch.full_like(x, 0.3 + 0.2 * lam(t))
        return Prediction(data, (x - path(t).alpha * data) / path(t).sigma)

    def error(n):
        times = [0.9 - 0.6 * k / n for k in range(n + 1)]
        x = path(0.9).sigma * torch.ones(1, dtype=torch.float64)
        # exp(l) (0.1 + 0.2 l) is what exp(l) D(l) is the derivative of
        first, last = (math.exp(lam(t)) * (0.1 + 0.2 * lam(t)) for t in (times[0], times[-1]))
        exact = path(times[-1]).sigma * (1.0 + last - first)
        return abs(float(dpmpp_2m(predict, path, x, times, no_noise)) - exact)

    assert math.log2(error(100) / error(200)) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(("solver", "c"), [(dpmpp_3m, 1), (dpmpp_3m_sde, 2)], ids=["ode", "sde"])
def test_a_quadratic_in_lambda_is_integrated_exactly_by_order_3(solver, c):
    """x_s = sigma_s / sigma_t exp((1 - c) h) x_t + alpha_s times the integral of c exp(-c (h - u)) D(lambda + u) du."""
    path, times = Cosine(), [0.9, 0.8, 0.65, 0.6, 0.4, 0.3]

    def lam(t):
        return math.log(path(t).alpha / path(t).sigma)

    def d(value):
        return 0.3 + 0.2 * value - 0.5 * value**2

    def seen(curvature):
        states = []

        def predict(x, t):
            states.append(float(x))
            return Prediction(torch.full_like(x, d(lam(t))), None)

        x = torch.ones(1, dtype=torch.float64)
        end = solver(predict, path, x, times, lambda k: torch.zeros_like(x), curvature=curvature)
        return [*states, float(end)]

    def errors(states):
        for k in range(2, len(times) - 1):
            now, then = path(times[k]), path(times[k + 1])
            start, h = lam(times[k]), lam(times[k + 1]) - lam(times[k])
            total, _ = integrate.quad(lambda u: c * math.exp(-c * (h - u)) * d(start + u), 0, h, epsabs=1e-14)  # noqa: B023
            ratio = then.sigma / now.sigma * math.exp((1 - c) * h)
            yield abs(states[k + 1] - ratio * states[k] - then.alpha * total)

    assert max(errors(seen(1.0))) < 1e-12
    assert min(errors(seen(0.5))) > 1e-5, "half of D'' is missed"


@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=repr)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_steps_over_the_whole_span_are_finite(path, n):
    """lambda is infinite at both ends; one step is DDIM's."""
    x = torch.randn(4, 8, dtype=torch.float64)
    got = solve(dpmpp_2m, path, targets.velocity, x, uniform(n))
    assert got.isfinite().all()
    table = trace(dpmpp_2m, path, targets.velocity, uniform(n))
    assert all(math.isfinite(c) for terms in [*(k.input for k in table.calls), table.output] for c in terms.values())
    if n == 1:
        torch.testing.assert_close(got, solve(ddim, path, targets.velocity, x, uniform(n)))


def test_a_constant_prediction_is_reached_exactly():
    star, eps = torch.randn(2, 50, dtype=torch.float64)
    path = Cosine()

    def predict(x, t):
        return Prediction(star, (x - path(t).alpha * star) / path(t).sigma)

    times = [0.95 * f for f in uniform(5)]
    start = path(0.95).alpha * star + path(0.95).sigma * eps
    torch.testing.assert_close(dpmpp_2m(predict, path, start, times, no_noise), star, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of diffusers' own code
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("flow", [False, True], ids=["variance preserving", "flow"])
def test_diffusers_takes_the_same_steps(steps, flow):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction" if flow else "v_prediction", use_flow_sigmas=flow, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.double().tolist()  # the last one is 0
    assert len(sigmas) == steps + 1

    def preserving(t):
        sigma = sigmas[steps - round(t)]
        return Coefs((1 + sigma**2) ** -0.5, sigma * (1 + sigma**2) ** -0.5, 0.0, 0.0)

    path, times = (Linear(), sigmas) if flow else (preserving, [float(steps - k) for k in range(steps + 1)])
    target = targets.velocity if flow else targets.v
    start = torch.randn(3, 4, 5)
    x = start
    for k, t in enumerate(scheduler.timesteps):
        x = scheduler.step(network(x, times[k] / times[0]), t, x).prev_sample
    noise = Noise(0, torch.arange(3))
    got = execute(trace(dpmpp_2m, path, target, times), lambda y, t, guided: network(y, t / times[0]), start, noise)
    torch.testing.assert_close(got, x, rtol=1e-5, atol=1e-5)
