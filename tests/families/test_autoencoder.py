"""The bound of an autoencoder against its closed form on a linear Gaussian toy."""

import pytest
import torch
from torch import nn

from gensys.core import Batch, Codec
from gensys.families.autoencoder import Autoencoder
from gensys.noise import Noise, Stream
from gensys.systems.kl_autoencoder import kl_autoencoder

D, Z = 4, 2


class Encoder(nn.Module):
    """mean = A x, logvar = c."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.matrix = nn.Linear(D, Z, bias=False)
        self.logvar = nn.Parameter(torch.tensor([-1.0, 0.5]))

    def forward(self, x):
        return torch.cat([self.matrix(x), self.logvar.expand(x.shape[0], Z)], 1)


def toy(beta=1.0, **options):
    return Autoencoder(Encoder(), nn.Linear(Z, D), (Z,), beta=beta, **options)


def data(n):
    ids = torch.arange(n)
    return Batch(Noise(1, ids).normal((D,), Stream.EPS), {}, ids)


@pytest.mark.parametrize("beta", [0.0, 1e-4, 1.0, 4.0])
def test_the_terms_are_those_of_the_linear_gaussian(beta):
    """E |B z + b - x|^2 = |B mean + b - x|^2 + tr(B diag(var) B^T), and the KL of two Gaussians."""
    model, batch = toy(beta), data(100_000)
    loss = model.loss(batch, Noise(0, batch.ids), "model")
    mean, variance = model.encoder.matrix(batch.x), model.encoder.logvar.exp()
    weight = model.decoder.weight
    error = (model.decoder(mean) - batch.x).square().sum(1).mean() + (weight.square() @ variance).sum()
    kl = 0.5 * (mean.square() + variance - 1 - model.encoder.logvar).sum(1).mean()
    assert loss.terms["reconstruction"].item() == pytest.approx(error.item() / D, rel=0.01)
    assert loss.terms["kl"].item() == pytest.approx(kl.item(), rel=1e-5)
    assert loss.total.item() == pytest.approx(loss.terms["reconstruction"].item() + beta * kl.item() / D, rel=1e-5)
    assert loss.terms["loss"].item() == loss.total.item()
    assert not any(term.requires_grad for term in loss.terms.values())


def test_gradients_reach_every_parameter_and_fit_finite_differences():
    model, batch = toy(), data(64)

    def total():
        return model.loss(batch, Noise(0, batch.ids), "model").total

    total().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    logvar, h = model.encoder.logvar, 1e-2
    with torch.no_grad():
        logvar[0] += h
        up = total()
        logvar[0] -= 2 * h
        down = total()
    assert logvar.grad[0].item() == pytest.approx(((up - down) / (2 * h)).item(), rel=2e-2, abs=1e-4)


def test_with_beta_zero_the_kl_moves_nothing():
    model, batch = toy(0.0, reconstruction=lambda decoded, x: 0.0 * decoded), data(16)
    model.loss(batch, Noise(0, batch.ids), "model").total.backward()
    assert all(p.grad.abs().sum() == 0 for p in model.parameters())


def test_another_reconstruction_is_used_elementwise():
    model, batch = toy(reconstruction=lambda decoded, x: torch.full_like(x, 3.0)), data(16)
    assert model.loss(batch, Noise(0, batch.ids), "model").terms["reconstruction"].item() == 3.0


def test_log_variances_are_kept_within_the_limit():
    model = toy(logvar_limit=2.0)
    with torch.no_grad():
        model.encoder.logvar.copy_(torch.tensor([-1e9, 1e9]))
    batch = data(8)
    posterior = model.encode(batch.x)
    assert posterior.logvar.unique().tolist() == [-2.0, 2.0]
    assert model.loss(batch, Noise(0, batch.ids), "model").total.isfinite()


def test_samples_are_decoded_draws_of_the_prior():
    model, noise = toy(), Noise(5, torch.arange(7))
    assert torch.equal(model.sample({}, noise), model.decode(noise.normal((Z,), Stream.PRIOR)))
    assert not model.sample({}, noise).requires_grad


def test_the_noise_of_a_row_is_its_own():
    model, batch = toy(), data(8)
    half = Batch(batch.x[4:], {}, batch.ids[4:])
    whole = [model.loss(Batch(batch.x[k : k + 1], {}, batch.ids[k : k + 1]), Noise(0, batch.ids[k : k + 1]), "model")
             for k in range(4, 8)]  # fmt: skip
    together = model.loss(half, Noise(0, half.ids), "model").total
    torch.testing.assert_close(torch.stack([loss.total for loss in whole]).mean(), together)


def test_encodings_are_float32_under_autocast():
    model = kl_autoencoder((1, 16, 16), channels=3, widths=(8, 16))
    assert isinstance(model, Codec)
    x = torch.randn(2, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        posterior = model.encode(x)
        assert model.decode(posterior.mean).dtype == posterior.mean.dtype == posterior.logvar.dtype == torch.float32
    assert posterior.mean.shape[1:] == model.latent == (3, 4, 4)


def test_an_image_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="multiples of 4"):
        kl_autoencoder((1, 30, 32))
