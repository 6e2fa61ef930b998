"""Codecs with perceptual and adversarial terms: whose turn changes what, and how hard the critic may pull."""

import pytest
import torch

from gensys.bottlenecks.ema import EmaQuantiser
from gensys.core import Batch, Codec, Codes, Posterior
from gensys.engine.checkpoint import State
from gensys.engine.optim import adamw
from gensys.engine.parallel import World
from gensys.engine.settings import Budget, Settings
from gensys.engine.step import Turns
from gensys.engine.validation import validation_loss
from gensys.nn.features import Wavelets
from gensys.nn.translator import patch_critic
from gensys.noise import Noise, Stream
from gensys.objectives.games import hinge
from gensys.objectives.perceptual import perceptual_distance
from gensys.systems.kl_gan import kl_gan
from gensys.systems.vqgan import vqgan

CPU = torch.device("cpu")
SHAPE = (1, 16, 16)
KINDS = ["kl", "vq"]


def made(kind, *, critic=True, **options):
    torch.manual_seed(0)
    parts = (Wavelets(1), patch_critic(SHAPE, width=8, halvings=1) if critic else None)
    if kind == "kl":
        return kl_gan(SHAPE, *parts, channels=2, widths=(8, 16), **options)
    return vqgan(SHAPE, EmaQuantiser(8, 4), *parts, width=8, **options)


def rows(count=8, first=0):
    ids = first + torch.arange(count)
    return Batch(Noise(3, ids).uniform(SHAPE, Stream.EPS) * 2 - 1, {}, ids)


def at(batch, step=0):
    return Noise(0, batch.ids, step)


def judged(model, batch, step):
    """The two halves of the codec's loss, each with its graph."""
    decoded, own = model.codec.reconstruct(batch.x, at(batch, step))
    likeness = own.total + model.perceptual * perceptual_distance(model.features, decoded, batch.x).mean()
    return likeness, hinge.generator(model.critic(decoded))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("perceptual", [0.0, 0.7])
def test_before_its_start_the_critic_plays_no_part(kind, perceptual):
    model, batch = made(kind, perceptual=perceptual, start=5), rows()
    found = model.loss(batch, at(batch, 4), "codec")
    decoded, own = made(kind).codec.reconstruct(batch.x, at(batch, 4))
    distance = perceptual_distance(Wavelets(1), decoded, batch.x).mean()
    assert torch.equal(found.total, own.total + perceptual * distance if perceptual else own.total)
    assert torch.equal(own.total, made(kind).codec.loss(batch, at(batch, 4), "model").total)
    torch.testing.assert_close(own.terms["reconstruction"], (decoded - batch.x).abs().mean().detach())
    assert {"critic", "lambda"}.isdisjoint(found.terms)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = adamw(model.parameters_of("critic"), Settings(1, Budget(1)).optim)
    for step, moved in ((4, False), (5, True)):
        optimizer.zero_grad()
        model.loss(batch, at(batch, step), "critic").total.backward()
        assert all(p.grad is not None and p.grad.any() == moved for p in model.critic.parameters() if p.ndim > 1)
        optimizer.step()
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert bool(changed) == moved
    assert all(name.startswith("critic.") for name in changed)
    assert {"critic", "lambda"} < model.loss(batch, at(batch, 5), "codec").terms.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_asks_for_gradients_of_its_own_players_weights_alone(kind):
    model, batch = made(kind), rows()
    assert model.players == ("critic", "codec")
    for player, net, other in (("critic", model.critic, model.codec), ("codec", model.codec, model.critic)):
        model.zero_grad()
        model.loss(batch, at(batch), player).total.backward()
        assert all(p.grad is not None and p.grad.any() for p in net.parameters() if p.ndim > 1)
        assert all(p.grad is None for p in other.parameters())
        assert {id(p) for p in model.parameters_of(player)} == {id(p) for p in net.parameters()}
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match=r"'player' must be one of \['codec', 'critic'\], got 'judge'"):
        model.parameters_of("judge")


