"""The bounds of a variational autoencoder against the likelihood of linear Gaussian models, which is known."""

import math

import pytest
import torch

from gensys.bijections.actnorm import ActNorm
from gensys.core import Batch, Codec, HasBits, HasLikelihood, Posterior
from gensys.errors import ConfigError
from gensys.families.flow import Flow
from gensys.families.vae import VAE, interpolate
from gensys.likelihood import dequantise
from gensys.noise import Noise, Stream
from gensys.objectives.elbo import active_units, committed, cyclic, free_bits, kl_per_dimension, linear, negative_bound
from gensys.objectives.observation import Bernoulli, Columns, DiscretisedLogistic, Gaussian
from gensys.run import resolve
from gensys.systems.vae import linear_vae, vae

D, Z = 5, 2
X4 = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))


def toy(posterior="exact"):
    """A linear model in float64, and log p(x) = log N(x; b, W W^T + s^2 I); W has orthogonal columns, so that the exact
    posterior is diagonal."""
    torch.manual_seed(0)
    model = linear_vae(D, Z).double()
    w = torch.linalg.qr(torch.randn(D, Z, dtype=torch.float64))[0] * torch.tensor([2.0, 0.7])
    log_scale = -0.4
    variance = math.exp(2 * log_scale)
    with torch.no_grad():
        output, mean = model.decoder.decoder.layers[0], model.encoder.mean.layers[0]
        output.weight.copy_(w)
        model.decoder.log_scale.fill_(log_scale)
        precision = (w.T @ w).diagonal() / variance + 1
        mean.weight.copy_(w.T / variance / precision[:, None])
        mean.bias.copy_(-mean.weight @ output.bias)
        model.encoder.logvar.copy_(-precision.log())
        if posterior == "off":
            model.encoder.logvar.add_(0.7)
    cov = w @ w.T + variance * torch.eye(D, dtype=torch.float64)
    return model, torch.distributions.MultivariateNormal(output.bias.detach(), cov)


def test_with_the_exact_posterior_every_bound_is_the_likelihood():
    model, truth = toy()
    x = truth.sample((6,))
    weights = model.log_prob(x, {})
    torch.testing.assert_close(weights, truth.log_prob(x), rtol=1e-6, atol=1e-6)
    assert isinstance(model, Codec)
    assert isinstance(model, HasLikelihood)


def test_the_bounds_rise_with_their_draws_and_stay_below_the_likelihood():
    """Theorem 1 of Burda et al.: L_1 <= L_K <= log p(x), and for many draws they meet."""
    model, truth = toy("off")
    n = 400
    x, ids = truth.sample((n,)), torch.arange(n)
    exact = truth.log_prob(x).mean().item()
    found = []
    for draws in (1, 5, 50):
        model.draws = draws
        total = -model.loss(Batch(x, {}, ids), Noise(0, ids), "model").total.item() * D
        found.append(total)
    assert found[0] + 0.05 < found[1] < found[2] < exact + 0.01
    assert found[2] == pytest.approx(exact, abs=0.03)


def test_one_weighted_draw_is_the_bound_on_average():
    model, truth = toy("off")
    n = 20_000
    x, ids = truth.sample((n,)), torch.arange(n)
    loss = model.loss(Batch(x, {}, ids), Noise(0, ids), "model")
    elbo = -loss.total.item() * D
    p = model.encode(x)
    m, s2 = p.mean.double(), p.logvar.double().exp()
    output, log_scale = model.decoder.decoder.layers[0], model.decoder.log_scale
    error = (x - output(m)).square().sum(1) + (output.weight.square().sum(0) * s2).sum(1)
    known = (-0.5 * (D * math.log(2 * math.pi) + 2 * D * log_scale + error / (2 * log_scale).exp()) - p.kl()).mean()
    assert elbo == pytest.approx(known.item(), abs=0.05)
    assert loss.terms["kl"].item() == pytest.approx(p.kl().mean().item(), rel=1e-5)
    assert elbo == pytest.approx(-loss.terms["reconstruction"].item() - loss.terms["kl"].item(), rel=1e-5)


