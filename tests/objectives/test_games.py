"""Games and penalties against closed forms: the best critic of two laws on a few points, linear critics."""

import math

import pytest
import torch
from scipy.stats import wasserstein_distance
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from gensys.noise import Noise
from gensys.objectives.games import (
    InstanceNoise,
    hinge,
    least_squares,
    minimax,
    non_saturating,
    wasserstein,
)
from gensys.objectives.penalties import R1, GradientPenalty, Lazy, input_gradient

P = torch.tensor([5, 1, 3, 1, 0, 6])  # how often each of six points is seen, of 16
Q = torch.tensor([1, 4, 3, 2, 5, 1])
p, q = P.double() / 16, Q.double() / 16
SCORES = torch.linspace(-4, 4, 9, dtype=torch.float64)


def best(game, p_counts, q_counts):
    """The least loss of any critic, which gives each point a score of its own."""
    s = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([s], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def loss():
        optimizer.zero_grad()
        value = game.critic(s.repeat_interleave(p_counts), s.repeat_interleave(q_counts))
        value.backward()
        return value

    optimizer.step(loss)
    return float(loss().detach())


def jensen_shannon(p, q):
    m = (p + q) / 2
    return float((torch.xlogy(p, p / m) + torch.xlogy(q, q / m)).sum() / 2)


@pytest.mark.parametrize("game", [minimax, non_saturating])
def test_the_best_classifier_knows_the_jensen_shannon_divergence(game):
    assert best(game, P, Q) == pytest.approx(2 * math.log(2) - 2 * jensen_shannon(p, q), abs=1e-6)
    assert best(game, P, P) == pytest.approx(2 * math.log(2), abs=1e-9)  # Goodfellow et al., theorem 1: log 4


def test_the_best_critic_of_least_squares():
    assert best(least_squares, P, Q) == pytest.approx(float((p * q / (p + q)).sum() / 2), abs=1e-9)
    assert best(least_squares, P, P) == pytest.approx(0.25, abs=1e-9)


def test_the_best_critic_of_the_hinge_game_knows_the_total_variation():
    signs = torch.where(p > q, 1.0, -1.0).double()
    found = float(hinge.critic(signs.repeat_interleave(P), signs.repeat_interleave(Q)))
    assert found == pytest.approx(2 - float((p - q).abs().sum()), abs=1e-12)
    for scale in (0.9, 1.1):
        worse = scale * signs
        assert float(hinge.critic(worse.repeat_interleave(P), worse.repeat_interleave(Q))) > found
    assert best(hinge, P, P) == pytest.approx(2.0, abs=1e-9)


def test_the_best_lipschitz_critic_knows_the_distance():
    """On a line, D' = 1 where the samples' distribution function is ahead, -1 where it is behind."""
    x = torch.tensor([0.0, 0.5, 2.0, 2.1, 4.0, 7.0], dtype=torch.float64)
    slope = torch.where((q.cumsum(0) - p.cumsum(0))[:-1] > 0, 1.0, -1.0)
    s = torch.cat([torch.zeros(1, dtype=torch.float64), (slope * x.diff()).cumsum(0)])
    found = float(wasserstein.critic(s.repeat_interleave(P), s.repeat_interleave(Q)))
    assert found == pytest.approx(-wasserstein_distance(x, x, p, q), abs=1e-12)


def test_games_of_a_classifier_are_cross_entropies():
    ones, zeros = torch.ones_like(SCORES), torch.zeros_like(SCORES)
    both = cross_entropy(SCORES, ones) + cross_entropy(SCORES, zeros)
    for game in (minimax, non_saturating):
        torch.testing.assert_close(game.critic(SCORES, SCORES), both)
    torch.testing.assert_close(non_saturating.generator(SCORES), cross_entropy(SCORES, ones))
    torch.testing.assert_close(minimax.generator(SCORES), -cross_entropy(SCORES, zeros))


def test_only_the_minimax_generator_learns_nothing_where_it_loses():
    def slope(game, score):
        s = torch.tensor(score, dtype=torch.float64, requires_grad=True)
        return float(torch.autograd.grad(game.generator(s), s)[0])

    for game in (minimax, non_saturating, least_squares, hinge, wasserstein):
        assert slope(game, 0.0) < 0  # every generator wants higher scores
    assert slope(minimax, -12.0) == pytest.approx(0.0, abs=1e-5)
    for game in (non_saturating, hinge, wasserstein):
        assert slope(game, -12.0) == pytest.approx(-1.0, abs=1e-5)


def test_scores_may_be_maps():
    real, fake = torch.randn(2, 3, 1, 4, 5).unbind()
    for game in (minimax, non_saturating, least_squares, hinge, wasserstein):
        assert game.critic(real, fake).shape == game.generator(fake).shape == ()
        torch.testing.assert_close(game.critic(real, fake), game.critic(real.flatten(), fake.flatten()))


# -----------------------------------------------------------------------------------------------------------penalties

NOISE = Noise(3, torch.arange(64), 5)
A = torch.tensor([3.0, -4.0], dtype=torch.float64)  # of length 5


def linear(x):
    return x @ A


def test_penalties_of_a_linear_critic():
    real, fake = torch.randn(2, 64, 2, dtype=torch.float64).unbind()
    assert float(R1(0.2)(linear, real, fake, NOISE)) == pytest.approx(0.1 * 25)
    assert float(GradientPenalty(10.0)(linear, real, fake, NOISE)) == pytest.approx(10 * 16)
    assert float(GradientPenalty(10.0, one_sided=True)(linear, real, fake, NOISE)) == pytest.approx(10 * 16)
    half = float(GradientPenalty(1.0)(lambda x: linear(x) / 10, real, fake, NOISE))
    assert half == pytest.approx(0.25)
    assert float(GradientPenalty(1.0, one_sided=True)(lambda x: linear(x) / 10, real, fake, NOISE)) == 0.0
    assert float(GradientPenalty(1.0)(lambda x: linear(x) / 5, real, fake, NOISE)) == pytest.approx(0.0, abs=1e-12)


def test_the_gradient_penalty_looks_evenly_between_data_and_samples():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x[:, 0] * 0.0

    ids = torch.arange(4000)
    real, fake = (
        torch.zeros(4000, 1, 2),
        torch.stack([torch.full((1, 2), 2.0), torch.full((1, 2), 4.0)]).repeat(2000, 1, 1),
    )
    assert float(GradientPenalty(3.0)(critic, real, fake, Noise(0, ids))) == 3.0  # no gradient: (0 - 1)^2, and no NaN
    u = seen[0] / fake
    assert torch.equal(u[..., 0], u[..., 1])  # one u a row
    assert torch.allclose(torch.histc(u[:, 0, 0], 4, 0, 1) / 4000, torch.tensor(0.25), atol=0.03)
    GradientPenalty(3.0)(critic, real[7:9], fake[7:9], Noise(0, ids[7:9]))
    assert torch.equal(seen[1], seen[0][7:9])


@pytest.mark.parametrize("penalty", [R1(0.7), GradientPenalty(2.0), GradientPenalty(2.0, one_sided=True)])
def test_the_gradient_of_a_penalty_is_that_of_differences(penalty):
    generator = torch.Generator().manual_seed(0)
    real, fake, w = (torch.randn(n, 3, dtype=torch.float64, generator=generator) for n in (8, 8, 3))
    v = torch.randn(3, dtype=torch.float64, generator=generator)
    noise = Noise(0, torch.arange(8))

    def value(w, v):
        return penalty(lambda x: torch.tanh(x @ w) @ v, real, fake, noise)

    assert torch.autograd.gradcheck(value, (w.requires_grad_(), v.requires_grad_()))


def test_a_gradient_of_maps_of_scores_is_that_of_their_sum():
    x = torch.randn(4, 1, 8, 8)
    w = torch.randn(1, 1, 3, 3)
    torch.testing.assert_close(
        input_gradient(lambda x: torch.conv2d(x, w), x),
        torch.nn.grad.conv2d_input(x.shape, w, torch.ones(4, 1, 6, 6)),
    )


def test_penalties_are_in_float32_under_autocast():
    w = torch.randn(5, 1, requires_grad=True)
    x = torch.randn(8, 5)
    expected = input_gradient(lambda x: x @ w, x)
    with torch.autocast("cpu", torch.bfloat16):
        found = input_gradient(lambda x: x @ w, x)
    assert torch.equal(found, expected)


def test_a_lazy_penalty_is_the_same_on_average():
    x = torch.randn(64, 2, dtype=torch.float64)
    values = [float(Lazy(R1(1.0), 4)(linear, x, x, NOISE.at(step))) for step in range(8)]
    assert values == pytest.approx([50, 0, 0, 0, 50, 0, 0, 0])


@pytest.mark.parametrize(
    "make",
    [lambda: R1(0.0), lambda: GradientPenalty(-1.0), lambda: Lazy(R1(1.0), 0), lambda: InstanceNoise(0.0),
     lambda: InstanceNoise(1.0, -1)],
)  # fmt: skip
def test_values_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


# ------------------------------------------------------------------------------------------------------instance noise


def test_instance_noise_falls_linearly_and_is_a_rows_own():
    noise = InstanceNoise(0.5, 100)
    assert [noise.at(step) for step in (0, 50, 100, 200)] == [0.5, 0.25, 0.0, 0.0]
    assert InstanceNoise(0.5).at(10**6) == 0.5
    ids = torch.arange(500)
    x = torch.zeros(500, 3, 4)
    real, fake = noise.on_real(x, Noise(0, ids, 50)), noise.on_fake(x, Noise(0, ids, 50))
    assert real.std() == pytest.approx(0.25, rel=0.03)
    assert abs(float((real * fake).mean())) < 0.25**2 * 4 / 6000**0.5
    assert torch.equal(noise.on_real(x[:3], Noise(0, ids[40:43], 50)), real[40:43])
    assert noise.on_real(x, Noise(0, ids, 100)) is x
