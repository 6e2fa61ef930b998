"""Diffusers takes the same steps, with the same noise: its schedulers beside ours, in single precision.

Where it departs from the papers, the comment says so, and the test makes up for it. Its timestep k is t = (k + 1) / T.
"""

import itertools
import math
import sys
from functools import partial

import pytest
import torch

from gensys import targets
from gensys.noise import Noise, Stream
from gensys.paths import EDM, Coefs, Linear
from gensys.solvers import (
    ancestral,
    ddim,
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_3m,
    euler,
    heun,
    multistep_consistency,
    plms,
    unipc,
)
from gensys.targets import Prediction, recover
from gensys.times import shifted, uniform

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of their own code
NOISE = Noise(1, torch.arange(3))
START = NOISE.normal((4, 5), Stream.INITIAL)
TARGETS = {"epsilon": targets.noise, "sample": targets.data, "v_prediction": targets.v}


def draw(k):
    return NOISE.at(k).normal((4, 5), Stream.SOLVER)


def network(x, t):
    """t: diffusers' timestep."""
    return torch.tanh(x) * (1 + t / 1000) + 0.1 * torch.sin(3 * x)


class Levels:
    """A path through (alpha, sigma, timestep), noise first, on the clock n, n - 1, ..., 0."""

    def __init__(self, levels):
        self.levels, self.span = levels, (0.0, len(levels) - 1.0)
        self.times = [len(levels) - 1.0 - k for k in range(len(levels))]

    def __call__(self, t):
        alpha, sigma, _ = self.levels[len(self.levels) - 1 - int(t)]
        return Coefs(alpha, sigma, 0.0, 0.0)

    def timestep(self, t):
        return self.levels[len(self.levels) - 1 - int(t)][2]


def kept(scheduler, timesteps):
    """Levels of alphas_cumprod at these timesteps, and the data."""
    bars = scheduler.alphas_cumprod.double().tolist()
    return Levels([*((bars[t] ** 0.5, (1 - bars[t]) ** 0.5, t) for t in timesteps), (1.0, 0.0, None)])


def by_sigma(scheduler):
    """Levels of sigmas = sigma / alpha."""
    sigmas, timesteps = scheduler.sigmas.double().tolist(), [*scheduler.timesteps.tolist(), None]
    return Levels([((1 + s * s) ** -0.5, s * (1 + s * s) ** -0.5, t) for s, t in zip(sigmas, timesteps, strict=True)])


def theirs(monkeypatch, scheduler, x, net=network, **options):
    numbers = itertools.count()
    module = sys.modules[type(scheduler).__module__]
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: draw(next(numbers)))
    for t in scheduler.timesteps:
        x = scheduler.step(net(scheduler.scale_model_input(x, t), float(t)), t, x, **options).prev_sample
    return x


def ours(solver, path, target, x=START):
    return solver(lambda y, t: recover(path(t), target, y, network(y, path.timestep(t))), path, x, path.times, draw)


def same(got, want):
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("steps", [10, 50])
def test_ddpm(monkeypatch, variance, steps):
    scheduler = diffusers.DDPMScheduler(variance_type=f"fixed_{variance}", clip_sample=False)
    scheduler.set_timesteps(steps)
    path = kept(scheduler, scheduler.timesteps.tolist())
    same(ours(partial(ancestral, variance=variance), path, targets.noise), theirs(monkeypatch, scheduler, START))


@pytest.mark.parametrize("prediction", TARGETS)
@pytest.mark.parametrize("steps", [10, 50])
def test_ddpm_with_a_learned_variance(monkeypatch, steps, prediction):
    """The network's second half is v in [-1, 1]; clipped estimates as well."""
    scheduler = diffusers.DDPMScheduler(
        variance_type="learned_range", prediction_type=prediction, beta_schedule="squaredcos_cap_v2", clip_sample=True
    )
    scheduler.set_timesteps(steps)
    path = kept(scheduler, scheduler.timesteps.tolist())

    def both(x, t):
        return torch.cat([network(x, t), torch.sin(3 * x + t)], 1)

    def predict(y, t):
        output, v = both(y, path.timestep(t)).chunk(2, dim=1)
        p = recover(path(t), TARGETS[prediction], y, output, lambda data: data.clamp(-1, 1))
        return p._replace(mix=0.5 * (v + 1))

    got = ancestral(predict, path, START, path.times, draw, variance="learned")
    same(got, theirs(monkeypatch, scheduler, START, net=both))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction", TARGETS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(monkeypatch, spacing, prediction, eta):
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing, prediction_type=prediction, clip_sample=False)
    scheduler.set_timesteps(10)
    if spacing == "linspace":
        # They always step T / n down, which is 100 here, and call the network 111 down. With 9 they do as they say.
        scheduler.num_inference_steps = 9
    path = kept(scheduler, scheduler.timesteps.tolist())
    got = ours(partial(ddim, eta=eta), path, TARGETS[prediction])
    same(got, theirs(monkeypatch, scheduler, START, eta=eta))