@pytest.mark.parametrize("latent", [8])
def test_a_linear_one_finds_the_probabilistic_principal_components(latent):
    """Its bound on digits comes within half a nat of the largest likelihood there is (Tipping and Bishop, equation 8
    with the maximum of section 3.2), and never above."""
    x = torch.from_numpy(pytest.importorskip("sklearn.datasets").load_digits().data / 8 - 1).float()
    n, d = x.shape
    values = torch.linalg.eigvalsh(torch.cov(x.T.double(), correction=0)).flip(0)
    rest = values[latent:].mean()
    best = -0.5 * (d * math.log(2 * math.pi) + values[:latent].log().sum() + (d - latent) * rest.log() + d)

    torch.manual_seed(0)
    model, steps, lr = linear_vae(d, latent), 250, 0.1
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - k / steps)
        rows = torch.arange(k * 256, (k + 1) * 256) % n
        optimizer.zero_grad()
        model.loss(Batch(x[rows], {}, rows), Noise(0, rows, k), "model").total.backward()
        optimizer.step()

    posterior = model.encode(x)
    mean, variance = posterior.mean.double(), posterior.logvar.double().exp()
    output, log_scale = model.decoder.decoder.layers[0].double(), model.decoder.log_scale.double()
    error = (x - output(mean)).square().sum(1) + (output.weight.square().sum(0) * variance).sum(1)
    bound = -0.5 * (d * math.log(2 * math.pi) + 2 * d * log_scale + error / (2 * log_scale).exp())
    gap = (best - (bound - posterior.kl().double()).mean()).item()
    assert 0.0 < gap < 0.5


def flow_of(mean, scale):
    """A prior N(mean, scale^2), as a flow."""
    flow = Flow(ActNorm(len(mean)).eval(), (len(mean),)).double()
    with torch.no_grad():
        flow.bijection.shift.copy_(mean)
        flow.bijection.log_scale.copy_(-scale.log())
        flow.bijection.seen.fill_(True)
    return flow


def test_a_prior_that_is_a_flow_is_in_the_books():
    """z = mean + scale z', z' ~ N(0, I), in a model of z' that is known: the likelihood is the same, so is the exact
    posterior once it is moved and scaled, and what is drawn has the covariance of the model."""
    model, truth = toy()
    x = truth.sample((6,))
    exact, centre = truth.log_prob(x), truth.mean.clone()  # whose mean is the decoder's bias
    mean, scale = torch.tensor([3.0, -1.0]).double(), torch.tensor([0.5, 4.0]).double()
    output, encoder = model.decoder.decoder.layers[0], model.encoder
    with torch.no_grad():
        output.weight.div_(scale)
        output.bias.sub_(output.weight @ mean)
        encoder.mean.layers[0].weight.mul_(scale[:, None])
        encoder.mean.layers[0].bias.mul_(scale).add_(mean)
        encoder.logvar.add_(2.0 * scale.log())
    moved = VAE(encoder, model.decoder, (Z,), Gaussian(), prior=flow_of(mean, scale))
    torch.testing.assert_close(moved.log_prob(x, {}), exact, rtol=1e-6, atol=1e-6)
    ids = torch.arange(6)
    for moved.draws in (1, 3):
        loss = moved.loss(Batch(x, {}, ids), Noise(0, ids), "model")
        assert loss.total.item() * D == pytest.approx(-exact.mean().item(), rel=1e-6)
        assert set(loss.terms) == {"loss", "reconstruction", "kl", "active_units"}
    drawn = moved.sample({}, Noise(1, torch.arange(20_000)))
    known = truth.covariance_matrix - math.exp(2 * model.decoder.log_scale.item()) * torch.eye(D)
    torch.testing.assert_close(drawn.double().T.cov(), known.double(), rtol=0, atol=0.1)
    torch.testing.assert_close(drawn.double().mean(0), centre, rtol=0, atol=0.06)
    with pytest.raises(ValueError, match=r"'free' is 0\.5 and 'delta' 0: they are of latents with a prior"):
        VAE(encoder, model.decoder, (Z,), Gaussian(), prior=flow_of(mean, scale), free=0.5)


def test_a_learnt_prior_comes_nearer_than_a_normal_one():
    """Two lumps in one number, of which a linear decoder has no other law than that of its latent."""
    ids = torch.arange(512)
    x = (Noise(0, ids).uniform((1,), Stream.TIME) < 0.5).float() * 4.0 - 2.0
    x = torch.cat([x, -x], 1) + 0.1 * Noise(0, ids).normal((2,), Stream.EPS)
    found = []
    for couplings in (0, 4):
        torch.manual_seed(0)
        model = vae((2,), Gaussian(), latent=2, depth=0, couplings=couplings)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for k in range(300):
            optimizer.zero_grad()
            model.loss(Batch(x, {}, ids), Noise(0, ids, k), "model").total.backward()
            optimizer.step()
        found.append(model.eval().log_prob(x, {}).mean().item())
    assert found[1] > found[0] + 0.3


def test_rows_and_calls_do_not_change_a_row_of_log_prob():
    model, truth = toy("off")
    x = truth.sample((6,))
    torch.testing.assert_close(model.log_prob(x[4:5], {}), model.log_prob(x, {})[4:5], rtol=1e-6, atol=1e-6)


