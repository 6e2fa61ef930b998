"""Observation models: probabilities that add up to one, draws that follow them, and the closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F

from gensys.noise import Noise
from gensys.objectives.observation import Bernoulli, Columns, DiscretisedLogistic, Gaussian

IDS = torch.arange(20_000)


def every(parameters, n):
    """The same parameters for n rows."""
    return parameters.expand(n, *parameters.shape[1:])


@pytest.mark.parametrize("location", [-1.3, -0.2, 1.0])
@pytest.mark.parametrize("log_scale", [-6.0, -2.0, 1.0])
def test_the_values_of_a_discretised_logistic_have_probability_one(location, log_scale):
    seen = DiscretisedLogistic(16)
    x = torch.linspace(-1, 1, 16, dtype=torch.float64)[:, None]
    parameters = every(torch.tensor([[location, log_scale]], dtype=torch.float64), 16)
    found = seen.log_prob(parameters, x)
    assert torch.logsumexp(found, 0).item() == pytest.approx(0.0, abs=1e-12)
    if log_scale > -6.0:  # where the difference of two sigmoids has digits left
        a, b = ((x[:, 0] + sign / 15 - location) / math.exp(log_scale) for sign in (1, -1))
        direct = torch.sigmoid(a) - torch.sigmoid(b)
        direct[0], direct[-1] = torch.sigmoid(a[0]), 1 - torch.sigmoid(b[-1])
        torch.testing.assert_close(found.exp(), direct, rtol=1e-6, atol=1e-14)


def test_a_discretised_logistic_has_a_gradient_far_from_its_value():
    parameters = torch.tensor([[0.9, -7.0]], requires_grad=True)
    found = DiscretisedLogistic().log_prob(parameters, torch.tensor([[-0.5]]))
    found.sum().backward()
    assert found.isfinite().all()
    assert parameters.grad[0, 0] < -100  # the location has to go down


def test_the_densities_are_those_of_torch():
    x, mean, log_scale = torch.randn(3, 5, 4, dtype=torch.float64)
    learnt, fixed = Gaussian(), Gaussian(0.3)
    expected = torch.distributions.Normal(mean, log_scale.exp()).log_prob(x).sum(1)
    torch.testing.assert_close(learnt.log_prob(torch.cat([mean, log_scale], 1), x), expected)
    torch.testing.assert_close(fixed.log_prob(mean, x), torch.distributions.Normal(mean, 0.3).log_prob(x).sum(1))
    signs = torch.where(x > 0, 1.0, -1.0).double()
    expected = torch.distributions.Bernoulli(logits=mean).log_prob((signs + 1) / 2).sum(1)
    torch.testing.assert_close(Bernoulli().log_prob(mean, signs), expected)


def test_a_row_of_a_table_by_hand():
    seen = Columns((0, 3, 0))
    parameters = torch.randn(1, 7, dtype=torch.float64)
    x = torch.tensor([[0.5, 2.0, -1.0]], dtype=torch.float64)
    assert seen.outputs(3) == 7
    expected = torch.distributions.Normal(parameters[0, 0], parameters[0, 1].exp()).log_prob(x[0, 0])
    expected = expected + F.log_softmax(parameters[0, 2:5], 0)[2]
    expected = expected + torch.distributions.Normal(parameters[0, 5], parameters[0, 6].exp()).log_prob(x[0, 2])
    assert seen.log_prob(parameters, x).item() == pytest.approx(expected.item(), rel=1e-12)
    assert seen.features(x).tolist() == [[0.5, 0.0, 0.0, 1.0, -1.0]]
    assert seen.log_prob(parameters, torch.tensor([[0.5, 3.0, -1.0]])).item() == -math.inf  # no such category


def test_the_units_of_a_column_change_nothing_but_the_units():
    """The law of x is that of 7 + 100 y, y the Gaussian of the parameters; a category has no units."""
    seen, parameters = Columns((0, 3), (7.0, 1.3), (100.0, 0.4)), torch.randn(1, 5, dtype=torch.float64)
    x = torch.tensor([[-60.0, 1.0]], dtype=torch.float64)
    law = torch.distributions.Normal(7 + 100 * parameters[0, 0], 100 * parameters[0, 1].exp())
    expected = law.log_prob(x[0, 0]) + F.log_softmax(parameters[0, 2:], 0)[1]
    assert seen.log_prob(parameters, x).item() == pytest.approx(expected.item(), rel=1e-12)
    assert seen.features(x).tolist() == [[-0.67, 0.0, 1.0, 0.0]]
    assert seen.mean(parameters)[0, 0].item() == pytest.approx(law.mean.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("seen", "parameters"),
    [
        (Bernoulli(), torch.tensor([[0.7]])),
        (Gaussian(0.5), torch.tensor([[-0.3]])),
        (Gaussian(), torch.tensor([[-0.3, -1.0]])),
        (DiscretisedLogistic(), torch.tensor([[0.1, -3.0]])),
        (Columns((0, 2)), torch.tensor([[0.4, -0.5, 0.0, 30.0]])),
        (Columns((0, 2), (7.0, 0.5), (100.0, 0.3)), torch.tensor([[0.4, -0.5, 0.0, 30.0]])),
    ],
    ids=repr,
)
def test_the_mean_is_that_of_the_draws(seen, parameters):
    drawn = seen.sample(every(parameters, len(IDS)), Noise(0, IDS))
    error = drawn.std(0) / math.sqrt(len(IDS))
    assert ((drawn.mean(0) - seen.mean(parameters)[0]).abs() <= 4 * error + 1e-6).all()
    assert torch.equal(seen.sample(every(parameters, 3), Noise(0, IDS[7:10])), drawn[7:10])


def test_categories_are_drawn_as_often_as_they_are_likely():
    logits = torch.tensor([[0.0, 1.0, -1.0, 0.5]])
    drawn = Columns((4,)).sample(every(logits, len(IDS)), Noise(1, IDS)).long()[:, 0]
    share, wanted = torch.bincount(drawn, minlength=4) / len(IDS), logits.softmax(1)[0]
    assert ((share - wanted).abs() < 4 * (wanted * (1 - wanted) / len(IDS)).sqrt()).all()


def test_levels_are_drawn_as_often_as_they_are_likely():
    seen, parameters = DiscretisedLogistic(5), torch.tensor([[0.4, -0.5]])
    drawn = seen.sample(every(parameters, len(IDS)), Noise(1, IDS))
    for value in torch.linspace(-1, 1, 5):
        p = seen.log_prob(parameters, value.view(1, 1)).exp().item()
        share = ((drawn - value).abs() < 1e-6).float().mean().item()
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / len(IDS))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(0.0), "'scale' must be positive and finite"),
        (lambda: DiscretisedLogistic(1), "'levels' must be at least 2"),
        (lambda: Columns((0, 1)), "'categories' must have for every column"),
        (lambda: Columns(()), "'categories' must have for every column"),
        (lambda: Columns((0, 2), (1.0,)), "'centres' must have 2 numbers"),
        (lambda: Columns((0, 2), (), (1.0,)), "'spreads' must have 2 numbers"),
        (lambda: Columns((0, 2), (), (-1.0, 1.0)), "'spreads' must be finite and not negative"),
        (lambda: Columns((0, 2)).outputs(3), "names 2 columns, and the data have 3"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
