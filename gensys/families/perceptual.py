"""Codecs whose images are to look like the data, not only to be near them: perceptual and adversarial terms.

    codec minimises    its own loss  +  perceptual d(x, G(x))  +  adversarial lambda E generated(D(G(x)))
    critic minimises   E real(D(x)) + E fake(D(G(x)))                G = decoder of encoder, D: a map of scores, hinge
    lambda = |grad L| / (|grad E generated(D(G(x)))| + 1e-4)         grad: with respect to the decoder's last weights;
                                                                     L: the codec's loss and the perceptual term

A mean error is least where all that is uncertain is blurred; a distance of features (objectives/perceptual.py) forgives
a small shift and does not forgive a lost edge, and a critic of patches (nn/translator.py) knows what edges of data look
like. lambda makes both halves pull equally hard at the decoder, whatever the units of either, so that `adversarial` is
a plain share. The codec may be any that can `reconstruct`: Gaussian latents or codes.

Here lambda is taken from the gradients of the step before, over its whole batch, which are kept in buffers: gradients
of parts and workers have a mean that is the batch's, norms of them have not. So lambda is the same number on all
workers, and for any number of them but for rounding; a step late, and 0 at the first.

Esser, Rombach and Ommer, 2020, "Taming transformers for high-resolution image synthesis", arXiv:2012.09841, equations 4
to 7 (delta = 1e-6 there, 1e-4 and a limit of 1e4 in their code); Rombach et al., 2021, "High-resolution image synthesis
with latent diffusion models", arXiv:2112.10752, section 3.1 and equation 25.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gensys.core import Batch, Codes, Cond, Generative, Loss, Posterior
from gensys.families.adversarial import frozen
from gensys.families.autoencoder import Autoencoder
from gensys.families.vq import VQAutoencoder
from gensys.noise import Noise
from gensys.objectives.games import Game, hinge
from gensys.objectives.perceptual import perceptual_distance

__all__ = ["PerceptualCodec"]

_LEAST = 1e-4  # beside the norm of the critic's gradient: at first it can be all but 0
_MOST = 1e4  # of lambda; both are theirs


class PerceptualCodec(Generative):
    """codec: what is trained. features: see `objectives.perceptual.Features`, a module that nobody trains. critic:
    (B, *S) -> a map of scores; None = no game, and one player.

    perceptual, adversarial: weights of the terms. adaptive: whether lambda is as above; else it is 1. start: steps
    before the critic is asked and trained, for which it has no part in anything: it learns little from the images of a
    codec that has learnt nothing. game: see `objectives.games`.

    The log of the codec has its own terms, the perceptual distance, and of the game what the critic says and lambda.
    Raises ValueError for weights below 0. With lambda, weights cannot be sharded: the last layer's must be whole.
    """

    def __init__(
        self,
        codec: Autoencoder | VQAutoencoder,
        features: nn.Module,
        critic: nn.Module | None = None,
        *,
        perceptual: float = 1.0,
        adversarial: float = 0.8,
        adaptive: bool = True,
        start: int = 0,
        game: Game = hinge,
    ) -> None:
        super().__init__()
        if min(perceptual, adversarial, start) < 0:
            raise ValueError(
                f"'perceptual', 'adversarial' and 'start' must not be negative, got {perceptual}, {adversarial} and "
                f"{start}"
            )
        self.codec, self.features, self.critic = codec, features, critic
        self.perceptual, self.adversarial, self.start, self.game = perceptual, adversarial, start, game
        self.adaptive = adaptive and critic is not None
        self.players = ("codec",) if critic is None else ("critic", "codec")
        if self.adaptive:  # the two gradients of the last step
            self.register_buffer("slope", torch.zeros_like(self.last))
            self.register_buffer("critic_slope", torch.zeros_like(self.last))

    slope: Tensor
    critic_slope: Tensor

    @property
    def second_order(self) -> bool:
        """Of lambda: the last layer's gradient is taken before that of all."""
        return self.adaptive

    @property
    def last(self) -> nn.Parameter:
        """The weights of the decoder's last layer: the last of its parameters that is no offset."""
        return [p for p in self.codec.decoder.parameters() if p.ndim > 1][-1]

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        super().parameters_of(player)  # refuses who does not play
        net = self.critic if player == "critic" and self.critic is not None else self.codec
        return [p for p in net.parameters() if p.requires_grad]

    def encode(self, x: Tensor) -> Posterior | Codes:
        return self.codec.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.codec.decode(z)

    def sample(self, cond: Cond, noise: Noise) -> Tensor:
        """What the codec draws by itself: latents of a prior that its data hardly follow."""
        return self.codec.sample(cond, noise)

    def loss(self, batch: Batch, noise: Noise, player: str) -> Loss:
        if self.critic is None:
            return self._codec_loss(batch, noise, None)
        playing = noise.step >= self.start
        if player == "critic":
            return self._critic_loss(batch, noise, self.critic) if playing else _idle(self.critic, batch.x)
        return self._codec_loss(batch, noise, self.critic if playing else None)

    def _codec_loss(self, batch: Batch, noise: Noise, critic: nn.Module | None) -> Loss:
        decoded, own = self.codec.reconstruct(batch.x, noise)
        total, terms = own.total, dict(own.terms)
        if self.perceptual:
            distance = perceptual_distance(self.features, decoded, batch.x).mean()
            total, terms["perceptual"] = total + self.perceptual * distance, distance.detach()
        if critic is not None and self.adversarial:
            with frozen(critic):
                judged = self.game.generator(critic(decoded))
            weight = self._balance(total, judged) if self.adaptive else torch.ones_like(judged)
            total = total + self.adversarial * weight * judged
            terms |= {"critic": judged.detach(), "lambda": weight}
        return Loss(total, terms | {"loss": total.detach()})

    def _balance(self, likeness: Tensor, judged: Tensor) -> Tensor:
        """lambda, (), of the gradients of the step before; keeps those of this one for the next."""
        weight = self.slope.norm() / (self.critic_slope.norm() + _LEAST)
        for buffer, loss in ((self.slope, likeness), (self.critic_slope, judged)):
            (found,) = torch.autograd.grad(loss, self.last, retain_graph=True)
            buffer.copy_(found)
        return weight.clamp(max=_MOST)

    def _critic_loss(self, batch: Batch, noise: Noise, critic: nn.Module) -> Loss:
        training = self.codec.training
        try:
            with torch.no_grad():  # in evaluation mode: a codebook does not follow these latents as well
                fake, _ = self.codec.eval().reconstruct(batch.x, noise)
        finally:
            self.codec.train(training)
        of_real, of_fake = critic(batch.x), critic(fake)
        total = self.game.critic(of_real, of_fake)
        terms = {"loss": total.detach(), "real": of_real.detach().mean(), "fake": of_fake.detach().mean()}
        return Loss(total, terms)


def _idle(critic: nn.Module, x: Tensor) -> Loss:
    """A loss of 0 whose gradient is 0: it goes through the critic, as sharded weights are gathered there alone."""
    total = critic(x[:1]).sum() * 0.0
    return Loss(total, {"loss": total.detach()})
