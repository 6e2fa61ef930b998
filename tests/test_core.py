"""The contracts: what a posterior computes, and who is a codec or has a likelihood."""

import pytest
import torch
from torch import nn

from gensys.core import Batch, Codec, Generative, HasLikelihood, Loss, Posterior
from gensys.noise import Noise, Stream


def posterior(seed=0, shape=(5, 3, 2)):
    generator = torch.Generator().manual_seed(seed)
    mean, logvar = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return Posterior(mean, logvar)


def test_kl_is_that_of_torch_distributions():
    q = posterior()
    normal = torch.distributions.Normal(q.mean, (0.5 * q.logvar).exp())
    wanted = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(q.kl(), wanted.flatten(1).sum(1))


def test_kl_of_the_prior_is_zero_and_of_everything_else_positive():
    zero = torch.zeros(2, 4)
    assert torch.equal(Posterior(zero, zero).kl(), torch.zeros(2))
    assert (posterior().kl() > 0).all()


def test_kl_is_quadratic_in_the_mean():
    mean = torch.tensor([[1.0, 2.0], [0.0, -3.0]])
    torch.testing.assert_close(Posterior(mean, torch.zeros(2, 2)).kl(), torch.tensor([2.5, 4.5]))


def test_samples_have_the_moments_of_the_posterior():
    n, mean, variance = 200_000, torch.tensor([1.5, -2.0]), torch.tensor([0.25, 4.0])
    q = Posterior(mean.expand(n, 2), variance.log().expand(n, 2))
    z = q.sample(Noise(3, torch.arange(n)).normal((2,), Stream.POSTERIOR))
    tolerance = 5 * (variance / n).sqrt()
    assert ((z.mean(0) - mean).abs() < tolerance).all()
    assert ((z.var(0) - variance).abs() < 5 * variance * (2 / n) ** 0.5).all()


def test_a_sample_with_zero_noise_is_the_mean():
    q = posterior()
    assert torch.equal(q.sample(torch.zeros_like(q.mean)), q.mean)


class Toy(Generative):
    def __init__(self):
        super().__init__()
        self.trained, self.frozen = nn.Linear(1, 1), nn.Linear(1, 1).requires_grad_(False)

    def loss(self, batch, noise, player):
        return Loss(batch.x.sum())

    def sample(self, cond, noise):
        return noise.normal((1,), Stream.INITIAL)


class Coder(Toy):
    def encode(self, x):
        return Posterior(x, x)

    def decode(self, z):
        return z


class Likely(Toy):
    def log_prob(self, x, cond):
        return x.sum(1)


def test_protocols_are_asked_by_isinstance():
    assert [isinstance(model(), Codec) for model in (Toy, Coder, Likely)] == [False, True, False]
    assert [isinstance(model(), HasLikelihood) for model in (Toy, Coder, Likely)] == [False, False, True]


def test_a_model_must_say_how_it_loses_and_samples():
    class Half(Generative):
        def loss(self, batch, noise, player):
            raise NotImplementedError

    with pytest.raises(TypeError, match="sample"):
        Half()


def test_a_player_trains_what_requires_a_gradient():
    model = Toy()
    assert model.players == ("model",)
    assert {id(p) for p in model.parameters_of("model")} == {id(p) for p in model.trained.parameters()}
    with pytest.raises(ValueError, match=r"'player' must be one of \['model'\], got 'critic'"):
        model.parameters_of("critic")


def test_batches_and_losses_are_frozen():
    batch = Batch(torch.zeros(1, 1), {}, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(AttributeError):
        batch.x = torch.ones(1, 1)
    assert Loss(torch.tensor(0.0)).terms == {}
