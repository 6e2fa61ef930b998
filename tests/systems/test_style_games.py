"""StyleGAN as a whole: one step in parts is the step of the whole batch, with all that its buffers keep."""

from dataclasses import replace

import pytest
import torch

from gensys.core import Batch
from gensys.engine.buffers import Buffers
from gensys.noise import Noise, Stream
from gensys.objectives.path_length import PathLength
from gensys.objectives.penalties import R1, Lazy
from gensys.systems.stylegan import Style, stylegan
from gensys.systems.stylegan2 import stylegan2
from gensys.systems.stylegan3 import stylegan3

SHAPE, CHANNELS = (1, 16, 16), (8, 8, 4)
SMALL, GIVEN = Style(latent=6, styles=8, depth=2), {"classes": 3, "penalty": Lazy(R1(1.0), 16)}
MAKE = {
    "1": lambda: stylegan(SHAPE, CHANNELS, SMALL, **GIVEN),
    "2": lambda: stylegan2(SHAPE, CHANNELS, SMALL, path=PathLength(), **GIVEN),
    "2 strided": lambda: stylegan2(SHAPE, CHANNELS, replace(SMALL, critic="strided"), bounded=True, **GIVEN),
    "3": lambda: stylegan3(SHAPE, CHANNELS, replace(SMALL, mixing=0.0), layers=4, **GIVEN),
}


def made(version):
    torch.manual_seed(0)
    return MAKE[version]().train()


def batch(ids):
    return Batch(Noise(9, ids).normal(SHAPE, Stream.EPS), {"label": ids % 3}, ids)


def turn(model, player, count):
    """Gradients and buffers after a turn on 16 rows in `count` parts, by the rule for parts."""
    buffers = Buffers(model)
    old, changes, total = buffers.copy(), [], 0.0
    parameters = model.parameters_of(player)
    for ids in torch.arange(16).chunk(count):
        buffers.put(old)
        loss = model.loss(batch(ids), Noise(2, ids, 0), player)
        (loss.total / count).backward()
        total += float(loss.total.detach()) / count
        changes.append(buffers.change(old))
    buffers.add(old, torch.stack(changes).mean(0), changes)
    state = {name: value.clone() for name, value in model.named_buffers()}
    return total, [p.grad for p in parameters], state


@pytest.mark.parametrize("version", sorted(MAKE))
@pytest.mark.parametrize("player", ["critic", "generator"])
def test_a_step_in_parts_is_that_of_the_whole(version, player):
    """Step 0: with both lazy penalties. Parts of 8 rows are two of the critic's groups."""
    model = made(version)
    parameters = model.parameters_of(player)
    whole, gradients, state = turn(model, player, 1)
    assert [p for p, g in zip(parameters, gradients, strict=True) if g is None] == []
    found, others, after = turn(made(version), player, 2)
    assert found == pytest.approx(whole, rel=1e-5)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5 * float(one.abs().max()) + 1e-7)
    assert after.keys() == state.keys()
    for name, value in state.items():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-6, msg=name)
    before = dict(made(version).named_buffers())
    assert not torch.equal(state["generator.mapping.mean"], before["generator.mapping.mean"])


@pytest.mark.parametrize("version", sorted(MAKE))
def test_samples_are_their_ids_and_go_by_the_label(version):
    model = made(version).eval()
    assert model.conditions == {"label"}
    ids = torch.arange(5)
    whole = model.sample({"label": ids % 3}, Noise(1, ids))
    assert whole.shape == (5, *SHAPE)
    alone = model.sample({"label": torch.tensor([1])}, Noise(1, torch.tensor([4])))
    torch.testing.assert_close(alone, whole[4:], rtol=1e-4, atol=1e-5)
    other = model.sample({"label": torch.tensor([2])}, Noise(1, torch.tensor([4])))
    assert not torch.allclose(other, alone, atol=1e-3)


def test_regularisers_are_lazy():
    model = made("2")
    assert model.regulariser is not None
    model.regulariser.share.fill_(1.0)  # as after the first batch, which is only measured
    ids = torch.arange(4)
    steps = {player: [] for player in ("critic", "generator")}
    for step in range(17):
        for player, found in steps.items():
            loss = model.loss(batch(ids), Noise(2, ids, step), player)
            if float(loss.terms["penalty"]) > 0.0:
                found.append(step)
    assert steps == {"critic": [0, 16], "generator": [0, 4, 8, 12, 16]}
