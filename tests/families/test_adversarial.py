"""Adversarial models: whose turn changes what, the engine's promises, and critics that measure distances."""

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import nn

from gensys.core import Batch
from gensys.engine.checkpoint import State
from gensys.engine.optim import adamw
from gensys.engine.parallel import World
from gensys.engine.settings import Budget, Settings
from gensys.engine.step import Turns
from gensys.families.adversarial import Adversarial, frozen
from gensys.families.latent import Latent
from gensys.nn.dcgan import critic, generator
from gensys.noise import Noise, Stream
from gensys.objectives.games import InstanceNoise, non_saturating, wasserstein
from gensys.objectives.penalties import R1, GradientPenalty, Lazy, input_gradient
from gensys.systems.cgan import cgan
from gensys.systems.gan import gan
from gensys.systems.wgan import wgan
from gensys.systems.wgan_gp import wgan_gp

CPU = torch.device("cpu")
SMALL = {"latent": 3, "width": 16, "depth": 2}


def labelled(shape, **options):
    return cgan(shape, classes=3, **options)


SYSTEMS = [gan, labelled, wgan, wgan_gp]


def rows(count=16, shape=(2,), first=0):
    ids = first + torch.arange(count)
    return Batch(Noise(3, ids).normal(shape, Stream.EPS), {"label": ids % 3}, ids)


def made(system, shape=(2,), **options):
    torch.manual_seed(0)
    return system(shape, **SMALL | {"bounded": False} | options)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)])
def test_a_turn_asks_for_gradients_of_its_own_players_weights_alone(system, shape):
    model = made(system, shape)
    batch = rows(8, shape)
    for player, net, other in (
        ("critic", model.critic, model.generator),
        ("generator", model.generator, model.critic),
    ):
        model.zero_grad()
        model.loss(batch, Noise(0, batch.ids), player).total.backward()
        assert all(p.grad is not None and p.grad.any() for p in net.parameters() if p.ndim > 1)
        assert all(p.grad is None for p in other.parameters())
        assert {id(p) for p in model.parameters_of(player)} == {id(p) for p in net.parameters()}
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match=r"'player' must be one of \['critic', 'generator'\], got 'judge'"):
        model.parameters_of("judge")


def test_weights_are_asked_for_gradients_again_after_an_error():
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)

    def failing():
        with frozen(net):
            assert not net.weight.requires_grad
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        failing()
    assert (net.weight.requires_grad, net.bias.requires_grad) == (True, False)


def test_the_losses_are_those_of_the_game():
    model = made(gan, penalty=R1(0.4))
    batch, noise = rows(), Noise(5, torch.arange(16), 2)
    fake = model.generator(noise.normal((3,), Stream.PRIOR), {}, noise)
    found = model.loss(batch, noise, "critic")
    expected = non_saturating.critic(model.critic(batch.x, {}), model.critic(fake, {}))
    torch.testing.assert_close(found.terms["loss"], expected.detach())
    torch.testing.assert_close(found.total, expected + found.terms["penalty"])
    other = model.generator(noise.normal((3,), Stream.EPS), {}, noise)  # not what the critic has learnt from
    expected = non_saturating.generator(model.critic(other, {}))
    torch.testing.assert_close(model.loss(batch, noise, "generator").total, expected)


def test_what_the_critic_sees_is_noisy_in_both_turns():
    model = made(gan, instance=InstanceNoise(0.5, 4))
    batch, seen = rows(), []
    model.critic.register_forward_pre_hook(lambda net, given: seen.append(given[0].detach()))
    for step in (0, 4):
        for player in ("critic", "generator"):
            model.loss(batch, Noise(0, batch.ids, step), player)
    (real, _, made_, *clean) = seen
    assert (real - batch.x).std() == pytest.approx(0.5, rel=0.4)
    assert torch.equal(clean[0], batch.x)
    plain = model.generator(Noise(0, batch.ids, 0).normal((3,), Stream.EPS), {}, Noise(0, batch.ids))
    assert (made_ - plain).detach().std() == pytest.approx(0.5, rel=0.4)


