"""The bound of a chain of T steps on Gaussians, for which it is known, and the books of variational dequantisation."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from gensys import targets
from gensys.bound import variational_bound
from gensys.denoiser import Denoiser
from gensys.likelihood import bin_width, bits_per_dim, dequantise, spread, uniform_in_bin
from gensys.noise import Noise, Stream
from gensys.objectives.variational import Chain, prior_kl, term
from gensys.paths import Discrete, cosine_schedule, linear_schedule, zero_terminal_snr
from gensys.times import uniform

MEAN, STD, WIDTH = 0.1, 0.3, bin_width()


class Best(nn.Module):
    """For data N(MEAN + shift, STD^2): the best v, and the v of the variance with which the chain is exact."""

    def __init__(self, chain):
        super().__init__()
        self.chain = chain

    def forward(self, x_t, t, cond):
        k = (t * self.chain.length).round().long()
        step = self.chain.at(k)
        alpha, sigma, small, large, data = (
            value.view(-1, 1) for value in (step.alpha, step.sigma, step.small, step.large, step.data)
        )
        total = (alpha * STD) ** 2 + sigma**2
        mean = MEAN + cond.get("shift", 0.0)
        centred = x_t - alpha * mean
        output = alpha * (sigma / total * centred) - sigma * (mean + alpha * STD**2 / total * centred)
        true = (data * STD * sigma) ** 2 / total + torch.exp(2 * small) * (k > 1).view(-1, 1)
        mix = (0.5 * true.log() - small) / (large - small)
        return torch.cat([output, (2 * mix - 1).expand_as(x_t)], 1)


def best(steps, schedule=cosine_schedule):
    chain = Chain(Discrete(schedule(steps)), tuple(uniform(steps)))
    return Denoiser(Best(chain), chain.path, targets.v, learned_variance=True), chain


def data(n, size=3):
    return MEAN + STD * Noise(5, torch.arange(n)).normal((size,), Stream.PRIOR).double()


def entropy(chain, size):
    top = chain.path(chain.times[0])
    end = Normal(*torch.tensor([top.alpha * MEAN, math.hypot(top.alpha * STD, top.sigma)]))
    missed = float(kl_divergence(end, Normal(0.0, top.sigma)))
    return size * (math.log(STD) + 0.5 * math.log(2 * math.pi * math.e) + missed)


@pytest.mark.parametrize("strata", [None, 1, 4])
@pytest.mark.parametrize("steps", [3, 30])
def test_with_the_best_network_the_bound_is_the_entropy(steps, strata):
    if strata == 4 and steps == 3:
        return  # too many
    denoiser, chain = best(steps)
    n = 2000
    x, noise = data(n), Noise(1, torch.arange(n))
    got = variational_bound(denoiser, x, {}, noise, chain, variance="learned", strata=strata)
    error = float(got.log_prob.std()) / n**0.5
    assert float(-got.log_prob.mean()) == pytest.approx(entropy(chain, 3), abs=3.5 * error)
    torch.testing.assert_close(got.log_prob, -(got.prior + got.transitions + got.decoder))
    top = chain.path(1.0)
    assert torch.equal(got.prior, prior_kl(top, x, top.sigma))
    assert got.terms.shape == got.numbers.shape == (n, steps - 1 if strata is None else 2 * strata)
    if strata is None:
        assert got.error.isnan().all()
        assert torch.equal(got.numbers[7], torch.arange(steps, 1, -1))
    fixed = [variational_bound(denoiser, x, {}, noise, chain, variance=v, strata=strata) for v in ("small", "large")]
    assert all(float(worse.log_prob.mean()) < float(got.log_prob.mean()) for worse in fixed)


def test_the_terms_are_those_of_the_objective():
    denoiser, chain = best(10)
    x, noise = data(4), Noise(3, torch.arange(4))
    got = variational_bound(denoiser, x, {}, noise, chain)
    number = 6
    c = chain.path(number / 10)
    eps = noise.at(5).normal((3,), Stream.EPS).double()  # the fifth call from the noisy end
    x_t = c.alpha * x + c.sigma * eps
    output = denoiser(x_t, torch.full((4,), number / 10, dtype=torch.float64), {})
    predicted = targets.recover(c, targets.v, x_t, output).x
    torch.testing.assert_close(got.terms[:, 4], term(chain, torch.full((4,), number), x, predicted, 0.0))


def test_strata_hold_every_step_alike_and_their_error_is_right():
    """Many rows of one datum: each estimate is that of all steps, as far off as it says."""
    denoiser, chain = best(200, linear_schedule)
    n = 3000
    x = data(1).expand(n, 3)
    got, full = (
        variational_bound(denoiser, x, {}, Noise(2, torch.arange(n)), chain, variance="large", strata=s)
        for s in (3, None)
    )
    difference = got.log_prob.mean() - full.log_prob.mean()
    assert abs(float(difference)) < 3.5 * float((got.log_prob.var() / n + full.log_prob.var() / n).sqrt())
    inner = float(full.decoder.var())  # not in the error: it is evaluated once
    assert float(got.error.square().mean()) == pytest.approx(float(got.log_prob.var()) - inner, rel=0.15)
    counts = torch.bincount(got.numbers.flatten(), minlength=201)[2:]
    assert counts.sum() == 6 * n
    lengths = torch.tensor([len(range(199 * i // 3, 199 * (i + 1) // 3)) for i in range(3)])
    each = torch.repeat_interleave(2 * n / lengths, lengths)
    assert ((counts - each).abs() < 4.5 * each.sqrt()).all()
    assert (got.numbers[:, 0::2] != got.numbers[:, 1::2]).all()


def test_a_row_does_not_depend_on_its_neighbours_and_follows_its_condition():
    denoiser, chain = best(20)
    x, shift = data(6), torch.arange(6.0).view(6, 1).double()
    for strata in (None, 3):

        def bound(rows, strata=strata):
            noise = Noise(4, torch.arange(6)[rows])
            return variational_bound(
                denoiser, x[rows] + shift[rows], {"shift": shift[rows]}, noise, chain, variance="learned", strata=strata
            ).log_prob

        torch.testing.assert_close(bound(slice(2, 4)), bound(slice(None))[2:4])
    assert float(bound(slice(None)).min()) > -60  # far off, if the condition were not followed


def test_integers_are_told_without_dequantisation():
    """8-bit data of one Gaussian: the bound in bits is the entropy of the integers, if bins are narrow beside it."""
    denoiser, chain = best(30)
    n = 1500
    x = ((data(n).clamp(-1, 1) + 1) / WIDTH).round() * WIDTH - 1
    found = variational_bound(denoiser, x, {}, Noise(1, torch.arange(n)), chain, variance="learned", width=WIDTH)
    bits = bits_per_dim(found.log_prob, 3)
    want = (entropy(chain, 3) / 3 - math.log(WIDTH)) / math.log(2)
    assert float(bits.mean()) == pytest.approx(want, abs=0.05)
    clipped = variational_bound(
        denoiser, x, {}, Noise(1, torch.arange(n)), chain, variance="learned", width=WIDTH, clip=(-0.2, 0.2)
    )
    assert float(bits_per_dim(clipped.log_prob, 3).mean()) > float(bits.mean()) + 0.1


def test_what_cannot_be_bounded_is_said():
    denoiser, chain = best(10)
    x, noise = data(3), Noise(0, torch.arange(3))
    with pytest.raises(ValueError, match="'noise' must have an id for each of 2 rows, got 3"):
        variational_bound(denoiser, x[:2], {}, noise, chain)
    with pytest.raises(ValueError, match="'variance' must be 'small', 'large' or 'learned', got 'tiny'"):
        variational_bound(denoiser, x, {}, noise, chain, variance="tiny")
    for strata in (0, 5):
        with pytest.raises(ValueError, match=f"'strata' must be 1 to 4, .* got {strata}; None takes all"):
            variational_bound(denoiser, x, {}, noise, chain, strata=strata)
    plain = Denoiser(nn.Identity(), chain.path, targets.noise)
    with pytest.raises(ValueError, match="'variance' is 'learned', and the network learns none"):
        variational_bound(plain, x, {}, noise, chain, variance="learned")
    black = Discrete(zero_terminal_snr(linear_schedule(50)))
    with pytest.raises(ValueError, match="'target' noise cannot be inverted"):
        variational_bound(Denoiser(nn.Identity(), black, targets.noise), x, {}, noise, Chain(black, (1.0, 0.5, 0.0)))
    one = variational_bound(best(1)[0], x, {}, noise, best(1)[1])  # no transitions
    assert (one.terms.shape, float(one.transitions.abs().max())) == ((3, 0), 0.0)


class Truncated:
    """q(u | x) proportional to the model's density within the bin: of N(mean, std^2), by its inverse distribution."""

    def __init__(self, mean, std, width):
        self.normal, self.width = Normal(mean, std), width

    def __call__(self, x, noise):
        w = noise.uniform(tuple(x.shape[1:]), Stream.DEQUANTISE).double()
        low, high = (self.normal.cdf(x + self.width * side) for side in (-0.5, 0.5))
        y = self.normal.icdf(low + w * (high - low))
        log_q = self.normal.log_prob(y) + math.log(self.width) - (high - low).log()
        return (y - x) / self.width + 0.5, log_q.flatten(1).sum(1)


