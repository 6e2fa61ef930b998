"""A model of standardised vectors: its density, its loss and its samples are those of the data."""

import numpy as np
import pytest
import torch

from gensys.bijections.bijection import Chain
from gensys.core import Batch, Bits, Generative
from gensys.denoiser import Denoiser
from gensys.domain import open_domain
from gensys.families.diffusion import Diffusion
from gensys.families.flow import Flow
from gensys.families.mapped import prior_of
from gensys.families.standardised import Standardised
from gensys.nn.mlp import MLP
from gensys.noise import Noise, Stream
from gensys.paths import Linear
from gensys.run import resolve
from gensys.targets import velocity

MEAN, STD = [3.0, -100.0], [0.05, 77.0]
IDS = torch.arange(2000)
X = torch.tensor(MEAN) + torch.tensor(STD) * torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def normal():
    """What draws the data: a standard normal behind the scale."""
    return Standardised(Flow(Chain(), (2,)), MEAN, STD)


def test_the_density_is_that_of_the_data(normal):
    wanted = torch.distributions.Normal(torch.tensor(MEAN), torch.tensor(STD)).log_prob(X).sum(1)
    torch.testing.assert_close(normal.log_prob(X, {}), wanted)
    bits = normal.bits(X, {}, Noise(0, IDS), None)
    assert isinstance(bits, Bits)
    torch.testing.assert_close(bits.per_dim, -wanted / (2 * torch.tensor(2.0).log()))


def test_samples_are_those_of_the_data(normal):
    drawn = normal.sample({}, Noise(0, IDS))
    torch.testing.assert_close(drawn.mean(0), torch.tensor(MEAN), rtol=0.05, atol=0)
    torch.testing.assert_close(drawn.std(0), torch.tensor(STD), rtol=0.05, atol=0)
    torch.testing.assert_close(normal.decode(normal.embed(X)), X)


@pytest.mark.parametrize("recipe", ["gan", "wgan", "wgan_gp"])
def test_a_game_of_a_table_is_played_in_deviations(tmp_path, recipe):
    """Of points of the plane, which have one unit, it is not: their scale is part of the task."""
    rows = torch.tensor([1e6, 40.0]) + torch.tensor([1e4, 3.0]) * torch.randn(100, 2)
    (tmp_path / "t.csv").write_text("\n".join(["time,age", *(f"{a:.9g},{b:.9g}" for a, b in rows.tolist())]))
    model = resolve(recipe, {"data": str(tmp_path / "t.csv")}).model().eval()
    drawn = model.sample({}, Noise(0, IDS))
    assert bool(((drawn.mean(0) - rows.mean(0)).abs() < 3.0 * rows.std(0)).all())
    assert model.players == prior_of(model).players
    plane = resolve(recipe, {"data": "25gaussians"}).model()
    assert prior_of(plane) is plane


@pytest.mark.parametrize("recipe", ["realnvp", "maf", "iaf", "nsf"])
def test_a_flow_of_a_table_keeps_to_its_units(tmp_path, recipe):
    """ActNorm alone does not: it takes a deviation below 1e-3 for 1e-3, and a step moves such a column by many of its
    own."""
    mean, std = torch.tensor([1e6, -2e-6, 40.0]), torch.tensor([1e4, 1e-6, 3.0])
    rows = mean + std * torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    lines = [",".join(f"{value:.9g}" for value in row) for row in rows.tolist()]
    (tmp_path / "t.csv").write_text("\n".join(["time,tiny,age", *lines]))
    torch.manual_seed(0)
    model = resolve(recipe, {"data": str(tmp_path / "t.csv")}).model()
    batch, optimizer = Batch(rows, {}, torch.arange(500)), torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(20):
        optimizer.zero_grad()
        model.loss(batch, Noise(0, batch.ids), "model").total.backward()
        optimizer.step()
    drawn = model.eval().sample({}, Noise(0, IDS))
    torch.testing.assert_close(drawn.std(0), std, rtol=0.3, atol=0)
    assert bool(((drawn.mean(0) - mean).abs() < 0.3 * std).all())


def test_the_prior_sees_standardised_rows():
    prior = Diffusion(Denoiser(MLP(2, width=8, depth=1), Linear(), velocity), (2,))
    model = Standardised(prior, MEAN, STD)
    noise, z = Noise(0, IDS), (X - torch.tensor(MEAN)) / torch.tensor(STD)
    got, wanted = model.loss(Batch(X, {}, IDS), noise, "model"), prior.loss(Batch(z, {}, IDS), noise, "model")
    torch.testing.assert_close(got.total, wanted.total)
    assert model.conditions == prior.conditions
    assert model.evaluations == prior.evaluations
    assert prior_of(model) is prior_of(prior) is prior
    assert [id(p) for p in model.parameters_of("model")] == [id(p) for p in prior.parameters()]


def test_the_scale_is_kept_with_the_weights(normal):
    other = Standardised(Flow(Chain(), (2,)), [0.0, 0.0], [1.0, 1.0])
    assert not other.same(MEAN, STD)
    other.load_state_dict(normal.state_dict())
    assert other.same(MEAN, STD)


class Mute(Generative):
    """What draws zeros and has no density."""

    def loss(self, batch, noise, player):
        raise NotImplementedError

    def sample(self, cond, noise):
        return torch.zeros(len(noise.ids), 2)


