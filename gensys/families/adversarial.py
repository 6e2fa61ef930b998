"""Adversarial models: a generator, and a critic that it learns from.

    x = G(z, cond), z ~ N(0, I)          Adversarial = generator x critic x game x penalty

The data's conditions are those of the samples in training too, so both have the same law. Which game,
objectives/games.py; what keeps the critic smooth, objectives/penalties.py.

A critic that has learnt from nothing but the generator's last step lets it forget what it was told before: the two go
round in circles. Shrivastava et al. (2016, "Learning from simulated and unsupervised images through adversarial
training", arXiv:1612.07828, section 2.3) keep a pool of images that the generator made earlier, and show the critic
half of those. Here the generator as it was earlier is kept instead, in buffers, and makes that half anew: a pool of
images would depend on who saw which rows, whereas copies of weights are the same on all workers, and in a checkpoint.
An image stays in their pool of 50 while about 100 others are made, on average; the copy is, on average, half of
`history` steps old.

Goodfellow et al., 2014, "Generative adversarial networks", arXiv:1406.2661; conditional: Mirza and Osindero, 2014,
"Conditional generative adversarial nets", arXiv:1411.1784.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gensys.core import Batch, Cond, Generative, Loss
from gensys.nn.embed import taken_by
from gensys.noise import Noise, Stream
from gensys.objectives.games import Game, InstanceNoise
from gensys.objectives.penalties import Penalty

__all__ = ["Adversarial", "frozen"]


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """What is computed in here asks for no gradient of the weights of `net`; its inputs may have one."""
    trained = [p for p in net.parameters() if p.requires_grad]
    try:
        for p in trained:
            p.requires_grad_(False)
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)


def _as_buffers(net: nn.Module) -> nn.Module:
    """A copy of `net` whose weights are buffers: nobody trains them, and checkpoints have them."""
    earlier = copy.deepcopy(net)
    for module in earlier.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, p.detach())
    return earlier


class Adversarial(Generative):
    """generator: (z, cond, noise) -> (B, *S), z: (B, *latent); noise: for what it draws itself, most draw nothing.
    critic: (x, cond) -> scores, (B,) or a map of them.

    turns: of the critic, each on fresh rows, for one of the generator. penalty: on the critic. clip: the weights of the
    critic are kept in [-clip, clip] (Arjovsky et al., 2017, arXiv:1701.07875, algorithm 1). instance: noise on all that
    the critic sees. regulariser: (generator, z, x, cond, noise), where x = G(z, cond) -> what is added to the
    generator's loss, each part under its name in the log; its buffers, if it has any, are the model's. history: steps
    from one copy of the generator to the next, which makes half of the samples that the critic learns from (see above);
    0 = none. Each turn of a critic counts as a step.

    The terms of the critic's log: its loss without penalty, the mean scores of data and samples, the penalty.
    """

    full_precision = True  # penalties of the critic are gradients of gradients, and scores are compared

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        latent: tuple[int, ...],
        game: Game,
        *,
        turns: int = 1,
        penalty: Penalty | None = None,
        clip: float | None = None,
        instance: InstanceNoise | None = None,
        regulariser: Callable[[Any, Tensor, Tensor, Cond, Noise], Mapping[str, Tensor]] | None = None,
        history: int = 0,
    ) -> None:
        super().__init__()
        if turns < 1:
            raise ValueError(f"'turns' of the critic must be at least 1, got {turns}")
        if clip is not None and not clip > 0:
            raise ValueError(f"'clip' must be positive, or None for weights of any size, got {clip}")
        if history < 0:
            raise ValueError(f"'history' must be a number of steps, or 0 for none, got {history}")
        self.generator, self.critic, self.latent, self.game = generator, critic, latent, game
        self.penalty, self.clip, self.instance = penalty, clip, instance
        self.regulariser, self.history = regulariser, history
        self.earlier = _as_buffers(generator) if history else None
        self.players = ("critic",) * turns + ("generator",)

    @property
    def conditions(self) -> frozenset[str]:
        return taken_by(self.generator)

    @property
    def second_order(self) -> bool:
        return self.penalty is not None or bool(getattr(self.regulariser, "second_order", False))

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        super().parameters_of(player)  # refuses who does not play
        net = self.critic if player == "critic" else self.generator
        return [p for p in net.parameters() if p.requires_grad]

    def loss(self, batch: Batch, noise: Noise, player: str) -> Loss:
        if self.clip is not None:  # here, at the start of every turn: nothing is ever computed with unclipped weights
            with torch.no_grad():
                for p in self.critic.parameters():
                    p.clamp_(-self.clip, self.clip)
        return self._critic_loss(batch, noise) if player == "critic" else self._generator_loss(batch, noise)

    def _critic_loss(self, batch: Batch, noise: Noise) -> Loss:
        with torch.no_grad():
            fake = self._shown(noise.normal(self.latent, Stream.PRIOR), batch.cond, noise)
        real = batch.x
        if self.instance is not None:
            real, fake = self.instance.on_real(real, noise), self.instance.on_fake(fake, noise)
        of_real, of_fake = self.critic(real, batch.cond), self.critic(fake, batch.cond)
        total = self.game.critic(of_real, of_fake)
        terms = {"loss": total.detach(), "real": of_real.detach().mean(), "fake": of_fake.detach().mean()}
        if self.penalty is not None:
            penalty = self.penalty(lambda x: self.critic(x, batch.cond), real, fake, noise)
            total, terms = total + penalty, terms | {"penalty": penalty.detach()}
        return Loss(total, terms)

    def _shown(self, z: Tensor, cond: Cond, noise: Noise) -> Tensor:
        """What the critic is shown: samples of the generator, or of it and, for about half of the rows, of its copy."""
        if self.earlier is None:
            return self.generator(z, cond, noise)
        if noise.step % self.history == 0:
            weights = self.generator.state_dict()
            for name, buffer in self.earlier.state_dict().items():
                whole = getattr(weights[name], "full_tensor", None)  # of sharded weights, whose class is slow to import
                buffer.copy_(whole() if whole else weights[name])
        early = noise.uniform((1,), Stream.HISTORY)[:, 0] < 0.5
        now, then = (
            net(z[rows], {name: value[rows] for name, value in cond.items()}, replace(noise, ids=noise.ids[rows]))
            for net, rows in ((self.generator, ~early), (self.earlier, early))
        )
        x = now.new_empty(z.shape[0], *now.shape[1:])
        x[~early], x[early] = now, then
        return x

    def _generator_loss(self, batch: Batch, noise: Noise) -> Loss:
        z = noise.normal(self.latent, Stream.EPS)  # other than the critic has just learnt from
        fake = self.generator(z, batch.cond, noise)
        seen = fake if self.instance is None else self.instance.on_fake(fake, noise)
        with frozen(self.critic):
            total = self.game.generator(self.critic(seen, batch.cond))
        terms = {"loss": total.detach()}
        if self.regulariser is not None:
            for name, part in self.regulariser(self.generator, z, fake, batch.cond, noise).items():
                total, terms = total + part, terms | {name: part.detach()}
        return Loss(total, terms)

    @torch.no_grad()
    def sample(self, cond: Cond, noise: Noise) -> Tensor:
        """x = G(z, cond), z ~ N(0, I) a function of (seed, id)."""
        return self.generator(noise.normal(self.latent, Stream.INITIAL), cond, noise)
