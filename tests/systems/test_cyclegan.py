"""CycleGAN: its losses are the paper's, whoever's turn it is trains alone, and a run goes on bit for bit."""

import numpy as np
import pytest
import torch

from gensys.core import Batch
from gensys.data.joined import visits
from gensys.data.unpaired import open_unpaired
from gensys.engine.checkpoint import State, newest
from gensys.engine.loop import Budget, Settings, train
from gensys.engine.parallel import World
from gensys.engine.step import Turns
from gensys.noise import Noise
from gensys.systems.cyclegan import cyclegan

SHAPE = (1, 8, 8)


def made(**options):
    torch.manual_seed(0)
    small = {"width": 4, "halvings": 1, "blocks": 1, "critic_width": 4, "critic_halvings": 1}
    return cyclegan(SHAPE, **small | options)


def rows(count=8):
    ids = torch.arange(count)
    x, image = (torch.rand(count, *SHAPE) * 2 - 1 for _ in range(2))
    return Batch(x, {"label": ids % 2, "image": image}, ids)


def nets(model):
    """The paper's four: into a and b, of a and b."""
    return [*model.generator.into.nets, *model.critic.nets]


def test_the_losses_are_half_of_the_papers():
    """Written out for both directions; a row trains one of them, so each mean is over half of the rows."""
    model = made(cycle=10.0, identity=0.5)
    batch = rows()
    into_a, into_b, of_a, of_b = nets(model)
    a, to_b = batch.x[0::2], batch.cond["image"][1::2]  # label 0: x is of a, its image of b
    b, to_a = batch.x[1::2], batch.cond["image"][0::2]
    generator = critic = torch.zeros(())
    for real, image, there, back, judge in ((b, to_b, into_b, into_a, of_b), (a, to_a, into_a, into_b, of_a)):
        fake = there(image)
        critic = critic + 0.5 * (judge(real) - 1).square().mean() + 0.5 * judge(fake.detach()).square().mean()
        cycle, identity = (back(fake) - image).abs().mean(), (back(image) - image).abs().mean()
        generator = generator + (judge(fake) - 1).square().mean() + 10.0 * cycle + 5.0 * identity
    noise = Noise(0, batch.ids)
    torch.testing.assert_close(model.loss(batch, noise, "critic").total, critic / 2)
    found = model.loss(batch, noise, "generator")
    torch.testing.assert_close(found.total, generator / 2 / 2)
    assert found.terms.keys() == {"loss", "cycle", "identity"}


@pytest.mark.parametrize("history", [0, 2])
def test_a_turn_trains_its_player_alone_and_both_directions(history):
    model, batch = made(history=history), rows()
    for player in ("critic", "generator"):
        model.zero_grad()
        model.loss(batch, Noise(0, batch.ids, 1), player).total.backward()
        own, other = getattr(model, player), model.critic if player == "generator" else model.generator
        assert all(p.grad is not None and p.grad.any() for p in own.parameters())
        assert all(p.grad is None for p in other.parameters())
        assert {id(p) for p in model.parameters_of(player)} == {id(p) for p in own.parameters()}


def test_a_batch_of_one_domain_trains_what_it_can():
    model, batch = made(), rows(2)
    cond = {"label": torch.zeros(2, dtype=torch.int64), "image": batch.cond["image"]}
    for player in ("critic", "generator"):
        loss = model.loss(Batch(batch.x, cond, batch.ids), Noise(0, batch.ids), player)
        assert loss.total.isfinite()
        loss.total.backward()
    assert all(p.grad.any() for p in model.generator.parameters()), "both lie on the cycle"
    assert not any(p.grad.any() for p in model.critic.nets[1].parameters())


def test_a_sample_is_a_translation():
    model, batch = made().eval(), rows()
    x = model.sample(batch.cond, Noise(0, batch.ids))
    for k, row in enumerate(batch.cond["image"]):
        torch.testing.assert_close(x[k : k + 1], model.generator.into.nets[k % 2](row[None]))
    assert torch.equal(model.sample(batch.cond, Noise(9, batch.ids)), x), "nothing is drawn"
    assert model.conditions == {"label", "image"}
    with pytest.raises(ValueError, match=r"cond\['image'\] must be 8 images, which are translated, got nothing"):
        model.sample({"label": batch.cond["label"]}, Noise(0, batch.ids))


@pytest.fixture
def source(tmp_path):
    generator = np.random.default_rng(0)
    np.save(tmp_path / "photos.npy", generator.integers(0, 256, (120, 8, 8), np.uint8))
    return open_unpaired(str(tmp_path / "photos.npy"))


def trained(source, folder, stop_after=None, **options):
    """-> the model, and the bits of weights, average and optimizers."""
    folder.mkdir(exist_ok=True)
    at, given = visits(source, source.balanced(), 0, 8), []

    def batch(step):
        given.append(step)
        return source.batch(at(step), Noise(0, at(step), step))

    model = made(history=3)
    stop = None if stop_after is None else lambda: len(given) >= stop_after
    settings = Settings(8, Budget(images=8 * 8), precision="fp32", spike=0.0, **options)
    train(model, batch, settings, folder, stop=stop)
    return model, {file.name: file.read_bytes() for file in newest(folder / "checkpoints").glob("*.safetensors")}


@pytest.mark.parametrize(("stop", "how"), [(5, {}), (6, {}), (5, {"parts": 2})], ids=["between", "due", "exact"])
def test_a_run_goes_on_bit_for_bit(source, tmp_path, how, stop):
    """Stopped between two copies of the generator, or where one is due."""
    model, quiet = trained(source, tmp_path / "quiet", **how)
    trained(source, tmp_path / "stopped", stop_after=stop, **how)
    again, resumed = trained(source, tmp_path / "stopped", **how)
    assert resumed == quiet
    assert all(map(torch.equal, again.state_dict().values(), model.state_dict().values()))


def test_parts_of_a_step_add_up_to_the_whole():
    """Also where a part has rows of one domain alone; and the copy of the generators is the same."""

    def stepped(**options):
        model = made(history=2)
        settings = Settings(8, Budget(images=32), precision="fp32", clip=float("inf"), spike=0.0, **options)
        optimizers = {name: torch.optim.SGD(model.parameters_of(name), 1e-2) for name in ("critic", "generator")}
        turns = Turns(model, optimizers, settings, {}, World(), torch.device("cpu"))
        torch.manual_seed(1)
        batch = rows()
        batch.cond["label"][:4] = torch.tensor([0, 0, 1, 1])
        for step in range(4):
            _, sound = turns.step([batch], State(step), 1e-2)
            assert sound
        return model.state_dict()

    whole = stepped()
    assert not torch.equal(whole["earlier.into.nets.0.0.weight"], whole["generator.into.nets.0.0.weight"])
    for found in (stepped(accumulate=4), stepped(parts=4)):
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_workers_have_shares_of_the_same_batch(source):
    at = visits(source, source.balanced(), 0, 8)
    whole = source.batch(at(3), Noise(0, at(3), 3))
    shares = [World(rank, 2).share(at(3), 4) for rank in (0, 1)]
    parts = [source.batch(share, Noise(0, share, 3)) for share in shares]
    assert torch.equal(torch.cat([part.cond["image"] for part in parts]), whole.cond["image"])
