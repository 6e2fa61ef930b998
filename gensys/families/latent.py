"""Latent models: a frozen codec and any generative model of its latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gensys.core import Batch, Codec, Cond, Generative, Loss
from gensys.families.mapped import Mapped
from gensys.noise import Noise

__all__ = ["Latent", "as_it_is"]


def as_it_is(z: Tensor) -> Tensor:
    """The map between codes and codes."""
    return z


class Latent(Mapped):
    """prior: on normalised latents. denormalise: normalised latents -> the codec's.
    open_codec: called once, when something is encoded or decoded. normalise: the codec's latents -> normalised ones,
    for editing given data; None = no data can be edited.

    The codec is no submodule: it is not trained, and its weights stay in its own run, named and hashed by the latent
    store, so that a checkpoint of the prior does not carry a copy.
    """

    def __init__(
        self,
        prior: Generative,
        open_codec: Callable[[], Codec],
        denormalise: Callable[[Tensor], Tensor],
        normalise: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(prior)
        self._normalise = normalise
        self._open_codec, self._denormalise = open_codec, denormalise
        self._codec: tuple[Codec, ...] = ()  # in a tuple, where nn.Module does not look for submodules

    @property
    def codec(self) -> Codec:
        if not self._codec:
            self._codec = (self._open_codec(),)
        return self._codec[0]

    def loss(self, batch: Batch, noise: Noise, player: str) -> Loss:
        return self.prior.loss(batch, noise, player)

    @torch.no_grad()
    def latents(self, cond: Cond, noise: Noise) -> Tensor:
        """Draw from the prior: latents as the codec decodes them, not normalised."""
        return self._denormalise(self.prior.sample(cond, noise))

    @torch.no_grad()
    def decode_latents(self, z: Tensor) -> Tensor:
        """The codec's latents -> data, where the latents are."""
        return self._codec_at(z.device).decode(z)

    @torch.no_grad()
    def sample(self, cond: Cond, noise: Noise) -> Tensor:
        return self.decode_latents(self.latents(cond, noise))

    def decode(self, z: Tensor) -> Tensor:
        """Normalised latents -> data."""
        return self.decode_latents(self._denormalise(z))

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """Data -> normalised latents, the most likely ones. Not `encode`: the codec is the model with that."""
        latents = self._codec_at(x.device).encode(x).mode
        if self._normalise is None:
            raise ValueError("'normalise' was not given to this model: data have no place among its latents")
        return self._normalise(latents)

    def _codec_at(self, device: torch.device) -> Codec:
        if isinstance(self.codec, nn.Module):
            self.codec.to(device)
        return self.codec
