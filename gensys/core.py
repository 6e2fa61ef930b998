"""The contracts that every part of gensys keeps: what a batch, a loss and a generative model are.

A family of generative models is a subclass of `Generative`: it says how to turn a batch into a loss and how to
draw samples. Whatever else a model can do (a likelihood, a latent code) is a protocol, asked by `isinstance`.
The training loop, the pools and the metrics see these names and nothing else.

Shapes: B rows in a batch, `*S` the shape of one datum, `*Z` the shape of one latent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gensys.noise import Noise

__all__ = [
    "Batch",
    "Bits",
    "Codec",
    "Codes",
    "Cond",
    "Generative",
    "HasBits",
    "HasLikelihood",
    "InLatents",
    "Loss",
    "Posterior",
    "is_codec",
]

Cond = Mapping[str, Tensor]
"""What a sample is conditioned on: "label" (B,) int64, "vector" (B, L) float32, "text" (B, L, D), "image" (B, *S) that
is translated, ...; an empty mapping = unconditional. A label of -1 is "no label", and a vector of NaN "no vector", row
by row: the form that classifier-free guidance trains and samples with."""


@dataclass(frozen=True)
class Batch:
    """Rows of training data.

    x: (B, *S) data, scaled as the model expects it (images: [-1, 1]).
    cond: the condition of every row.
    ids: (B,) int64, the global index of every row in its data set; all noise of a row is keyed by it.
    """

    x: Tensor
    cond: Cond
    ids: Tensor


@dataclass(frozen=True)
class Loss:
    """What one player minimises.

    total: () tensor to differentiate. terms: detached scalars for the log.
    """

    total: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over latents, q(z | x) = N(mean, exp(logvar)); mean and logvar: (B, *Z)."""

    mean: Tensor
    logvar: Tensor

    @property
    def mode(self) -> Tensor:
        """The most likely latent, which reconstructions are decoded from: the mean."""
        return self.mean

    def sample(self, eps: Tensor) -> Tensor:
        """z = mean + exp(logvar / 2) eps, with eps ~ N(0, I) of shape (B, *Z)."""
        return self.mean + torch.exp(0.5 * self.logvar) * eps

    def kl(self) -> Tensor:
        """KL(q || N(0, I)) in nats, (B,): half the sum of mean^2 + exp(logvar) - 1 - logvar."""
        nats = 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar)
        return nats.flatten(1).sum(1)


@dataclass(frozen=True)
class Codes:
    """Discrete latents: which vectors of a codebook. indices: (B, *Z) int64 in [0, size). size: of the codebook.

    grids: what the indices of a datum, in order, are the codes of, from coarse to fine, each grid in raster order: the
    n codebooks of a residual quantiser are n grids of one shape. () = one grid, of the shape of the indices.
    """

    indices: Tensor
    size: int
    grids: tuple[tuple[int, ...], ...] = ()

    @property
    def mode(self) -> Tensor:
        """The latent that reconstructions are decoded from: the indices."""
        return self.indices


@dataclass(frozen=True)
class Bits:
    """How many bits an element of a datum takes: per_dim (B,). about: in a line whether exact, or which bound."""

    per_dim: Tensor
    about: str


class Generative(nn.Module, ABC):
    """A trainable generative model.

    players: the names of those who are trained, in order, within one step. Most families have one, ("model",); a
    game lists its turns, for example ("critic",) * 5 + ("generator",). `loss` is asked once for every turn; the turns
    that a player has in one step are on different rows.

    State that `loss` changes besides the weights (running statistics, a codebook's averages, a flag) belongs into
    persistent buffers. Where a step is computed in several parts, by one worker or many, each part starts from the old
    value, and new = old + mean over the parts of (the part's - old); so what counts data must be floating-point, and
    whole numbers must change alike in all parts. What is set when data are first seen (ActNorm) may be set in `loss`:
    in such a run `loss` is computed once more before the first step, on the first part, and all workers get the result.
    A turn that the engine refuses leaves buffers as they were.

    full_precision: whether parts of it compute in float32 under autocast too, as a gradient penalty or a
    log-determinant does: they need the weights as they are, not rounded for the journey between workers.
    second_order: whether its loss differentiates gradients, or takes some on its way: the weights must then stay in
    place from the forward pass on, and cannot be sharded.
    """

    players: tuple[str, ...] = ("model",)
    full_precision: ClassVar[bool] = False

    @property
    def second_order(self) -> bool:
        return False

    @abstractmethod
    def loss(self, batch: Batch, noise: Noise, player: str) -> Loss:
        """The loss of `player` on `batch`; every random number comes from `noise`."""

    @abstractmethod
    def sample(self, cond: Cond, noise: Noise) -> Tensor:
        """Draw one sample for each id in `noise`: (B, *S)."""

    @property
    def evaluations(self) -> int:
        """How often `sample` runs the network for one sample; a guided call counts twice."""
        return 1

    @property
    def conditions(self) -> frozenset[str]:
        """The names in `cond` that `sample` goes by; others may be ignored. None: it draws without conditions."""
        return frozenset()

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        """The parameters that `player` trains; a game with several players overrides this."""
        if player not in self.players:
            raise ValueError(f"'player' must be one of {sorted(set(self.players))}, got {player!r}")
        return [p for p in self.parameters() if p.requires_grad]


@runtime_checkable
class HasLikelihood(Protocol):
    """A model that knows (a bound on) the likelihood of data."""

    def log_prob(self, x: Tensor, cond: Cond) -> Tensor:
        """log p(x | cond) in nats, (B,)."""
        ...


@runtime_checkable
class HasBits(Protocol):
    """A model whose likelihood can be held against those of others, whatever family they are of."""

    def bits(self, x: Tensor, cond: Cond, noise: Noise, width: float | None) -> Bits | None:
        """Bits an element of x (B, *S), of bins of this width (see gensys/likelihood.py), or of a density if None.

        noise: of dequantisation, of probes, of draws. None where this configuration has no likelihood.
        """
        ...


@runtime_checkable
class InLatents(Protocol):
    """A model that draws latents and decodes them: sample(cond, noise) = decode_latents(latents(cond, noise))."""

    def latents(self, cond: Cond, noise: Noise) -> Tensor:
        """One latent for each id in `noise`, (B, *Z), as its codec decodes them."""
        ...

    def decode_latents(self, z: Tensor) -> Tensor:
        """(B, *Z) -> (B, *S)."""
        ...


@runtime_checkable
class Codec(Protocol):
    """A model with a latent space, continuous or discrete."""

    def encode(self, x: Tensor) -> Posterior | Codes:
        """(B, *S) -> the posterior over latents, or their codes: (B, *Z)."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """(B, *Z), latents or codes (int64) -> (B, *S)."""
        ...


def is_codec(model: Generative) -> bool:
    """Whether a model is there for its latents, so that its reconstructions are looked at and not its samples.

    A variational autoencoder encodes as well, but has a likelihood: it is a model of its data.
    """
    return isinstance(model, Codec) and not isinstance(model, HasLikelihood)
