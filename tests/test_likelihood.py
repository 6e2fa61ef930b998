"""The likelihood of path models whose density is known: a Gaussian mixture, with its score in closed form."""

import math

import pytest
import torch
from torch import nn

from gensys import targets
from gensys.bound import variational_bound
from gensys.core import HasBits, HasLikelihood
from gensys.denoiser import Denoiser, gaussian
from gensys.families.diffusion import Diffusion, Sampler
from gensys.likelihood import Hutchinson, bin_width, bits_per_dim, dequantise, log_prob
from gensys.noise import Noise, Stream
from gensys.objectives.variational import Chain
from gensys.paths import EDM, VE, VP, Cosine, Linear, SubVP, expand
from gensys.times import uniform

MEANS = torch.tensor([[1.0, -0.5], [-1.2, 0.3], [0.2, 1.5]], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


class Mixture(nn.Module):
    """The best network for the target, for data of a mixture of Gaussians; "shift" (B, 2) moves the data."""

    def __init__(self, path, target):
        super().__init__()
        self.path, self.target = path, target
        self.means, self.stds = nn.Parameter(MEANS.clone()), STDS

    def forward(self, x_t, t, cond):
        c = self.path(expand(t, x_t))
        means = self.means + cond.get("shift", torch.zeros_like(x_t))[:, None]
        z = x_t[:, None] - c.alpha[..., None] * means
        v = (c.alpha * self.stds) ** 2 + c.sigma**2
        logits = WEIGHTS.log() - 0.5 * z.square().sum(2) / v - v.log()
        share = logits.softmax(1)[..., None]
        data = (share * (means + (c.alpha * self.stds**2 / v)[..., None] * z)).sum(1)
        eps = (share * (c.sigma / v)[..., None] * z).sum(1)
        a, b = self.target(c)
        return a * data + b * eps


def density(x, scale=1.0, noise=0.0):
    """log of the mixture's density after scale x + noise eps."""
    v = (scale * STDS) ** 2 + noise**2
    z = (x[:, None] - scale * MEANS).square().sum(2)
    return (WEIGHTS.log() - 0.5 * z / v - (2 * math.pi * v).log()).logsumexp(1)


def points(n):
    torch.manual_seed(0)
    k = torch.multinomial(WEIGHTS, n, replacement=True)
    return MEANS[k] + STDS[k, None] * torch.randn(n, 2, dtype=torch.float64)


def model(path=None, target=targets.velocity):
    path = path or Linear()
    return Denoiser(Mixture(path, target), path, target)


@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=repr)
@pytest.mark.parametrize("target", [targets.velocity, targets.v], ids=["velocity", "v"])
def test_a_mixture_has_its_likelihood(path, target):
    x = points(40)
    usual = log_prob(model(path, target), x, {})
    torch.testing.assert_close(usual.log_prob, density(x), rtol=0, atol=1e-4)
    tight = log_prob(model(path, target), x, {}, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(tight.log_prob, density(x), rtol=0, atol=1e-6)
    assert not tight.error.any()
    assert not tight.log_prob.requires_grad
    assert (tight.evaluations > usual.evaluations).all()


class One(nn.Module):
    """The network for data N(0.7, 0.4^2), whatever the shape; it predicts the noise."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def forward(self, x_t, t, cond):
        c = self.path(expand(t, x_t))
        return c.sigma / ((c.alpha * 0.4) ** 2 + c.sigma**2) * (x_t - c.alpha * 0.7)


@pytest.mark.parametrize(("path", "start"), [(VP(), 1e-5), (SubVP(), 1e-3), (VE(), 1e-5), (EDM(), 1e-6)], ids=repr)
def test_the_density_is_that_of_the_flow_from_the_prior(path, start):
    """For a Gaussian the flow is affine, so the density that the prior becomes is a Gaussian, known exactly."""
    x = 0.7 + 0.4 * torch.linspace(-2, 2, 12, dtype=torch.float64).view(3, 2, 2)
    got = log_prob(Denoiser(One(path), path, targets.noise), x, {}, start=start, rtol=1e-8, atol=1e-8)
    low, high = path.span
    a, b = path(low + start * (high - low)), path(high)
    spread = math.sqrt(((a.alpha * 0.4) ** 2 + a.sigma**2) / ((b.alpha * 0.4) ** 2 + b.sigma**2))
    mean, std = a.alpha * 0.7 - spread * b.alpha * 0.7, spread * b.sigma  # of where N(0, sigma_T^2) is taken
    exact = torch.distributions.Normal(mean, std).log_prob(x).sum((1, 2))
    torch.testing.assert_close(got.log_prob, exact.double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(got.latent, b.alpha * 0.7 + (x - a.alpha * 0.7) / spread, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_hutchinson_is_within_its_error(law):
    x = points(30)
    hutchinson = Hutchinson(Noise(1, torch.arange(30)), 64, law)
    got = log_prob(model(), x, {}, divergence=hutchinson, rtol=1e-6, atol=1e-6)
    z = (got.log_prob - density(x)) / got.error
    assert z.abs().max() < 3.5, "of 30"  # the largest of so many; a single one is within 3
    assert 0.4 < float(z.square().mean()) < 1.8, "the bar is as long as the error"
    alone = log_prob(
        model(), x[7:8], {}, divergence=Hutchinson(Noise(1, torch.tensor([7])), 64, law), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(alone.log_prob, got.log_prob[7:8], rtol=0, atol=1e-9)


def test_one_probe_has_no_error_bar():
    x = points(3)
    got = log_prob(model(), x, {}, divergence=Hutchinson(Noise(1, torch.arange(3))))
    assert got.error.isnan().all()
    assert got.log_prob.isfinite().all()


@pytest.mark.parametrize("probes", [None, 2])
def test_gradients(probes):
    """To the data and the parameters, against differences; an exact one is the score of the data."""
    denoiser, x = model(), points(4).requires_grad_()
    divergence = None if probes is None else Hutchinson(Noise(1, torch.arange(4)), probes)

    def value(x):
        options = {"divergence": divergence, "rtol": 1e-8, "atol": 1e-8, "differentiable": True}
        return log_prob(denoiser, x, {}, **options).log_prob.sum()

    by_x, by_means = torch.autograd.grad(value(x), [x, denoiser.net.means])
    if probes is None:
        (score,) = torch.autograd.grad(density(x).sum(), x)
        torch.testing.assert_close(by_x, score, rtol=0, atol=1e-4)
    step = torch.zeros_like(MEANS)
    step[1, 0] = 1e-4
    with torch.no_grad():
        denoiser.net.means += step
        above = value(x)
        denoiser.net.means -= 2 * step
        below = value(x)
    assert float(by_means[1, 0]) == pytest.approx(float(above - below) / 2e-4, rel=1e-3, abs=1e-4)


def test_a_diffusion_has_a_likelihood_of_data_under_their_condition():
    diffusion = Diffusion(model(), (2,), sampler=Sampler(fractions=tuple(uniform(5))))
    assert isinstance(diffusion, HasLikelihood)
    x, shift = points(5), torch.arange(10, dtype=torch.float64).view(5, 2)
    got = diffusion.log_prob(x + shift, {"shift": shift})
    torch.testing.assert_close(got, density(x), rtol=0, atol=1e-3)
    noisy = Hutchinson(Noise(0, torch.arange(5)), 8)
    torch.testing.assert_close(diffusion.log_prob(x + shift, {"shift": shift}, noisy), density(x), rtol=0, atol=1.5)


@pytest.mark.parametrize(("path", "target"), [(Linear(), targets.velocity), (VP(), targets.v)], ids=["linear", "vp"])
def test_bits_of_a_diffusion_are_those_of_its_flow(path, target):
    diffusion = Diffusion(model(path, target), (2,), sampler=Sampler(fractions=tuple(uniform(5))))
    assert isinstance(diffusion, HasBits)
    x = points(5)
    got = diffusion.bits(x, {"shift": torch.zeros_like(x)}, Noise(0, torch.arange(5)), None)
    torch.testing.assert_close(got.per_dim, -density(x) / 2 / math.log(2.0), rtol=0, atol=5e-3)
    assert got.about == "probability flow, exact divergence"


def test_a_consistency_model_has_no_bits():
    target = targets.Landing(targets.velocity, Linear()(0.002))
    made = Diffusion(model(Linear(), target), (2,), sampler=Sampler(fractions=(0.9, 0.5, 0.1)))
    assert made.bits(points(3), {}, Noise(0, torch.arange(3)), None) is None


def test_one_probe_has_the_bits_of_a_normal_law():
    """Its flow's Jacobian is a multiple of the identity, of which one probe sees all."""

    class Normal(nn.Module):
        def forward(self, x, t, cond):
            c = VP()(expand(t, x))
            return c.sigma * x / (c.alpha**2 + c.sigma**2)

    ids = torch.arange(4)
    x, noise = Noise(1, ids).normal((20,), Stream.EPS).double(), Noise(0, ids)
    got = Diffusion(Denoiser(Normal(), VP(), targets.noise), (20,)).bits(x, {}, noise, 0.5)
    want = torch.distributions.Normal(0.0, 1.0).log_prob(dequantise(x, noise, 0.5)).sum(1)
    torch.testing.assert_close(got.per_dim, bits_per_dim(want, 20, 0.5), rtol=0, atol=1e-3)
    assert got.about == "probability flow, one probe, uniform dequantisation"


@pytest.mark.parametrize(
    ("target", "base", "said"),
    [
        (targets.Landing(targets.velocity, Linear()(0.002)), gaussian, "'denoiser' is a consistency model"),
        (targets.Consistency(Linear()(0.002)), gaussian, "'denoiser' is a consistency model"),
        (targets.velocity, lambda noise, shape, stream: noise.uniform(shape, stream), "'denoiser' has a base of its"),
    ],
)
def test_what_has_no_such_density_is_refused(target, base, said):
    """Both would give a number, and a wrong one."""
    x, noise, path = points(2), Noise(0, torch.arange(2)), Linear()
    denoiser = Denoiser(nn.Identity(), path, target, base=base)
    with pytest.raises(ValueError, match=said):
        log_prob(denoiser, x, {})
    with pytest.raises(ValueError, match=said):
        variational_bound(denoiser, x, {}, noise, Chain(path, (0.99, 0.5, 0.0)))


def test_what_cannot_be_done_is_said():
    x = points(2)
    with pytest.raises(ValueError, match=r"'start' must be above 0 for VP.*slope is infinite at t = 0"):
        log_prob(model(VP(), targets.noise), x, {})
    with pytest.raises(ValueError, match="'target' noise cannot be inverted on Linear"):
        log_prob(model(Linear(), targets.noise), x, {})
    with pytest.raises(ValueError, match="'noise' must have an id for each of 2 rows, got 3"):
        log_prob(model(), x, {}, divergence=Hutchinson(Noise(0, torch.arange(3))))
    with pytest.raises(ValueError, match="'probes' must be at least 1"):
        Hutchinson(Noise(0, torch.arange(3)), 0)
    with pytest.raises(ValueError, match="'law' must be 'rademacher' or 'gaussian'"):
        Hutchinson(Noise(0, torch.arange(3)), 1, "uniform")


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)])
def test_the_books_of_bits(low, high):
    """A uniform density over all bins is 8 bits, whatever the data's units; a narrow one is bounded from above."""
    width = bin_width(256, low, high)
    level = torch.randint(0, 256, (500, 12), dtype=torch.float64)
    y = dequantise(low + width * level, Noise(3, torch.arange(500)), width)
    assert ((y - low) / width - level).abs().max() <= 0.5
    span = 256 * width
    torch.testing.assert_close(
        bits_per_dim(torch.full((500,), -12 * math.log(span)), 12, width), torch.full((500,), 8.0)
    )

    normal = torch.distributions.Normal(low + 128 * width, 20 * width)
    k = torch.arange(256, dtype=torch.float64)
    p = normal.cdf(low + width * (k + 0.5)) - normal.cdf(low + width * (k - 0.5))
    level = torch.multinomial(p, 24_000, replacement=True).double().view(2000, 12)
    y = dequantise(low + width * level, Noise(4, torch.arange(2000)), width)
    bits = float(bits_per_dim(normal.log_prob(y).sum(1), 12, width).mean())
    true = float(-(p * p.log2()).sum())
    assert true - 0.02 < bits < true + 0.05


def test_bad_books():
    with pytest.raises(ValueError, match="'levels' must be at least 2"):
        bin_width(1)
    with pytest.raises(ValueError, match="'size' must be at least 1 and 'width' positive"):
        bits_per_dim(torch.zeros(1), 3, 0.0)