def test_annealing():
    assert [linear(4)(k) for k in (0, 1, 4, 9)] == [0.0, 0.25, 1.0, 1.0]
    assert [cyclic(10, 0.5)(k) for k in (0, 1, 5, 9, 10, 13)] == [0.0, 0.2, 1.0, 1.0, 0.0, 0.6]
    model = vae((D,), Gaussian(), latent=Z, schedule=linear(10))
    ids = torch.arange(8)
    batch = Batch(torch.randn(8, D), {}, ids)

    def price(step):
        loss = model.loss(batch, Noise(0, ids, step), "model")
        rest = loss.total.item() * D - loss.terms["reconstruction"].item()
        return rest / loss.terms["kl"].item()

    assert price(5) == pytest.approx(0.5, rel=1e-3)
    model.eval()
    assert price(0) == pytest.approx(1.0, rel=1e-3)  # what is validated is the bound


def last_bias(model):
    """Of the encoder: what it adds to every mean and logvar."""
    return [p for name, p in model.encoder.named_parameters() if name.endswith("bias")][-1]


@pytest.mark.parametrize("delta", [1e-4, 0.1, 1.0, 9.0])
def test_a_committed_posterior_says_so_many_nats_whatever_it_is_told(delta):
    most = committed(delta)
    assert 0.5 * (math.exp(most) - most - 1.0) == pytest.approx(delta, rel=1e-9)
    model = vae((4,), Gaussian(), latent=3, width=8, depth=1, delta=delta)
    with torch.no_grad():
        for bias in (-9.0, 0.0, 9.0):
            last_bias(model).fill_(bias)
            posterior = model.encode(X4)
            kl = 0.5 * (posterior.mean.square() + posterior.logvar.exp() - posterior.logvar - 1.0)
            assert float(kl.min()) >= delta * (1.0 - 1e-4)


def test_a_posterior_that_is_narrow_enough_is_left_alone():
    free, bound = (vae((4,), Gaussian(), latent=3, width=8, depth=1, delta=delta) for delta in (0.0, 0.01))
    bound.load_state_dict(free.state_dict())
    with torch.no_grad():
        for model in (free, bound):
            last_bias(model).fill_(-9.0)
        torch.testing.assert_close(bound.encode(X4).logvar, free.encode(X4).logvar, rtol=0, atol=1e-2)
    with pytest.raises(ValueError, match="'delta' must be 0 or more nats and finite, got -1"):
        vae((4,), Gaussian(), delta=-1.0)
    with pytest.raises(ValueError, match="'delta' must leave the logarithm of the variance above -20, got 30"):
        vae((4,), Gaussian(), delta=30.0)


def test_free_bits_press_only_what_is_above_them():
    mean = torch.tensor([[0.1, 2.0], [0.3, 1.0]], requires_grad=True)
    posterior = Posterior(mean, torch.zeros(2, 2))
    kl = kl_per_dimension(posterior)
    torch.testing.assert_close(kl, 0.5 * mean.square())
    torch.testing.assert_close(kl.sum(1), posterior.kl())
    assert free_bits(kl, 0.5).item() == pytest.approx(0.5 + 1.25)
    negative_bound(torch.zeros(2), posterior, free=0.5).total.backward()
    assert torch.equal(mean.grad[:, 0], torch.zeros(2))
    torch.testing.assert_close(mean.grad[:, 1], mean.detach()[:, 1] / 2)


def test_a_collapsed_latent_is_seen():
    mean = torch.randn(500, 3) * torch.tensor([1.0, 0.2, 0.05])
    posterior = Posterior(mean, torch.zeros(500, 3))
    assert active_units(posterior).item() == 2
    terms = negative_bound(torch.zeros(500), posterior).terms
    each = kl_per_dimension(posterior).mean(0)
    assert terms["active_units"].item() == 2
    assert (terms["kl_least"].item(), terms["kl_most"].item()) == (each.min().item(), each.max().item())


@pytest.mark.parametrize("seen", [Bernoulli(), DiscretisedLogistic(), Gaussian(), Gaussian(0.1)], ids=repr)
def test_an_image_model(seen):
    torch.manual_seed(0)
    model = vae((1, 8, 8), seen, latent=3, width=8)
    ids = torch.arange(4)
    x = Noise(0, ids).uniform((1, 8, 8), Stream.EPS) * 2 - 1
    assert model.loss(Batch(x, {}, ids), Noise(0, ids), "model").total.isfinite()
    assert model.sample({}, Noise(0, ids)).shape == x.shape
    assert model.log_prob(x, {}).shape == (4,)
    assert model.encode(x).mean.shape == (4, 3)
    path = interpolate(model, x[:2], x[2:], 5)
    assert path.shape == (2, 5, 1, 8, 8)
    for end, k in ((x[:2], 0), (x[2:], 4)):
        torch.testing.assert_close(path[:, k], model.decode(model.encode(end).mode), rtol=1e-4, atol=1e-5)
    model.noisy = True
    assert torch.equal(model.sample({}, Noise(0, ids))[2:], model.sample({}, Noise(0, ids[2:]))[:])


