"""A latent model: its codec is opened once, when something is decoded, and is no part of its weights."""

import torch
from torch import nn

from gensys.core import Batch, Codec, Generative, Loss, Posterior
from gensys.families.latent import Latent
from gensys.noise import Noise, Stream


class Prior(Generative):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def loss(self, batch, noise, player):
        total = (self.scale * batch.x).mean()
        return Loss(total, {"loss": total.detach()})

    def sample(self, cond, noise):
        return self.scale * noise.normal((3,), Stream.INITIAL) + cond["label"][:, None]


class Doubling(nn.Module):
    def __init__(self):
        super().__init__()
        self.two = nn.Parameter(torch.tensor(2.0))

    def encode(self, x):
        return Posterior(x / self.two, torch.zeros_like(x))

    def decode(self, z):
        return z * self.two


def build():
    opened = []

    def open_codec():
        opened.append(Doubling())
        return opened[-1]

    return Latent(Prior(), open_codec, lambda z: z + 10.0), opened


def test_the_codec_is_opened_once_and_only_to_decode():
    model, opened = build()
    ids = torch.arange(4)
    cond = {"label": ids}
    model.loss(Batch(torch.ones(4, 3), cond, ids), Noise(0, ids), "model").total.backward()
    model.state_dict()
    assert opened == []
    model.sample(cond, Noise(0, ids))
    model.decode(torch.zeros(1, 3))
    assert len(opened) == 1
    assert model.codec is opened[0]


def test_the_codec_is_neither_saved_nor_trained_nor_moved():
    model, _ = build()
    assert isinstance(model.codec, Codec)
    assert list(model.state_dict()) == ["prior.scale"]
    assert [id(p) for p in model.parameters_of("model")] == [id(model.prior.scale)]
    assert [type(m) for m in model.modules()] == [Latent, Prior]
    model.double()
    assert model.codec.two.dtype == torch.float32


def test_samples_are_the_priors_denormalised_and_decoded():
    model, _ = build()
    ids = torch.arange(4)
    cond, noise = {"label": ids}, Noise(3, ids)
    sample = model.sample(cond, noise)
    torch.testing.assert_close(sample, (model.prior.sample(cond, noise).detach() + 10.0) * 2.0)
    assert not sample.requires_grad


def test_the_loss_is_the_priors():
    model, _ = build()
    ids = torch.arange(4)
    batch = Batch(torch.arange(12.0).view(4, 3), {}, ids)
    assert model.loss(batch, Noise(0, ids), "model").total.item() == 5.5
