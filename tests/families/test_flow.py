"""Flows: densities that integrate to one and are those of the samples, bits, conditions, what the first batch sets."""

import math

import pytest
import torch
from torch import nn

from gensys.bijections.actnorm import ActNorm
from gensys.bijections.bijection import Chain
from gensys.core import Batch, HasBits, HasLikelihood
from gensys.engine.checkpoint import State
from gensys.engine.loop import Budget, Settings
from gensys.engine.optim import Optim, adamw
from gensys.engine.parallel import World
from gensys.engine.step import Turns
from gensys.families.flow import Flow
from gensys.likelihood import bin_width, bits_per_dim, dequantise
from gensys.noise import Noise, Stream
from gensys.systems.glow import glow
from gensys.systems.iaf import iaf
from gensys.systems.maf import maf
from gensys.systems.nsf import nsf
from gensys.systems.realnvp import realnvp

PLANE = {
    "realnvp": lambda **given: realnvp((2,), width=16, **given),
    "maf": lambda **given: maf((2,), width=16, **given),
    "iaf": lambda **given: iaf((2,), width=16, **given),
    "nsf": lambda **given: nsf((2,), width=16, **given),
    "nsf of couplings": lambda **given: nsf((2,), width=16, coupling=True, **given),
}
IMAGES = {
    "realnvp": lambda **given: realnvp((1, 8, 8), width=8, depth=1, **given),
    "glow": lambda **given: glow((1, 8, 8), width=8, levels=2, steps=2, **given),
    "maf": lambda **given: maf((1, 4, 4), width=16, steps=2, **given),
}


