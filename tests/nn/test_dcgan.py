"""Generators and critics: shapes, what they are told, rows that do not meet, spectral norms."""

import pytest
import torch
from torch import nn

from gensys.nn.dcgan import Given, critic, generator, spectral
from gensys.nn.embed import taken_by
from gensys.noise import Noise

GIVEN = Given(classes=3, vector=2)
COND = {
    "label": torch.tensor([0, 2, -1, 1]),
    "vector": torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [float("nan")] * 2]),
}
SHAPES = [(1, 16, 8), (3, 8, 8), (5,)]
NOISE = Noise(0, torch.arange(4))


def pair(shape, seed=0, **options):
    torch.manual_seed(seed)
    latent = options.pop("latent", 6)
    given = options.get("given", Given())
    return generator(shape, latent=latent, width=8, depth=2, given=given), critic(shape, width=8, depth=2, **options)


def test_what_is_given_as_numbers():
    like = torch.zeros(4, 7)
    expected = [[1, 0, 0, 1, 2], [0, 0, 1, 3, 4], [0, 0, 0, 5, 6], [0, 1, 0, 0, 0]]  # none given: zeros
    assert GIVEN(COND, like).tolist() == expected
    assert GIVEN({}, like).tolist() == [[0] * 5] * 4
    assert Given()(COND, like).shape == (4, 0)
    assert (GIVEN.taken, Given(classes=2).taken, Given().taken) == ({"label", "vector"}, {"label"}, set())
    with pytest.raises(ValueError, match=r"cond\['vector'\] must be \(4, 2\), got \(4, 3\)"):
        GIVEN({"vector": torch.zeros(4, 3)}, like)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("projection", [True, False])
def test_shapes_and_that_every_weight_has_a_gradient(shape, projection):
    make, judge = pair(shape, given=GIVEN, projection=projection)
    x = make(torch.randn(4, 6), COND, NOISE)
    assert x.shape == (4, *shape)
    assert x.abs().max() <= 1
    scores = judge(x, COND)
    assert scores.shape == (4,)
    scores.square().sum().backward()
    for p in [*make.parameters(), *judge.parameters()]:
        assert p.grad is not None
        assert p.grad.abs().max() > 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("projection", [True, False])
def test_rows_are_their_own_and_what_is_given_makes_a_difference(shape, projection):
    make, judge = (net.double() for net in pair(shape, given=GIVEN, projection=projection))
    z = torch.randn(4, 6, dtype=torch.float64)
    x = make(z, COND, NOISE)
    some = torch.tensor([2, 0])
    cond = {name: value[some] for name, value in COND.items()}
    torch.testing.assert_close(make(z[some], cond, NOISE), x[some], rtol=0, atol=1e-12)
    torch.testing.assert_close(judge(x[some], cond), judge(x, COND)[some], rtol=0, atol=1e-12)
    for name, value in (("label", torch.tensor([1, 1, 1, 2])), ("vector", torch.ones(4, 2))):
        other = {**COND, name: value}
        assert ((make(z, other, NOISE) - x).flatten(1).abs().amax(1) > 1e-6).all()
        assert ((judge(x, other) - judge(x, COND)).abs() > 1e-6).all()
    assert taken_by(make) == {"label", "vector"}


def test_a_critic_projects():
    _, judge = pair((5,), given=Given(classes=3), projection=True)
    x = torch.randn(4, 5)
    phi, v = judge.body(x), judge.projection.weight
    label = torch.tensor([0, 1, 2, -1])
    inner = torch.stack([phi[i] @ v[:, label[i]] if label[i] >= 0 else torch.zeros(()) for i in range(4)])
    torch.testing.assert_close(judge(x, {"label": label}), judge.score(phi)[:, 0] + inner)


@pytest.mark.parametrize("shape", SHAPES)
def test_all_weights_of_a_normalised_critic_have_the_spectral_norm_1(shape):
    _, judge = pair(shape, given=Given(classes=3), normalised=True)
    x = torch.randn(2, *shape)
    for _ in range(100):  # a power iteration each
        judge(x, {})
    layers = [m for m in judge.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert len(layers) == 4
    for layer in layers:
        norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert float(norm) == pytest.approx(1.0, abs=2e-3)


def test_a_normalised_perceptron_is_1_lipschitz():
    """Leaky rectifiers are, so the product of its layers' norms is a bound."""
    _, judge = pair((5,), normalised=True)
    spread = torch.randn(256, 5)
    for _ in range(100):
        judge(spread, {})
    judge.eval()
    a, b = 3 * torch.randn(2, 1000, 5)
    assert ((judge(a, {}) - judge(b, {})).abs() <= 1.01 * (a - b).norm(dim=1)).all()
    _, free = pair((5,))
    for p in free.parameters():
        p.data.mul_(3)
    assert ((free(a, {}) - free(b, {})).abs() > (a - b).norm(dim=1)).any()


def test_dropout_is_of_training_alone():
    _, judge = pair((1, 8, 8), dropout=0.5)
    x = torch.randn(4, 1, 8, 8)
    assert not torch.equal(judge(x, {}), judge(x, {}))
    judge.eval()
    assert torch.equal(judge(x, {}), judge(x, {}))


def test_twice_the_resolution_is_one_more_depth():
    torch.manual_seed(0)
    for side, depth in ((16, 2), (32, 3), (64, 4)):
        assert generator((3, side, side), width=4, depth=depth)(torch.randn(2, 64), {}, NOISE).shape == (
            2,
            3,
            side,
            side,
        )
        assert critic((3, side, side), width=4, depth=depth)(torch.randn(2, 3, side, side), {}).shape == (2,)


def test_float32_under_autocast():
    make, judge = pair((1, 8, 8), given=GIVEN)
    with torch.autocast("cpu", torch.bfloat16):
        x = make(torch.randn(4, 6), COND, NOISE)
        assert (x.dtype, judge(x, COND).dtype) == (torch.float32, torch.float32)


def test_scores_far_from_zero_keep_their_differences_under_autocast():
    _, judge = pair((5,))
    x = torch.randn(64, 5)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        near = judge(x, {})
        judge.score.bias.add_(300.0)  # where bfloat16 counts in steps of 2
        torch.testing.assert_close(judge(x, {}) - 300.0, near, rtol=0, atol=1e-4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"'depth' is 3: .* multiples of 2\^depth = 8"):
        critic((1, 12, 12), depth=3)
    with pytest.raises(ValueError, match="'depth' is 0: it must be at least 1"):
        generator((1, 12, 12), depth=0)
    with pytest.raises(ValueError, match=r"'shape' must be \(C, H, W\) or \(D,\), got \(2, 3\)"):
        generator((2, 3))
    with pytest.raises(ValueError, match=r"'dropout' must lie in \[0, 1\), got 1"):
        critic((2,), dropout=1.0)


def test_spectral_returns_what_it_was_given():
    net = nn.Sequential(nn.Linear(2, 2))
    assert spectral(net) is net
