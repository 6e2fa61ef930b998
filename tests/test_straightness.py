"""Straightness against flows whose lines are known: straight ones, one that bends, a Gaussian's."""

import math

import pytest
import torch
from torch import nn

from gensys import targets
from gensys.denoiser import Denoiser, gaussian
from gensys.families.diffusion import Diffusion, Sampler
from gensys.families.latent import Latent
from gensys.guidance import Guidance
from gensys.noise import Noise
from gensys.paths import Cosine, Linear, expand
from gensys.solvers import euler
from gensys.straightness import flow_of, straightness

NOISE = Noise(3, torch.arange(50))


class Field(nn.Module):
    """net = f(x, t, label or 0)."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x, t, cond):
        return self.f(x, expand(t, x), expand(cond.get("label", torch.zeros(len(x))), x))


def flow(f, shape=(3,), base=gaussian, **options):
    return Diffusion(Denoiser(Field(f), Linear(), targets.velocity, base=base), shape, **options)


@pytest.mark.parametrize("base", [gaussian, Noise.normal])
def test_a_constant_slope_is_straight(base):
    """All is carried by -(1, 2, 3): the cost is 14, and one step is enough."""
    slope = flow(lambda x, t, c: torch.tensor([1.0, 2.0, 3.0]).expand_as(x), base=base)
    found = straightness(slope, {}, NOISE, steps=7)
    torch.testing.assert_close(found.cost, torch.full((50,), 14.0).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.straightness, torch.zeros(50).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.one_step, torch.zeros(50).double(), rtol=0, atol=1e-10)
    assert (found.evaluations <= 20).all()


def test_a_slope_that_turns_with_time():
    """v = sin(2 pi t): it comes back to where it was, so the cost is 0, the energy 1/2, and one step (v(1) = 0) errs
    by nothing; v = cos(2 pi t): one step errs by 1 in every element."""
    turns = straightness(flow(lambda x, t, c: torch.sin(2 * math.pi * t).expand_as(x)), {}, NOISE, steps=64)
    torch.testing.assert_close(turns.straightness, torch.full((50,), 1.5).double(), rtol=1e-5, atol=0)
    assert turns.cost.max() < 1e-10
    assert turns.one_step.max() < 1e-10
    late = straightness(flow(lambda x, t, c: torch.cos(2 * math.pi * t).expand_as(x)), {}, NOISE, steps=64)
    torch.testing.assert_close(late.one_step, torch.full((50,), 3.0).double(), rtol=1e-5, atol=0)
    assert late.evaluations.mean() > 20


@pytest.mark.parametrize("spread", [1.0, 0.2])
def test_the_flow_to_a_gaussian(spread):
    """x_t = r(t) eps with r^2 = (s (1 - t))^2 + t^2: cost (1 - s)^2 eps^2, energy the integral of r'^2 eps^2."""

    def v(x, t, c):
        return (t - spread**2 * (1 - t)) / (t**2 + (spread * (1 - t)) ** 2) * x

    model = flow(v, (2,))
    found = straightness(model, {}, NOISE, steps=200)
    eps = model.initial(NOISE).double().square().sum(1)
    t = (torch.arange(200_000).double() + 0.5) / 200_000
    r2 = t**2 + (spread * (1 - t)) ** 2
    energy = ((t - spread**2 * (1 - t)) ** 2 / r2).mean()
    torch.testing.assert_close(found.energy, energy * eps, rtol=2e-3, atol=0)
    torch.testing.assert_close(found.cost, (1 - spread) ** 2 * eps, rtol=5e-3, atol=1e-4)
    assert (found.straightness > 0.05 * eps).all()
    # one step goes to eps - v(eps, 1) = 0
    torch.testing.assert_close(found.one_step, spread**2 * eps, rtol=2e-2, atol=1e-4)


def test_guidance_and_labels_are_those_of_the_model():
    """v = 1 with a label, 0 without: guided by 3 it is 3."""
    label = {"label": torch.zeros(50, dtype=torch.int64)}
    model = flow(
        lambda x, t, c: torch.where(c < 0, 0.0, 1.0).expand_as(x), sampler=Sampler(euler, (1.0, 0.0), Guidance(3.0))
    )
    torch.testing.assert_close(straightness(model, label, NOISE, steps=3).cost, torch.full((50,), 27.0).double())
    assert model.sampler.solver is euler


def test_a_row_does_not_depend_on_its_neighbours():
    def v(x, t, c):
        return torch.tanh(3 * x) * (1 + t)

    whole, part = (straightness(flow(v), {}, Noise(3, ids), steps=9) for ids in (NOISE.ids, NOISE.ids[20:23]))
    for all_rows, some in zip(whole, part, strict=True):
        torch.testing.assert_close(all_rows[20:23], some)


def test_only_flows_along_straight_lines_are_measured():
    model = flow(lambda x, t, c: x)
    assert flow_of(model) is model
    assert flow_of(Latent(model, lambda: None, lambda z: z)) is model
    for path, target in ((Cosine(), targets.velocity), (Linear(), targets.v)):
        other = Diffusion(Denoiser(Field(lambda x, t, c: x), path, target), (3,))
        with pytest.raises(ValueError, match=r"path Linear.* and the target velocity is wanted, got .*rectified_flow"):
            straightness(other, {}, NOISE)
    with pytest.raises(ValueError, match="a flow is wanted, got Encoder"):
        flow_of(type("Encoder", (nn.Module,), {})())
    with pytest.raises(ValueError, match="'steps' must be at least 1, got 0"):
        straightness(model, {}, NOISE, steps=0)
