"""Score SDEs, EDM, DiT and latent diffusion as they are put together: losses and inputs against published formulas."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from gensys import targets
from gensys.core import Batch
from gensys.denoiser import Denoiser
from gensys.families.diffusion import Sampler
from gensys.nn.embed import CLOCK
from gensys.nn.mlp import MLP
from gensys.noise import Noise, Stream
from gensys.paths import EDM, VE, VP, Cosine, Linear, SubVP
from gensys.solvers import ddim, euler_maruyama, heun, predictor_corrector
from gensys.systems.dit import PATH as LINEAR
from gensys.systems.edm import edm
from gensys.systems.latent_diffusion import PATH as SCALED
from gensys.systems.score_sde import even_on_noise, score_sde
from gensys.times import karras, log_snr

IDS = torch.arange(64)
SAMPLER = Sampler(heun, tuple(karras(EDM(), 6)))


class Seen(nn.Module):
    """A network that keeps what it is given and answers with a fixed function of it, in float64."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, t, cond):
        self.x, self.t = x, t
        return self.scale * torch.tanh(x + t.reshape(-1, *[1] * (x.ndim - 1)))


def data():
    return 0.5 * Noise(3, IDS).normal((3,), Stream.PRIOR).double() + 0.1


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_edm_is_preconditioned_as_published(sigma_data):
    """Karras et al., 2022, table 1: D = c_skip x_t + c_out F(c_in x_t, c_noise), lambda c_out^2 = 1."""
    net = Seen()
    model = edm(net, (3,), sigma_data=sigma_data, sampler=SAMPLER)
    sigma = torch.logspace(-3, math.log10(80.0), 40, dtype=torch.float64)
    x_t = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * sigma[:, None]
    output = model.denoiser(x_t, sigma, {})
    s = (sigma**2 + sigma_data**2).sqrt()
    torch.testing.assert_close(net.x, x_t / s[:, None], rtol=0, atol=1e-10)
    torch.testing.assert_close(CLOCK * net.t, sigma.log() / 4, rtol=0, atol=1e-10)
    c = model.denoiser.path(sigma[:, None])
    denoised = targets.recover(c, model.denoiser.target, x_t, output).x
    c_skip, c_out = (sigma_data**2 / s**2)[:, None], (sigma * sigma_data / s)[:, None]
    torch.testing.assert_close(denoised, c_skip * x_t + c_out * output, rtol=0, atol=1e-10)


@pytest.mark.parametrize("s", [0.5, 1.0])
def test_the_loss_of_edm_is_the_published_one(s):
    """E lambda(sigma) |D(x + sigma n) - x|^2, lambda = (sigma^2 + s^2) / (sigma s)^2, ln sigma ~ N(-1.2, 1.2^2).

    Of data that are twice as large the noise is too.
    """
    net, x = Seen(), data()
    model = edm(net, (3,), sigma_data=s, sampler=SAMPLER)
    noise = Noise(1, IDS, 5)
    got = model.loss(Batch(x, {}, IDS), noise, "model").total
    sigma = 2 * s * torch.exp(-1.2 + 1.2 * noise.normal((1,), Stream.TIME).double())
    x_t = x + sigma * noise.normal((3,), Stream.EPS).double()
    total = (sigma**2 + s**2).sqrt()
    f = net(x_t / total, (sigma.log() / 4 / CLOCK)[:, 0], {})
    d = s**2 / total**2 * x_t + sigma * s / total * f
    wanted = (total**2 / (sigma * s) ** 2 * (d - x).square()).mean()
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=0)  # times are float32


@pytest.mark.parametrize("path", [VP(), SubVP(), VE(0.01, 20.0)], ids=repr)
def test_a_score_is_learned_as_the_noise_is(path):
    """sigma^2 |score error|^2 = |eps error|^2: networks that say the same have the same loss, in both outputs."""

    class Minus(nn.Module):
        """eps / -sigma, of a network for eps."""

        def forward(self, x, t, cond):
            return net(x, t, cond) / -path(clock)[1][:, None]

    net, x, noise = Seen(), data(), Noise(1, IDS, 2)
    clock = 1e-5 + (1 - 1e-5) * noise.uniform((1,), Stream.TIME)[:, 0]
    losses = [
        score_sde(m, (3,), path=path, target=target, sampler=Sampler(ddim, tuple(karras(path, 4))))
        .loss(Batch(x, {}, IDS), noise, "model")
        .total
        for m, target in ((net, targets.noise), (Minus(), targets.score))
    ]
    c = path(clock.double()[:, None])
    eps = noise.normal((3,), Stream.EPS).double()
    denoiser = Denoiser(net, path, targets.noise, sigma_data=0.5 if isinstance(path, VE) else None)
    wanted = (denoiser(c.alpha * x + c.sigma * eps, clock, {}) - eps).square().mean()
    torch.testing.assert_close(torch.stack(losses), wanted.expand(2), rtol=1e-5, atol=0)
    for target, weight in ((targets.noise, torch.ones_like(c.sigma)), (targets.score, c.sigma**2)):
        torch.testing.assert_close(even_on_noise(c, target), weight, rtol=1e-12, atol=0)


