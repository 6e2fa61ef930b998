"""A small game with every kind of state in its buffers, for tests that train it whole, in parts and in processes."""

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from gensys.core import Batch, Generative, Loss
from gensys.data import order
from gensys.families.adversarial import Adversarial
from gensys.nn.dcgan import critic, generator, spectral
from gensys.noise import Noise, Stream
from gensys.objectives.games import InstanceNoise, non_saturating
from gensys.objectives.penalties import GradientPenalty, Lazy


class ActNorm(nn.Module):
    """Kingma and Dhariwal, 2018: the first rows that it sees set its scale and shift."""

    def __init__(self, width):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("seen", torch.tensor(False))

    def forward(self, x):
        if self.training and not self.seen:
            with torch.no_grad():
                self.shift.copy_(-x.mean(0))
                self.scale.copy_(1 / (x.std(0) + 1e-3))
                self.seen.fill_(True)
        return (x + self.shift) * self.scale


class Game(Generative):
    """Two turns of a critic, with a power iteration (spectral normalisation), one of a generator with running
    statistics (batch normalisation), a first look at data (ActNorm) and an average of the data it saw."""

    players = ("critic", "critic", "generator")

    def __init__(self):
        super().__init__()
        self.critic = nn.Sequential(
            ActNorm(2), spectral_norm(nn.Linear(2, 16)), nn.LeakyReLU(0.2), nn.Dropout(0.1), nn.Linear(16, 1)
        )
        self.generator = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("constant", torch.tensor([3, 5]))

    def parameters_of(self, player):
        return list({"critic": self.critic, "generator": self.generator}[player].parameters())

    def loss(self, batch, noise, player):
        fake = self.generator(noise.normal((2,), Stream.PRIOR))
        if player == "critic":
            with torch.no_grad():
                self.mean.lerp_(batch.x.mean(0), 0.1)
            total = (self.critic(fake) - self.critic(batch.x)).mean()
        else:
            total = -self.critic(fake).mean()
        return Loss(total, {"loss": total.detach()})

    def sample(self, cond, noise):
        return self.generator(noise.normal((2,), Stream.PRIOR))


def adversarial():
    """A real one: spectral norms, dropout, a penalty that differentiates twice, noise on what the critic sees, and an
    earlier generator beside the present one."""
    return Adversarial(
        generator((2,), latent=2, width=16, depth=2, bounded=False),
        spectral(critic((2,), width=16, depth=2, dropout=0.1)),
        (2,),
        non_saturating,
        turns=2,
        penalty=Lazy(GradientPenalty(1.0), 2),
        instance=InstanceNoise(0.1, 30),
        history=3,
    )


def batches(world, size=32):
    def batch(step):
        rows = world.share(order.rows(0, step, size, 1000))
        return Batch(Noise(1, rows).normal((2,), Stream.EPS) * 0.3 + 2.0, {}, rows)

    return batch
