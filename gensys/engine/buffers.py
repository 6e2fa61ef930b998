"""How the state that a model keeps in buffers changes when a step is computed in several parts, by several workers.

    new = old + mean over the parts of (what the part made of old - old)

Every part starts from the old values. So running statistics (batch normalisation), counts of used codes, vectors of a
power iteration are the same on all workers, and with a fixed tree of parts the same for any number of workers. Buffers
of whole numbers (steps seen, "initialised") must change alike in all parts, and are counted once.
Buffers that are not persistent are no state, since no checkpoint has them; they are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gensys.errors import TrainingError

__all__ = ["Buffers"]


class Buffers:
    """The persistent buffers of a model; they are looked up anew each time, as a forward pass may replace them."""

    def __init__(self, model: nn.Module) -> None:
        kept = model.state_dict().keys()
        self._model = model
        self._names = [name for name, _ in model.named_buffers() if name in kept]

    def __bool__(self) -> bool:
        return bool(self._names)

    def _values(self) -> list[Tensor]:
        if not self._names:
            return []
        found = dict(self._model.named_buffers())
        return [found[name] for name in self._names]

    def copy(self) -> list[Tensor]:
        """Their values now."""
        return [value.clone() for value in self._values()]

    @torch.no_grad()
    def put(self, values: Sequence[Tensor]) -> None:
        """Give them the values of a `copy`."""
        for buffer, value in zip(self._values(), values, strict=True):
            buffer.copy_(value)

    @torch.no_grad()
    def change(self, old: Sequence[Tensor]) -> Tensor:
        """Their values now minus the old ones, in one float32 vector. There must be some."""
        return torch.cat([_difference(value, before) for value, before in zip(self._values(), old, strict=True)])

    @torch.no_grad()
    def add(self, old: Sequence[Tensor], mean: Tensor, changes: Sequence[Tensor]) -> None:
        """Set them to old + mean. changes: those of the parts that were computed here.

        Raises: TrainingError if a buffer of whole numbers did not change alike in all parts.
        """
        sizes = [value.numel() for value in old]
        whole = torch.cat(
            [torch.full((n,), not value.is_floating_point()) for n, value in zip(sizes, old, strict=True)]
        ).to(mean.device)
        mean = torch.where(whole, mean.round(), mean)  # equal changes, weighted and added, are whole up to rounding
        for change in changes:
            if bool((wrong := whole & (change != mean)).any()):
                names = [name for name, hit in zip(self._names, wrong.split(sizes), strict=True) if bool(hit.any())]
                raise TrainingError(
                    f"the buffer {names[0]!r} holds whole numbers, and two parts of a batch changed it differently: "
                    f"what depends on the data is kept in a buffer of floating-point numbers (see Generative)"
                )
        for buffer, before, part in zip(self._values(), old, mean.split(sizes), strict=True):
            if before.is_floating_point():
                buffer.copy_(before + part.view_as(before).to(before.dtype))
            else:
                buffer.copy_((before.double() + part.view_as(before)).to(before.dtype))


def _difference(value: Tensor, before: Tensor) -> Tensor:
    wide = value if value.is_floating_point() else value.double()
    return (wide - before.to(wide.dtype)).flatten().float()