@pytest.mark.parametrize("path", [Linear(), Cosine(), VE(), EDM()], ids=repr)
def test_scaled_inputs_are_finite_at_both_ends_and_a_row_depends_on_itself(path):
    net = Seen()
    denoiser = Denoiser(net, path, targets.velocity, sigma_data=0.5)
    t = torch.linspace(*path.span, 7)
    x_t = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    denoiser(x_t, t, {})
    x, level = net.x, net.t
    assert x.isfinite().all()
    assert level.isfinite().all()
    assert bool((level.diff() > 0).all())
    assert CLOCK * float(level[0]) == pytest.approx(-6 * math.log(2))
    for row in range(7):
        denoiser(x_t[row : row + 1], t[row : row + 1], {})
        assert torch.equal(net.x[0], x[row])
        assert torch.equal(net.t[0], level[row])


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, math.nan, math.inf])
def test_a_spread_that_is_none_is_refused(sigma_data):
    with pytest.raises(ValueError, match="'sigma_data' must be positive, got"):
        Denoiser(MLP(3, width=4), EDM(), targets.EDM(), sigma_data=sigma_data)


class Exact(nn.Module):
    """eps of data N(0, s^2 I), from the scaled input on VE and from x_t elsewhere."""

    def __init__(self, path, s):
        super().__init__()
        self.path, self.s = path, s

    def forward(self, x, t, cond):
        if isinstance(self.path, VE):  # x = x_t / sqrt(s^2 + sigma^2), CLOCK t = ln(sigma) / 4
            sigma = torch.exp(4 * CLOCK * t)[:, None]
            return sigma / (self.s**2 + sigma**2).sqrt() * x
        c = self.path(t.double()[:, None])
        return (c.sigma / ((c.alpha * self.s) ** 2 + c.sigma**2)).float() * x


@pytest.mark.parametrize("solver", [ddim, heun, euler_maruyama, predictor_corrector])
@pytest.mark.parametrize("path", [VP(), SubVP(), VE(0.01, 20.0)], ids=repr)
def test_the_exact_score_draws_the_data(path, solver):
    """Samples of a Gaussian of the right spread: 4,096 numbers, 3 standard errors and the error of 60 steps.

    Data of many elements: the corrector's step, of norms, is meant for them.
    """
    s, ids = 0.5, torch.arange(16)
    sampler = Sampler(solver, tuple(log_snr(path, 60, 0.01)))
    model = score_sde(Exact(path, s), (256,), path=path, sigma_data=s, sampler=sampler)
    x = model.sample({}, Noise(0, ids))
    assert float(x.std()) == pytest.approx(s, rel=0.034 + 0.04)
    assert abs(float(x.mean())) < 3 * s / 4096**0.5


def test_the_schedules_are_those_of_the_papers():
    """Betas from 1e-4 to 0.02; from 0.00085 to 0.012 in their square roots; over 1,000 steps."""
    roots = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
    for path, betas in ((LINEAR, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)), (SCALED, roots**2)):
        wanted = (1 - betas).cumprod(0)
        alpha = path((torch.arange(1000, dtype=torch.float64) + 1) / 1000).alpha
        torch.testing.assert_close(alpha**2, wanted, rtol=1e-10, atol=0)


def test_a_loss_does_not_see_its_neighbours():
    x, cond = data().float(), {"label": IDS % 3}
    torch.manual_seed(0)
    net = MLP(3, width=16, classes=3)
    cases = (edm(net, (3,), sampler=SAMPLER, dropout=0.5), score_sde(net, (3,), path=VP(), dropout=0.5))
    for model in cases:
        loss = partial(model.loss, player="model")
        rows = [loss(Batch(x[k : k + 1], {"label": IDS[k : k + 1] % 3}, IDS[k : k + 1]), Noise(1, IDS[k : k + 1])).total
                for k in range(8)]  # fmt: skip
        whole = loss(Batch(x[:8], {"label": cond["label"][:8]}, IDS[:8]), Noise(1, IDS[:8])).total
        torch.testing.assert_close(torch.stack(rows).mean(), whole, rtol=1e-5, atol=0)