DPM = {
    (1, False): ddim,
    (2, False): dpmpp_2m,
    (3, False): partial(dpmpp_3m, curvature=0.5),  # the authors' code
    (1, True): partial(ddim, eta=1.0),
    (2, True): dpmpp_2m_sde,
    # Theirs of order 3 for the SDE has -1/2 for +1/2 in a factor that should vanish with h.
}


@pytest.mark.parametrize(("order", "sde"), DPM)
@pytest.mark.parametrize("karras", [False, True])
def test_dpm_solver(monkeypatch, order, sde, karras):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        solver_order=order, algorithm_type="sde-dpmsolver++" if sde else "dpmsolver++", use_karras_sigmas=karras
    )
    scheduler.set_timesteps(20)
    same(ours(DPM[order, sde], by_sigma(scheduler), targets.noise), theirs(monkeypatch, scheduler, START))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("end", ["zero", "sigma_min"])
def test_unipc(monkeypatch, order, end):
    if (order, end) == (3, "zero"):
        pytest.skip("they lower the order of the last but one step as well")
    scheduler = diffusers.UniPCMultistepScheduler(
        solver_order=order, solver_type="bh2", lower_order_final=end == "zero", final_sigmas_type=end
    )
    scheduler.set_timesteps(20)
    same(ours(partial(unipc, order=order), by_sigma(scheduler), targets.noise), theirs(monkeypatch, scheduler, START))


@pytest.mark.parametrize("steps", [2, 20])
def test_pndm(monkeypatch, steps):
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=True)
    scheduler.set_timesteps(steps)
    path = kept(scheduler, sorted(set(scheduler.timesteps.tolist()), reverse=True))
    same(ours(plms, path, targets.noise), theirs(monkeypatch, scheduler, START))


@pytest.mark.parametrize("name", ["EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete"])
def test_solvers_in_the_noise_level(monkeypatch, name):
    """x / alpha over sigma / alpha: EDM's path, whose network sees alpha x."""
    scheduler = getattr(diffusers, f"{name}Scheduler")()
    scheduler.set_timesteps(20)
    sigmas, timesteps = scheduler.sigmas.double().tolist(), scheduler.timesteps.tolist()
    if name == "HeunDiscrete":  # every level but the ends is there twice
        sigmas, timesteps = [sigmas[0], *sigmas[1::2]], [timesteps[0], *timesteps[1::2]]
    at = dict(zip(sigmas, timesteps, strict=False))
    x = START * float(scheduler.init_noise_sigma)

    def predict(y, t):
        return recover(EDM()(t), targets.noise, y, network(y / math.sqrt(1 + t * t), at[t]))

    solver = {"EulerDiscrete": ddim, "EulerAncestralDiscrete": partial(ddim, eta=1.0), "HeunDiscrete": heun}[name]
    want = theirs(monkeypatch, scheduler, x)
    same(solver(predict, EDM(), x, sigmas, draw), want)
    if name == "EulerDiscrete":
        same(euler(predict, EDM(), x, sigmas, draw), want)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching(shift):
    """Left to itself, their grid ends at the smallest training level, shifted twice; here it is given."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=uniform(12)[:-1])
    times = shifted(uniform(12), shift)
    assert scheduler.sigmas.tolist() == pytest.approx(times, abs=1e-6)
    want = START
    for t in scheduler.timesteps:
        want = scheduler.step(network(want, float(t)), t, want).prev_sample
    got = euler(
        lambda y, t: recover(Linear()(t), targets.velocity, y, network(y, 1000 * t)), Linear(), START, times, draw
    )
    same(got, want)


@pytest.mark.parametrize("steps", [1, 4])
def test_lcm(monkeypatch, steps):
    scheduler = diffusers.LCMScheduler(clip_sample=False)
    scheduler.set_timesteps(steps)
    path = kept(scheduler, scheduler.timesteps.tolist())

    def predict(y, t):
        """Their boundary condition is part of the model: c_skip and c_out of the timestep."""
        scaled = path.timestep(t) * 10.0
        data = recover(path(t), targets.noise, y, network(y, path.timestep(t))).x
        return Prediction(y * (0.25 / (scaled**2 + 0.25)) + data * (scaled / (scaled**2 + 0.25) ** 0.5), None)

    got = multistep_consistency(predict, path, START, path.times, draw)
    same(got, theirs(monkeypatch, scheduler, START))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_consistency(monkeypatch, steps):
    scheduler = diffusers.CMStochasticIterativeScheduler(clip_denoised=False)
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.double().tolist()[: steps + 1]
    at = dict(zip(sigmas, scheduler.timesteps.tolist(), strict=False))
    low, spread = 0.002, 0.5
    times = [*sigmas[:steps], 0.0]

    def predict(y, t):
        c_skip = spread**2 / ((t - low) ** 2 + spread**2)
        c_out = (t - low) * spread / math.sqrt(t * t + spread**2)
        return Prediction(c_skip * y + c_out * network(y / math.sqrt(t * t + spread**2), at[t]), None)

    x = START * float(scheduler.init_noise_sigma)
    got = multistep_consistency(predict, EDM(), x, times, draw, end=low)
    same(got, theirs(monkeypatch, scheduler, x))
