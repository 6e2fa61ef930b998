"""The terms of the variational bound, against direct conditioning of Gaussians and bounds that are known."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from gensys import targets
from gensys.core import Batch
from gensys.denoiser import Denoiser
from gensys.noise import Noise, Stream
from gensys.objectives.denoise import denoise
from gensys.objectives.variational import (
    Chain,
    decoder,
    gaussian_kl,
    hybrid,
    posterior,
    prior_kl,
    step_of,
    term,
)
from gensys.paths import EDM, VP, Coefs, Cosine, Discrete, Linear, cosine_schedule, linear_schedule, zero_terminal_snr
from gensys.times import Steps, on, uniform

LINEAR = Discrete(linear_schedule())
CHAINS = {
    "linear": Chain(LINEAR, tuple(uniform(1000))),
    "cosine": Chain(Discrete(cosine_schedule(100)), tuple(uniform(100))),
    "respaced": Chain(LINEAR, tuple(uniform(20))),
    "pure noise": Chain(Discrete(zero_terminal_snr(linear_schedule(50))), tuple(uniform(50))),
    "flow": Chain(Linear(), tuple(uniform(10))),
    "vp": Chain(VP(), tuple(uniform(30))),
    "edm": Chain(EDM(), tuple(on(EDM(), uniform(30)))),
}
per_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)


def close(got, want, tolerance=1e-10):
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def rows(n, *shape):
    torch.manual_seed(0)
    return torch.randn(n, *shape, dtype=torch.float64)


def test_the_coefficients_of_a_schedule_are_those_of_its_betas():
    """Ho et al., equations 4 and 7; the first small is the second (Nichol and Dhariwal's code)."""
    bar = torch.tensor((1.0, *linear_schedule()), dtype=torch.float64)
    beta = 1 - bar[1:] / bar[:-1]
    k = torch.arange(1, 1001)
    step = CHAINS["linear"].at(k)
    tilde = (1 - bar[:-1]) / (1 - bar[1:]) * beta
    close(step.alpha.square(), bar[1:])
    close(step.t, k.double() / 1000)
    close(step.data, bar[:-1].sqrt() * beta / (1 - bar[1:]))
    close(step.state, (1 - beta).sqrt() * (1 - bar[:-1]) / (1 - bar[1:]))
    close((2 * step.large).exp(), beta)
    close((2 * step.small).exp(), torch.cat([tilde[1:2], tilde[1:]]))


def test_fewer_times_are_the_respaced_schedule():
    """Nichol and Dhariwal, equation 19: betas of the sub-sequence of alpha_bar."""
    bar = torch.tensor((1.0, *linear_schedule()), dtype=torch.float64)[::50]
    beta = 1 - bar[1:] / bar[:-1]
    step = CHAINS["respaced"].at(torch.arange(2, 21))
    close((2 * step.large).exp(), beta[1:])
    close((2 * step.small).exp(), ((1 - bar[:-1]) / (1 - bar[1:]) * beta)[1:])


@per_chain
def test_the_posterior_is_the_gaussian_conditioned_directly(chain):
    """x_s = alpha_s x + sigma_s eps, x_t = a x_s + noise: condition the joint Gaussian of (x_s, x_t) on x_t."""
    for k in range(2, chain.length + 1, max(1, chain.length // 9)):
        t, s = (chain.path(chain.times[chain.length - j]) for j in (k, k - 1))
        x, x_t = rows(4, 3), rows(4, 3).flip(0)
        a = t.alpha / s.alpha
        variance, covariance = t.sigma**2, a * s.sigma**2  # of x_t and of (x_s, x_t), given x
        mean = s.alpha * x + covariance / variance * (x_t - t.alpha * x)
        got, spread = posterior(chain, torch.full((4,), k), x, x_t)
        close(got, mean)
        close(spread, torch.full((4, 1), s.sigma**2 - covariance**2 / variance, dtype=torch.float64))


def test_the_kl_of_gaussians_is_the_one_of_torch():
    q, p = Normal(rows(50), rows(50).exp()), Normal(rows(50).flip(0), (0.3 * rows(50).flip(0)).exp())
    close(gaussian_kl(p.loc - q.loc, q.scale.log(), p.scale.log()), kl_divergence(q, p))


@per_chain
def test_the_prior_term(chain):
    c, x = chain.path(chain.times[0]), rows(6, 4)
    for std in (1.0, c.sigma, 2.0):
        q, p = Normal(c.alpha * x, c.sigma), Normal(torch.zeros_like(x), std)
        close(prior_kl(c, x, std), kl_divergence(q, p).sum(1), 1e-9)


@pytest.mark.parametrize("mix", [0.0, 1.0, 0.3])
def test_a_term_is_the_kl_between_posterior_and_model(mix):
    chain, x, predicted, x_t = CHAINS["linear"], rows(5, 3), rows(5, 3).flip(0), rows(5, 3).flip(1)
    k = torch.tensor([2, 3, 100, 500, 1000])
    mean, variance = posterior(chain, k, x, x_t)
    other, _ = posterior(chain, k, predicted, x_t)
    log_large = 2 * step_of(chain, k, x).large
    std = (0.5 * ((1 - mix) * variance.log() + mix * log_large)).exp()
    close(
        term(chain, k, x, predicted, mix), kl_divergence(Normal(mean, variance.sqrt()), Normal(other, std)).sum(1), 1e-9
    )


def test_with_the_variance_of_the_posterior_a_term_is_a_difference_of_snr():
    """Kingma et al., 2021, arXiv:2107.00630, equation 14: (snr_s - snr_t) |x - predicted|^2 / 2."""
    chain, x, predicted = CHAINS["cosine"], rows(99, 3), rows(99, 3).flip(0)
    k = torch.arange(2, 101)
    step, before = chain.at(k), chain.at(k - 1)
    drop = (before.alpha / before.sigma) ** 2 - (step.alpha / step.sigma) ** 2
    close(term(chain, k, x, predicted, 0.0), 0.5 * drop * (x - predicted).square().sum(1), 1e-9)


def known_bound(chain, mean, std):
    """The expected bound of the best denoiser with the best variance, for data N(mean, std^2), and what it should be.

    All steps back are then exact, so the bound misses the entropy only by KL(q(x_T) || p(x_T)). Every term is quadratic
    in what is averaged over, so it is the term at the root mean square.
    """
    top, total = chain.path(chain.times[0]), 0.0
    k = torch.arange(1, chain.length + 1)
    step = chain.at(k)
    spread = (step.alpha * std) ** 2 + step.sigma**2  # the variance of x_t
    error = std * step.sigma / spread.sqrt()  # of the best denoiser
    true = step.data.square() * error**2 + (2 * step.small).exp() * (k > 1)  # the variance of x_s, given x_t
    mix = (0.5 * true.log() - step.small) / (step.large - step.small)
    total = term(chain, k, error[:, None], torch.zeros_like(error)[:, None], mix[:, None]).sum()
    rms = torch.tensor([[math.hypot(mean, std)]], dtype=torch.float64)
    total = float(total + prior_kl(top, rms, top.sigma))
    entropy = math.log(std) + 0.5 * math.log(2 * math.pi * math.e)
    marginal = Normal(*torch.tensor([top.alpha * mean, math.hypot(top.alpha * std, top.sigma)], dtype=torch.float64))
    return total, entropy + float(kl_divergence(marginal, Normal(torch.zeros(()).double(), top.sigma)))


@pytest.mark.parametrize("name", [name for name in CHAINS if name != "edm"])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.4)])
def test_for_a_gaussian_the_terms_add_up_to_its_entropy(name, mean, std):
    if std == 1.0 and name != "flow":  # small = large is never right then; the step forward's variance is
        chain = CHAINS[name]
        step = chain.at(torch.arange(2, chain.length + 1))
        spread = step.alpha**2 + step.sigma**2
        close(step.data.square() * step.sigma**2 / spread + (2 * step.small).exp(), (2 * step.large).exp())
    got, want = known_bound(CHAINS[name], mean, std)
    assert got == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("std", [0.003, 0.05, 2.0])
