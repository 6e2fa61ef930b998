"""Adversarial models: a generator, and a critic that it learns from.

    x = G(z, cond), z ~ N(0, I)          Adversarial = generator x critic x game x penalty

The data's labels are those of the samples in training too, so both have the same law. Which game, objectives/games.py;
what keeps the critic smooth, objectives/penalties.py.

Goodfellow et al., 2014, "Generative adversarial networks", arXiv:1406.2661; conditional: Mirza and Osindero, 2014,
"Conditional generative adversarial nets", arXiv:1411.1784.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


class Adversarial(Generative):
    """generator: (z, cond, noise) -> (B, *S), z: (B, *latent); noise: for what it draws itself, most draw nothing.
    critic: (x, cond) -> scores, (B,) or a map of them.

    turns: of the critic, each on fresh rows, for one of the generator. penalty: on the critic. clip: the weights of the
    critic are kept in [-clip, clip] (Arjovsky et al., 2017, arXiv:1701.07875, algorithm 1). instance: noise on all that
    the critic sees. regulariser: (generator, z, cond, noise) -> what is added to the generator's loss; its buffers, if
    it has any, are the model's.

    The terms of the critic's log: its loss without penalty, the mean scores of data and samples, the penalty.
    """

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
        regulariser: Callable[[Any, Tensor, Cond, Noise], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if turns < 1:
            raise ValueError(f"'turns' of the critic must be at least 1, got {turns}")
        if clip is not None and not clip > 0:
            raise ValueError(f"'clip' must be positive, or None for weights of any size, got {clip}")
        self.generator, self.critic, self.latent, self.game = generator, critic, latent, game
        self.penalty, self.clip, self.instance = penalty, clip, instance
        self.regulariser = regulariser
        self.players = ("critic",) * turns + ("generator",)

    @property
    def conditions(self) -> frozenset[str]:
        return taken_by(self.generator)

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
            fake = self.generator(noise.normal(self.latent, Stream.PRIOR), batch.cond, noise)
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

    def _generator_loss(self, batch: Batch, noise: Noise) -> Loss:
        z = noise.normal(self.latent, Stream.EPS)  # other than the critic has just learnt from
        fake = self.generator(z, batch.cond, noise)
        if self.instance is not None:
            fake = self.instance.on_fake(fake, noise)
        with frozen(self.critic):
            total = self.game.generator(self.critic(fake, batch.cond))
        terms = {"loss": total.detach()}
        if self.regulariser is not None:
            penalty = self.regulariser(self.generator, z, batch.cond, noise)
            total, terms = total + penalty, terms | {"penalty": penalty.detach()}
        return Loss(total, terms)

    @torch.no_grad()
    def sample(self, cond: Cond, noise: Noise) -> Tensor:
        """x = G(z, cond), z ~ N(0, I) a function of (seed, id)."""
        return self.generator(noise.normal(self.latent, Stream.INITIAL), cond, noise)