def test_a_table_with_categories_is_learnt():
    """x_0 is a category, x_1 a number that it decides: draws have the shares and the means of the data."""
    torch.manual_seed(0)
    ids = torch.arange(256)
    u = Noise(0, ids).uniform((), Stream.TIME)
    kind = (u > 0.3).float() + (u > 0.8).float()
    x = torch.stack([kind, 2 * kind - 2 + 0.2 * Noise(0, ids).normal((), Stream.EPS)], 1)
    model = vae((2,), Columns((3, 0)), latent=2, width=32, depth=1, noisy=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for k in range(200):
        optimizer.zero_grad()
        model.loss(Batch(x, {}, ids), Noise(0, ids, k), "model").total.backward()
        optimizer.step()
    drawn = model.sample({}, Noise(5, torch.arange(4000)))
    share = torch.bincount(drawn[:, 0].long(), minlength=3) / 4000
    torch.testing.assert_close(share, torch.tensor([0.3, 0.5, 0.2]), rtol=0, atol=0.1)
    for value in range(3):
        assert drawn[drawn[:, 0] == value, 1].median().item() == pytest.approx(2 * value - 2, abs=0.4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 0}, "'draws' and 'bound_draws' must be at least 1"),
        ({"beta": -1.0}, "'beta' and 'free' not negative"),
        ({"draws": 5, "beta": 4.0}, "the importance-weighted bound has no KL term"),
        ({"draws": 5, "schedule": linear(3)}, "the importance-weighted bound has no KL term"),
        ({"latent": 0}, "'latent' at least 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        vae((D,), Gaussian(), **change)


@pytest.mark.parametrize(("call", "message"), [(lambda: linear(0), "'steps'"), (lambda: cyclic(5, 0.0), "'ramp'")])
def test_schedules_without_sense_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_interpolation_needs_two_ends():
    model = linear_vae(D, Z)
    with pytest.raises(ValueError, match="'steps' must be at least 2"):
        interpolate(model, torch.zeros(1, D), torch.zeros(1, D), 1)
    with pytest.raises(ValueError, match="'last' must be shaped like 'first'"):
        interpolate(model, torch.zeros(1, D), torch.zeros(2, D), 3)


def test_bits_are_the_bound_where_the_observation_is_a_law_of_such_data():
    noise, width = Noise(5, torch.arange(4)), 2.0 / 255
    x = torch.randint(0, 256, (4, 1, 8, 8)) * width - 1.0
    found = {}
    for seen in (DiscretisedLogistic(), Gaussian(), Bernoulli()):
        model = vae((1, 8, 8), seen, latent=2, width=8, depth=1)
        assert isinstance(model, HasBits)
        found[seen.gives] = (model, model.bits(x, {}, noise, width), model.bits(x, {}, noise, None))
    model, pixels, density = found["probability"]
    torch.testing.assert_close(pixels.per_dim, -model.log_prob(x, {}) / 64 / math.log(2.0))
    assert density is None
    model, pixels, density = found["density"]
    y = dequantise(x, noise, width)
    torch.testing.assert_close(pixels.per_dim, -(model.log_prob(y, {}) / 64 + math.log(width)) / math.log(2.0))
    torch.testing.assert_close(density.per_dim, -model.log_prob(x, {}) / 64 / math.log(2.0))
    assert found["neither"][1:] == (None, None)


@pytest.mark.parametrize(
    ("knobs", "learnt"),
    [
        ({}, True),
        ({"prior": "normal"}, False),
        ({"free": "0.1"}, False),
        ({"delta": "0.1"}, False),
        ({"latent": "1"}, False),
    ],
)
def test_the_prior_of_the_recipe_is_learnt_unless_something_speaks_against_it(knobs, learnt):
    model = resolve("vae", {"data": "moons", "width": "8", **knobs}).model()
    assert (model.prior is not None) == learnt


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"prior": "flow", "latent": "1"}, "couplings of prior=flow need two numbers in a latent, got latent=1"),
        ({"prior": "flow", "free": "0.1"}, "'free' .*prior=normal"),
        ({"prior": "normal", "couplings": "4"}, "'couplings' .*prior=flow"),
    ],
)
def test_knobs_of_the_prior_that_do_not_fit_together_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        resolve("vae", {"data": "moons", **knobs}).model()