@pytest.mark.parametrize("kind", KINDS)
def test_the_critic_pulls_as_hard_as_the_rest(kind):
    """lambda is the ratio of the gradients of the step before, so on equal batches and weights both pull alike."""
    model, batch = made(kind, adversarial=0.3).eval(), rows()
    assert model.last is model.codec.decoder.layers[-2].weight  # behind it pixels are only unfolded
    with torch.no_grad():
        model.critic[-1].weight.mul_(0.05)  # a critic whose scores are small
    first = model.loss(batch, at(batch), "codec")
    assert first.terms["lambda"] == 0.0  # there has been no step
    slopes = [torch.autograd.grad(half, model.last, retain_graph=True)[0] for half in judged(model, batch, 0)]
    torch.testing.assert_close(model.slope, slopes[0])
    torch.testing.assert_close(model.critic_slope, slopes[1])
    ratio = slopes[0].norm() / (slopes[1].norm() + 1e-4)
    assert ratio > 10  # far from 1
    found = model.loss(batch, at(batch), "codec")
    torch.testing.assert_close(found.terms["lambda"], ratio)
    likeness, said = judged(model, batch, 0)
    torch.testing.assert_close(found.total, likeness + 0.3 * ratio * said)
    (pull,) = torch.autograd.grad(found.total, model.last)
    torch.testing.assert_close((pull - slopes[0]).norm(), 0.3 * slopes[0].norm(), rtol=0.02, atol=0)
    with torch.no_grad():
        model.critic_slope.zero_()
        model.slope.fill_(1.0)
    assert model.loss(batch, at(batch), "codec").terms["lambda"] == 1e4


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_that_is_fixed(kind):
    model, batch = made(kind, adversarial=0.3, adaptive=False).eval(), rows()
    likeness, said = judged(model, batch, 0)
    torch.testing.assert_close(model.loss(batch, at(batch), "codec").total, likeness + 0.3 * said)
    assert not {"slope", "critic_slope"} & model.state_dict().keys()


def test_the_critic_learns_the_game_and_no_codebook_follows_what_it_looks_at():
    model, batch = made("vq"), rows()
    model.loss(batch, at(batch), "codec")  # sets the codebook
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = model.loss(batch, at(batch), "critic")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.codec.quantiser.training
    fake = model.decode(model.encode(batch.x).mode)
    torch.testing.assert_close(loss.total, hinge.critic(model.critic(batch.x), model.critic(fake)))
    assert not any(term.requires_grad for term in loss.terms.values())


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_codec_that_it_trains(kind):
    model, batch = made(kind).eval(), rows()
    assert isinstance(model, Codec)
    found, plain = model.encode(batch.x), model.codec.encode(batch.x)
    assert isinstance(found, Posterior if kind == "kl" else Codes)
    assert torch.equal(found.mode, plain.mode)
    assert torch.equal(model.decode(found.mode), model.codec.decode(plain.mode))
    assert torch.equal(model.sample({}, at(batch)), model.codec.sample({}, at(batch)))


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_critic_it_is_no_game(kind):
    model, batch = made(kind, critic=False), rows()
    assert model.players == ("codec",)
    assert not any("critic" in name or "slope" in name for name in model.state_dict())
    assert validation_loss(model.eval(), [batch], "fp32", CPU) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_step_add_up_to_the_whole(kind):
    """lambda among them: what is kept for it are gradients, whose mean over parts is the batch's."""

    def stepped(**options):
        model = made(kind)
        if kind == "vq":
            model.loss(rows(16), at(rows(16)), "codec")  # k-means sees the whole batch, whatever the parts
        settings = Settings(16, Budget(images=64), precision="fp32", clip=float("inf"), **options)
        optimizers = {name: torch.optim.SGD(model.parameters_of(name), 0.1) for name in model.players}
        turns = Turns(model, optimizers, settings, {}, World(), CPU)
        for step in (1, 2, 3):
            terms, sound = turns.step([rows(16, first=16 * step)], State(step), 0.1)
            assert sound
        return model.state_dict(), terms

    whole = stepped()
    assert whole[1]["codec/lambda"] > 0
    for found in (stepped(accumulate=4), stepped(parts=4)):
        for ours, theirs in zip(found, whole, strict=True):
            assert ours.keys() == theirs.keys()
            for name, value in theirs.items():
                if name != "codec/perplexity":  # of the codes of a part
                    torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_values_out_of_range_are_refused():
    for options in ({"perceptual": -1.0}, {"adversarial": -0.1}, {"start": -1}):
        with pytest.raises(ValueError, match="'perceptual', 'adversarial' and 'start' must not be negative"):
            made("kl", **options)


def test_weights_that_stay_in_place_are_asked_for_where_lambda_is():
    assert made("kl").second_order
    assert not made("kl", adaptive=False).second_order
    assert not made("kl", critic=False).second_order
