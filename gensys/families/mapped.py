"""A model in other coordinates than the data's: what it is asked is handed on to a model of z, and x = decode(z)."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from gensys.core import Generative

__all__ = ["Mapped", "prior_of"]


class Mapped(Generative):
    """prior: the model of z that is trained."""

    def __init__(self, prior: Generative) -> None:
        super().__init__()
        self.prior, self.players = prior, prior.players

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """What the prior draws -> data."""

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Data -> what the prior draws, the most likely of it."""

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        return self.prior.parameters_of(player)

    @property
    def second_order(self) -> bool:
        return self.prior.second_order

    @property
    def evaluations(self) -> int:
        return self.prior.evaluations

    @property
    def conditions(self) -> frozenset[str]:
        return self.prior.conditions


def prior_of(model: Generative) -> Generative:
    """The model of z, or the model itself if it is one of the data."""
    return model.prior if isinstance(model, Mapped) else model