@pytest.mark.parametrize("std", [0.4, 2.0])
def test_the_best_law_in_the_bin_makes_the_bound_tight_and_the_uniform_one_does_not(std):
    """A Gaussian hardly wider than its bins: P(k) is known, row by row, and no law does better."""
    width, n, size = 0.5, 4000, 4
    mean, std = torch.tensor(0.2, dtype=torch.float64), width * std
    normal = Normal(mean, std)
    level = mean + std * Noise(6, torch.arange(n)).normal((size,), Stream.PRIOR).double()
    x = (level / width).round() * width
    exact = (normal.cdf(x + width / 2) - normal.cdf(x - width / 2)).log().sum(1)
    want = bits_per_dim(exact, size)
    noise = Noise(7, torch.arange(n))

    y, log_q = spread(x, noise, width, Truncated(mean, std, width))
    assert ((y - x).abs() <= width / 2).all()
    tight = bits_per_dim(normal.log_prob(y).sum(1), size, width, log_q)
    torch.testing.assert_close(tight, want, rtol=0, atol=1e-9)

    y, log_q = spread(x, noise, width)
    assert torch.equal(y, dequantise(x, noise, width))
    loose = bits_per_dim(normal.log_prob(y).sum(1), size, width, log_q)
    assert torch.equal(loose, bits_per_dim(normal.log_prob(y).sum(1), size, width))
    gap = loose - tight
    assert float(gap.mean()) > 4 * float(gap.std()) / n**0.5  # KL(uniform || the best), about 1 / 24 (width / std)^2

    # between the two, by a mixture of the books: a worse model of the bin is a worse bound
    wrong = spread(x, noise, width, Truncated(mean + 0.1 * std, std, width))
    between = bits_per_dim(normal.log_prob(wrong[0]).sum(1), size, width, wrong[1])
    assert float(want.mean()) < float(between.mean()) < float(loose.mean())


def test_books_of_bins_that_are_wrong():
    x, noise = torch.zeros(2, 3), Noise(0, torch.arange(2))
    with pytest.raises(ValueError, match=r"'law' must return u in \(0, 1\), got 2 to 2"):
        spread(x, noise, 1.0, lambda x, noise: (x + 2.0, x[:, 0]))
    with pytest.raises(ValueError, match=r"'law' must return u \(2, 3\) and log q \(2,\), got \(2, 3\) and \(2, 3\)"):
        spread(x, noise, 1.0, lambda x, noise: (x + 0.5, x))
    with pytest.raises(ValueError, match=r"'log_q' must be \(2,\) as 'log_prob', got \(3,\)"):
        bits_per_dim(torch.zeros(2), 3, 1.0, torch.zeros(3))
    assert torch.equal(uniform_in_bin(x, noise)[1], torch.zeros(2))