def test_nothing_is_computed_with_unclipped_weights():
    model = made(wgan, clip=0.05)
    batch = rows()
    for player in ("generator", "critic"):
        with torch.no_grad():
            for p in model.critic.parameters():
                p.fill_(0.2)
        before = [p.clone() for p in model.generator.parameters()]
        model.loss(batch, Noise(0, batch.ids), player)
        assert all(bool((p == 0.05).all()) for p in model.critic.parameters())
        assert all(map(torch.equal, before, model.generator.parameters()))


def test_half_of_what_the_critic_learns_from_is_made_by_the_generator_as_it_was():
    model = Adversarial(generator((2,), latent=3), critic((2,)), (3,), non_saturating, history=3)
    assert model.earlier is not None
    batch, first = rows(400), [p.detach().clone() for p in model.generator.parameters()]

    def seen(step):
        noise = Noise(0, batch.ids, step)
        found = model.loss(batch, noise, "critic").terms["fake"]
        z, early = noise.normal((3,), Stream.PRIOR), noise.uniform((1,), Stream.HISTORY) < 0.5
        assert 0.4 < float(early.float().mean()) < 0.6
        now, then = model.generator(z, {}, noise), model.earlier(z, {}, noise)
        torch.testing.assert_close(found, model.critic(torch.where(early, then, now), {}).mean().detach())
        return torch.equal(now, then)

    assert seen(3)
    for step in (4, 5):
        with torch.no_grad():
            for p in model.generator.parameters():
                p.add_(0.1)
        assert not seen(step)
        assert all(map(torch.equal, model.earlier.state_dict().values(), first)), "the copy of step 3"
    model.loss(batch, Noise(0, batch.ids, 5), "generator").total.backward()
    assert seen(6), "copied again"
    assert not list(model.earlier.parameters())
    assert {"earlier." + name for name, _ in model.generator.named_parameters()} <= model.state_dict().keys()


def test_values_out_of_range_are_refused():
    parts = generator((2,)), critic((2,)), (64,), wasserstein
    with pytest.raises(ValueError, match="'turns' of the critic must be at least 1, got 0"):
        Adversarial(*parts, turns=0)
    with pytest.raises(ValueError, match=r"'clip' must be positive, or None .* got 0"):
        Adversarial(*parts, clip=0.0)
    with pytest.raises(ValueError, match=r"'history' must be a number of steps, .* got -1"):
        Adversarial(*parts, history=-1)
    with pytest.raises(ValueError, match="nothing to go by: take a gan"):
        cgan((2,), classes=0)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)])
def test_a_sample_is_a_function_of_its_id_and_condition(system, shape):
    model = made(system, shape).eval()
    ids = torch.tensor([4, 9, 4, 1])
    label = {"label": torch.tensor([0, 1, 0, 2])}
    x = model.sample(label, Noise(0, ids))
    assert (x.shape, x.requires_grad) == ((4, *shape), False)
    assert torch.equal(x[0], x[2])
    torch.testing.assert_close(model.sample({"label": torch.tensor([2])}, Noise(0, ids[3:])), x[3:])
    assert not torch.equal(model.sample(label, Noise(1, ids)), x)
    assert model.conditions == ({"label"} if system is labelled else set())


def test_a_game_of_latents_is_the_same_game():
    prior = made(wgan_gp, turns=2)
    model = Latent(prior, lambda: pytest.fail("no codec is needed to train"), lambda z: z)
    assert model.players == ("critic", "critic", "generator")
    assert [id(p) for p in model.parameters_of("critic")] == [id(p) for p in prior.critic.parameters()]
    batch = rows()
    assert torch.equal(*(m.loss(batch, Noise(0, batch.ids), "critic").total for m in (model, prior)))


def test_parts_of_a_step_add_up_to_the_whole():
    """Spectral norms come from weights alone, so buffers are the same however a step is computed."""

    def stepped(**options):
        model = made(gan, normalised=True, penalty=Lazy(GradientPenalty(1.0), 2), turns=2)
        settings = Settings(16, Budget(images=64), precision="fp32", clip=float("inf"), **options)
        optimizers = {name: torch.optim.SGD(model.parameters_of(name), 0.1) for name in ("critic", "generator")}
        turns = Turns(model, optimizers, settings, {}, World(), CPU)
        for step in (1, 2):  # in parts, the first step looks at data once more, and iterates
            terms, sound = turns.step([rows(first=first) for first in (0, 16)], State(step), 0.1)
            assert sound
        return model.state_dict(), terms

    whole = stepped()
    for found in (stepped(accumulate=4), stepped(parts=4)):
        for ours, theirs in zip(found, whole, strict=True):
            assert ours.keys() == theirs.keys()
            for name, value in theirs.items():
                torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------------distances on a line