def test_the_decoder_is_a_distribution_of_256_values(std):
    width = 2 / 255
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)
    for mean in (-1.3, -1.0, -0.2, 0.999):
        nats = decoder(values, torch.full_like(values, mean), torch.tensor(math.log(std), dtype=torch.float64), width)
        assert nats.isfinite().all()
        assert float((-nats).exp().sum()) == pytest.approx(1.0, abs=1e-10)
        normal = Normal(torch.tensor(mean, dtype=torch.float64), std)
        plain = normal.cdf(values[1:-1] + width / 2) - normal.cdf(values[1:-1] - width / 2)
        seen = plain > 1e-8  # below it their difference has no digits left
        close((-nats[1:-1]).exp()[seen], plain[seen], 1e-6)
        edges = torch.stack([normal.cdf(values[0] + width / 2), 1 - normal.cdf(values[-1] - width / 2)])
        torch.testing.assert_close((-nats[[0, -1]]).exp(), edges, rtol=0, atol=1e-9)


def test_the_decoder_far_from_its_mean_has_the_right_slope():
    """In single precision, 50 standard deviations off, where a difference of probabilities is 0."""
    mean = torch.tensor([0.5], requires_grad=True)
    nats = decoder(torch.zeros(1), mean, torch.tensor([-4.6]), 2 / 255)
    (slope,) = torch.autograd.grad(nats.sum(), mean)
    std = math.exp(-4.6)
    assert float(slope) == pytest.approx((0.5 - 1 / 255) / std**2, rel=0.01)
    assert nats.item() == pytest.approx(0.5 * ((0.5 - 1 / 255) / std) ** 2, rel=0.01)