def wild(model, std=0.15):
    """The model with all its weights at random, in float64."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            nn.init.normal_(p, std=std)
    return model.double().eval()


@pytest.mark.parametrize("name", PLANE)
def test_the_density_integrates_to_one_and_is_that_of_the_samples(name):
    """The second: E exp(i w . x) over samples, against its integral over the density."""
    model, count = wild(PLANE[name](classes=2)), 10_000
    axis = torch.linspace(-12.0, 12.0, 241, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    z = Noise(0, torch.arange(count)).normal((2,), Stream.INITIAL).double()
    with torch.no_grad():
        log_prob = model.log_prob(points, {"label": torch.ones(len(points), dtype=torch.int64)})
        x = model.bijection.inverse(z, {"label": torch.ones(count, dtype=torch.int64)})
    assert isinstance(model, HasLikelihood)
    weights = log_prob.exp() * (axis[1] - axis[0]) ** 2
    assert abs(weights.sum() - 1.0) < 1e-3
    assert x.std(0).min() > 0.3
    for w in torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.7, -0.7]], dtype=torch.float64):
        assert abs((x @ w).cos().mean() - ((points @ w).cos() * weights).sum()) < 4 / count**0.5
        assert abs((x @ w).sin().mean() - ((points @ w).sin() * weights).sum()) < 4 / count**0.5


@pytest.mark.parametrize("name", IMAGES)
def test_images_there_and_back(name):
    model = wild(IMAGES[name](classes=3, bounds=(-1.0, 1.0)), std=0.05)
    noise, cond = Noise(0, torch.arange(4)), {"label": torch.tensor([0, 1, 2, -1])}
    z = noise.normal(model.shape, Stream.INITIAL).double()
    with torch.no_grad():
        x = model.bijection.inverse(z, cond)
        again, logdet = model.bijection(x, cond)
        torch.testing.assert_close(again, z, rtol=0, atol=1e-8)
        expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1) + logdet
        torch.testing.assert_close(model.log_prob(x, cond), expected, rtol=1e-12, atol=0)
    assert x.abs().max() < 1.0 + 0.15  # the margin of the logit: 0.05 / 0.9 of an interval of 2 + 2 / 255
    one = {"label": cond["label"][2:3]}
    torch.testing.assert_close(model.log_prob(x[2:3], one), expected[2:3], rtol=1e-12, atol=0)
    other = model.log_prob(x, {"label": torch.tensor([1, 2, 0, 0])})
    assert not torch.isclose(other, expected).any()


def test_an_untrained_flow_of_vectors_is_the_normal_law():
    model = nsf((3,)).eval()
    x = torch.randn(5, 3)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
    torch.testing.assert_close(model.log_prob(x, {}), expected, rtol=1e-4, atol=1e-4)


def test_samples_are_a_function_of_seed_and_id_and_temperature_scales_the_noise():
    model = wild(nsf((3,), classes=2)).float()
    label = torch.tensor([0, 1, 0, 1])
    whole = model.sample({"label": label}, Noise(7, torch.arange(4)))
    torch.testing.assert_close(model.sample({"label": label[2:]}, Noise(7, torch.tensor([2, 3]))), whole[2:])
    assert not torch.isclose(model.sample({"label": label}, Noise(8, torch.arange(4))), whole).any()
    model.temperature = 0.0
    still = model.sample({"label": label}, Noise(7, torch.arange(4)))
    assert torch.equal(still[0], still[2])
    assert not torch.equal(still[0], still[1])


def test_the_loss_is_in_bits_of_discrete_data():
    width = bin_width(256, -1.0, 1.0)
    model = wild(glow((1, 4, 4), width=8, levels=1, steps=1, bounds=(-1.0, 1.0)), std=0.05).float()
    ids = torch.arange(6)
    x = torch.randint(0, 256, (6, 1, 4, 4)) / 127.5 - 1.0
    noise = Noise(0, ids, 3)
    loss = model.loss(Batch(x, {}, ids), noise, "model")
    expected = bits_per_dim(model.log_prob(dequantise(x, noise, width), {}), 16, width).mean()
    torch.testing.assert_close(loss.terms["bits"], expected.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(loss.total, expected * math.log(2.0), rtol=1e-5, atol=0)


def test_actnorm_is_set_by_the_first_batch_of_training_alone():
    norm = ActNorm(3)
    x = torch.randn(50, 3, 4) * torch.tensor([1.0, 5.0, 0.0])[:, None] + 7.0
    norm.eval()
    assert torch.equal(norm(x, {})[0], x)
    norm.train()
    assert torch.equal(norm(x[:1], {})[0], x[:1])  # one row says nothing of a variance
    assert not norm.seen
    z, logdet = norm(x, {})
    torch.testing.assert_close(z.transpose(0, 1).flatten(1).mean(1), torch.zeros(3), rtol=0, atol=1e-4)
    std = z.transpose(0, 1).flatten(1).std(1, correction=0)
    torch.testing.assert_close(std, torch.tensor([1.0, 1.0, 0.0]), rtol=1e-4, atol=1e-3)
    assert logdet.isfinite().all()
    before = norm.log_scale.clone()
    norm(2 * x, {})
    assert torch.equal(norm.log_scale, before)


def test_bad_arguments():
    for bad, message in (
        (lambda: nsf((2,), temperature=-1.0), "'temperature' must be 0 or more and finite, got -1"),
        (lambda: nsf((2,), temperature=math.nan), "'temperature' must be 0 or more and finite, got nan"),
        (lambda: Flow(Chain(), (2,), width=0.0), "'width' must be positive, or None for continuous data, got 0"),
        (lambda: nsf((2,)).log_prob(torch.zeros(3, 4), {}), r"'x' must be \(B, \*\(2,\)\), got \(3, 4\)"),
        (lambda: realnvp((1,)), "vectors of two elements at least"),
        (lambda: nsf((1,), coupling=True), "vectors of two elements at least"),
        (lambda: glow((1, 12, 12), levels=3), r"the sides of \(1, 12, 12\) do not halve 3 times: take fewer levels"),
        (lambda: glow((4,)), r"'shape' must be \(C, H, W\), got \(4,\)"),
        (lambda: maf((2,), steps=0), "'steps' must be at least 1, got 0"),
        (lambda: iaf((2,), steps=0), "'steps' must be at least 1, got 0"),
        (lambda: nsf((2,), bins=0), "'bins' must lie in"),
        (lambda: nsf((2,), bound=-1.0), "'bound' be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            bad()


def test_what_a_spline_flow_learns_is_near_the_entropy():
    """Standard normals on three centres, whose entropy is known but for an overlap of less than 1e-6."""
    torch.manual_seed(0)
    centres = 12.0 * torch.tensor([[0.0, 1.0], [0.9, -0.5], [-0.9, -0.5]])
    entropy = math.log(3.0) + 1.0 + math.log(2.0 * math.pi)

    def draw(n):
        return centres[torch.randint(3, (n,))] + torch.randn(n, 2)

    model = nsf((2,), width=32, steps=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        ids = torch.arange(128)
        loss = model.loss(Batch(draw(128), {}, ids), Noise(0, ids), "model")
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    with torch.no_grad():
        nats = -model.log_prob(draw(4000), {})
    gap, error = float(nats.mean()) - entropy, float(nats.std()) / 4000**0.5
    assert -3.0 * error < gap < 1.0  # a single normal is 2.2 above


@pytest.mark.parametrize("parts", [1, 4])
def test_all_parts_of_the_first_step_see_the_scales_that_the_first_one_found(parts):
    model = nsf((2,), width=8, steps=1)
    x = 5.0 * torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) + 3.0
    settings = Settings(batch=64, budget=Budget(images=64), optim=Optim(lr=1e-12), parts=parts if parts > 1 else 0)
    optimizers = {"model": adamw(model.parameters_of("model"), settings.optim)}
    turns = Turns(model.train(), optimizers, settings, {}, World(), torch.device("cpu"))
    _, sound = turns.step([Batch(x, {}, torch.arange(64))], State(), 1e-12)
    assert sound
    first = next(part for part in model.modules() if isinstance(part, ActNorm))
    assert first.seen
    torch.testing.assert_close(first.shift.detach(), x[: 64 // parts].mean(0), rtol=0, atol=1e-5)


def test_bits_are_those_of_spread_pixels_and_of_densities():
    model = wild(realnvp((1, 8, 8), width=8, depth=1, bounds=(-1.0, 1.0)))
    ids, width = torch.arange(3), bin_width()
    x, noise = torch.randint(0, 256, (3, 1, 8, 8)) * width - 1.0, Noise(5, ids)
    assert isinstance(model, HasBits)
    y = dequantise(x, noise, width)
    want = -(model.log_prob(y, {}) / 64 + math.log(width)) / math.log(2.0)
    torch.testing.assert_close(model.bits(x, {}, noise, width).per_dim, want)
    torch.testing.assert_close(model.bits(y, {}, noise, None).per_dim, -model.log_prob(y, {}) / 64 / math.log(2.0))
    assert model.bits(x, {}, noise, width).about == "exact density, uniform dequantisation"