def test_what_never_changes_is_drawn_as_it_is(tmp_path, monkeypatch):
    torch.manual_seed(0)
    rows = torch.tensor([0.1, 7.0]) + torch.tensor([0.0, 2.0]) * torch.randn(300, 2)
    np.save(tmp_path / "rows.npy", rows.numpy())
    model = open_domain(str(tmp_path / "rows.npy"), standardise="vectors").model(Flow(Chain(), (2,)))
    assert isinstance(model, Standardised)
    assert float(model.std[0]) == 0.0
    drawn = model.sample({}, Noise(0, IDS))
    assert set(drawn[:, 0].tolist()) == {float(rows[0, 0])}
    assert float(drawn[:, 1].std()) > 1.0
    assert bool(model.embed(rows)[:, 0].eq(0).all())
    assert bool(model.log_prob(rows, {}).isfinite().all())
    seen = []
    monkeypatch.setattr(model.prior, "loss", lambda batch, noise, player: seen.append(batch.x))
    model.loss(Batch(rows, {}, torch.arange(300)), Noise(0, torch.arange(300)), "model")
    assert float(seen[0][:, 0].std()) == pytest.approx(1.0, abs=0.15)
    torch.testing.assert_close(seen[0][:, 1], model.embed(rows)[:, 1])


def test_what_has_no_density_stays_without(normal):
    model = Standardised(Mute(), MEAN, STD)
    assert model.bits(X, {}, Noise(0, IDS), None) is None
    with pytest.raises(ValueError, match="'prior' must have a density, and Mute has none"):
        model.log_prob(X, {})
    with pytest.raises(ValueError, match=r"'width' must be None, vectors have no bins, got 0\.1"):
        normal.bits(X, {}, Noise(0, IDS), 0.1)


TABLE = torch.tensor([[0.0, 5.0, 1.0], [2.0, 3.0, 0.0], [1.0, 4.0, 1.0]])  # three categories, a number, two categories
COUNTS = (3, 0, 2)


def mixed(prior):
    return Standardised(prior, [0.5, 0.25, 0.25, 4.0, 0.3, 0.7], [0.5, 0.5, 0.5, 2.0, 0.5, 0.5], COUNTS)


def test_categories_are_vectors_to_the_prior_and_come_back():
    model = mixed(Mute())
    z = model.embed(TABLE)
    torch.testing.assert_close(z[0], torch.tensor([1.0, -0.5, -0.5, 0.5, -0.6, 0.6]))
    assert torch.equal(model.decode(z), TABLE)
    assert torch.equal(model.decode(z + 0.4 * (torch.rand(3, 6) - 0.5))[:, [0, 2]], TABLE[:, [0, 2]])
    mask = torch.tensor([[True, False, False], [False, True, True]])
    assert model.widened(mask).int().tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]
    assert torch.equal(Standardised(Mute(), MEAN, STD).widened(mask), mask)


def test_categories_have_no_density():
    model = mixed(Flow(Chain(), (6,)))
    assert model.bits(TABLE, {}, Noise(0, torch.arange(3)), None) is None
    with pytest.raises(ValueError, match="'x' has columns of categories, which have no density"):
        model.log_prob(TABLE, {})
    with pytest.raises(ValueError, match=r"'mean' must be 6 numbers for columns of \[3, 0, 2\] categories, got 2"):
        Standardised(Mute(), MEAN, STD, COUNTS)


def test_a_path_model_learns_what_goes_with_a_category(tmp_path):
    """The number lies about ten times the category's: shares, and the number of each, come out; the words too."""
    ids = torch.arange(600)
    kind = (Noise(0, ids).uniform((), Stream.TIME) < 0.25).long() + 2 * (Noise(1, ids).uniform((), Stream.TIME) < 0.1)
    number = 10.0 * kind + Noise(0, ids).normal((), Stream.EPS)
    rows = [f"{'abcd'[k]},{x:.2f},same" for k, x in zip(kind.tolist(), number.tolist(), strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["kind,number,constant", *rows]))
    torch.manual_seed(0)
    run = resolve("flow_matching", {"data": str(tmp_path / "t.csv"), "width": "64"}).load()
    model = run.build()
    assert isinstance(model, Standardised)
    assert model.categories == (4, 0, 1)
    assert model.std[[0, 1, 2, 3]].tolist() == [0.5] * 4
    assert model.std[5].item() == 0.0  # of the constant column
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for k in range(1200):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, 2.0 - k / 600)
        at = torch.arange(k * 128, (k + 1) * 128) % len(run.rows)
        optimizer.zero_grad()
        model.loss(run.source.batch(run.rows[at], Noise(0, at)), Noise(0, at, k), "model").total.backward()
        optimizer.step()
    drawn = model.eval().sample({}, Noise(7, torch.arange(2000)))
    assert drawn.shape == (2000, 3)
    assert set(drawn[:, 2].tolist()) == {0.0}
    for value in range(4):
        found = drawn[:, 0] == value
        assert found.float().mean().item() == pytest.approx((kind == value).float().mean().item(), abs=0.05)
        assert drawn[found, 1].median().item() == pytest.approx(10.0 * value, abs=2.0)


@pytest.mark.parametrize("std", [[1.0, -1.0], [1.0, float("nan")], [1.0]])
def test_deviations_that_are_none_are_refused(std):
    with pytest.raises(ValueError, match="'std' must be 2 numbers from 0 on"):
        Standardised(Flow(Chain(), (2,)), MEAN, std)