@pytest.fixture
def one_thread():
    """Networks this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Law(nn.Module):
    """A generator that is not trained: rows of a sorted sample, drawn by z."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def forward(self, z, cond, noise):
        return self.values[(torch.special.ndtr(z[:, 0]) * len(self.values)).long()][:, None]


def laws():
    generator = np.random.default_rng(0)
    normal = generator.normal(size=(2, 20_000))
    signs = np.sign(generator.normal(size=20_000))
    return normal[0], {
        "near": 0.3 + normal[1],
        "far": 1.5 + normal[1],
        "wide": 2.0 * normal[1],
        "narrow": 0.2 * normal[1],
        "two": 2.0 * signs + 0.3 * normal[1],
        "beyond": 3.0 + 0.5 * normal[1],
    }


def estimate(fake, real, steps, **options):
    """What the critic takes for the distance after some steps: E D(real) - E D(fake)."""
    torch.manual_seed(0)
    model = Adversarial(
        Law(torch.from_numpy(fake).float()),
        critic((1,), width=32, depth=2),
        (1,),
        wasserstein,
        **options,
    )
    real = torch.from_numpy(real).float()[:, None]
    optimizer = adamw(model.parameters_of("critic"), Settings(1, Budget(1)).optim)
    found = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / steps)
        ids = (128 * step + torch.arange(128)) % len(real)
        loss = model.loss(Batch(real[ids], {}, ids), Noise(0, ids, step), "critic")
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        found.append(-float(loss.terms["loss"]))
    return sum(found[-40:]) / 40  # the mean over 5,120 rows


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "options", [{"clip": 0.1}, {"penalty": GradientPenalty(10.0, one_sided=True)}], ids=["clip", "penalty"]
)
def test_the_critics_estimate_goes_with_the_distance(options):
    real, fakes = laws()
    true = np.array([wasserstein_distance(real, fake) for fake in fakes.values()])
    found = np.array([estimate(fake, real, 150, **options) for fake in fakes.values()])
    assert np.corrcoef(true, found)[0, 1] > (0.99 if "penalty" in options else 0.9)
    if "penalty" in options:  # its critic's gradient has about the length 1, so its estimate has the distance's scale
        assert np.abs(found / true - 1).max() < 0.25  # 1 + W1 / 20 at best


@pytest.mark.usefixtures("one_thread")
def test_wgan_gp_moves_its_samples_to_both_halves_of_the_data():
    """Both players, by turns: two narrow normals at -2 and 2. Samples begin 1.9 away, in the middle."""
    torch.manual_seed(0)
    model = wgan_gp((1,), weight=1.0, latent=1, width=32, depth=2, turns=3, bounded=False)
    optimizers = {player: torch.optim.Adam(model.parameters_of(player), 2e-3, (0.0, 0.9)) for player in model.players}
    signs = torch.tensor([-2.0, 2.0]).repeat(32)[:, None]

    def distance(count=2000):
        x = model.sample({}, Noise(7, torch.arange(count)))[:, 0].numpy()
        return wasserstein_distance(x, np.resize([-2.0, 2.0], count)), (x > 0).mean()

    begun, _ = distance()
    assert begun > 1.5
    for step in range(250):
        for turn, player in enumerate(model.players):
            noise = Noise(3, torch.arange(64), 4 * step + turn)
            x = signs + 0.05 * noise.normal((1,), Stream.EPS)
            optimizers[player].zero_grad()
            model.loss(Batch(x, {}, noise.ids), noise, player).total.backward()
            optimizers[player].step()
    ended, right = distance()
    assert ended < 0.4
    assert 0.35 < right < 0.65
    slopes = input_gradient(lambda x: model.critic(x, {}), torch.linspace(-2.0, 2.0, 41)[:, None])
    assert float(slopes.detach().abs().mean()) < 1.5  # 1 at best, and far more without the penalty