def test_the_decoder_of_continuous_data_is_the_density():
    x, mean, log_std = rows(9), rows(9).flip(0), 0.2 * rows(9)
    close(decoder(x, mean, log_std, None), -Normal(mean, log_std.exp()).log_prob(x))


class Halves(nn.Module):
    """Two channels of each: a target that depends on x, and v."""

    def __init__(self):
        super().__init__()
        self.gain, self.v = nn.Parameter(torch.tensor(0.8)), nn.Parameter(torch.tensor(0.4))

    def forward(self, x, t, cond):
        return torch.cat([self.gain * x + expand_like(t, x), (self.v + 0.1 * x).expand_as(x)], 1)


def expand_like(t, x):
    return 0.1 * t.view(-1, 1, 1).expand_as(x)


def batch(n=64):
    ids = torch.arange(n)
    return Batch((torch.rand(n, 2, 3) * 255).round() * (2 / 255) - 1, {}, ids), Noise(0, ids, 3)


@pytest.mark.parametrize("width", [None, 2 / 255])
@pytest.mark.parametrize("target", [targets.noise, targets.v, targets.data], ids=lambda t: t.__name__)
def test_the_hybrid_loss_teaches_the_mean_by_one_term_and_the_variance_by_the_other(target, width):
    torch.manual_seed(0)
    data, noise = batch()
    chain = Chain(Discrete(cosine_schedule(50)), tuple(uniform(50)))
    net = Halves()
    denoiser = Denoiser(net, chain.path, target, learned_variance=True)
    loss = hybrid(denoiser, data, noise, chain=chain, width=width)
    simple = denoise(denoiser, data, noise, law=Steps(50))
    torch.testing.assert_close(loss.terms["simple"], simple.total.detach())
    torch.testing.assert_close(loss.total, loss.terms["simple"] + 0.001 * loss.terms["vlb"])
    by_gain, by_v = torch.autograd.grad(loss.total, [net.gain, net.v])
    torch.testing.assert_close(by_gain, torch.autograd.grad(simple.total, net.gain)[0])
    assert by_v.isfinite()
    assert by_v != 0


def test_the_bound_in_the_hybrid_loss_is_the_mean_over_its_steps():
    """Many rows of one datum: the mean over random k is that over all k."""
    n = 40_000
    chain = Chain(Discrete(cosine_schedule(20)), tuple(uniform(20)))
    denoiser = Denoiser(Halves(), chain.path, targets.v, learned_variance=True)
    x, ids = torch.linspace(-1, 1, 6).view(1, 2, 3).expand(n, 2, 3), torch.arange(n)
    with torch.no_grad():
        got = hybrid(denoiser, Batch(x, {}, ids), Noise(0, ids), chain=chain).terms["vlb"]
        total = 0.0
        for k in range(1, 21):
            number = torch.full((n // 20,), k)
            step = step_of(chain, number, x)
            x_t = step.alpha * x[: n // 20] + step.sigma * Noise(1, ids[: n // 20], k).normal((2, 3), Stream.EPS)
            output, mix = denoiser.split(denoiser.whole(x_t, step.t, {}))
            predicted = targets.recover(chain.path(float(step.t[0])), targets.v, x_t, output).x
            total += float(term(chain, number, x[: n // 20], predicted, mix).mean())
    assert float(got) == pytest.approx(total / (6 * math.log(2)), rel=0.03)


def test_a_row_does_not_depend_on_its_neighbours():
    data, _ = batch(8)
    chain = Chain(Discrete(cosine_schedule(50)), tuple(uniform(50)))
    denoiser = Denoiser(Halves(), chain.path, targets.v, learned_variance=True)

    def loss(rows):
        ids = data.ids[rows]
        return hybrid(denoiser, Batch(data.x[rows], {}, ids), Noise(0, ids, 3), chain=chain).total

    alone = torch.stack([loss(slice(i, i + 1)) for i in range(8)])
    torch.testing.assert_close(alone.mean(), loss(slice(None)))


def test_what_is_no_chain_is_refused():
    with pytest.raises(ValueError, match="'times' must be two or more decreasing values"):
        Chain(Cosine(), (0.0, 1.0))
    with pytest.raises(ValueError, match=r"'times' must end at the data, where sigma = 0, got 0\.1"):
        Chain(Cosine(), (1.0, 0.1))
    flat = type("Flat", (), {"__call__": lambda self, t: Coefs(0.6, 0.8 if t else 0.0, 0.0, 0.0), "span": (0.0, 1.0)})()
    with pytest.raises(ValueError, match=r"'times' must differ in their noise, got 1 and 0\.5"):
        Chain(flat, (1.0, 0.5, 0.0)).at(torch.tensor([1]))
    data, noise = batch(2)
    with pytest.raises(ValueError, match="'denoiser' must learn its variance"):
        hybrid(Denoiser(Halves(), LINEAR, targets.v), data, noise, chain=CHAINS["linear"])
