"""One step of training: every player's turn on one batch, computed in parts where that is asked for, and guarded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from gensys.core import Batch, Generative
from gensys.engine.buffers import Buffers
from gensys.engine.checkpoint import State
from gensys.engine.guard import Guard
from gensys.engine.parallel import (
    World,
    average_gradients,
    broadcast_weights,
    exact_mean,
    flat_gradients,
    set_gradients,
    worker_mean,
)
from gensys.engine.precision import autocast
from gensys.engine.settings import Settings
from gensys.noise import Noise

__all__ = ["Turns", "moved", "part"]


class Turns:
    """Takes steps: walks the players, and changes their weights.

    norms: what the guard remembers of the steps before, see `State`.
    """

    def __init__(
        self,
        model: Generative,
        optimizers: Mapping[str, torch.optim.Optimizer],
        settings: Settings,
        norms: Mapping[str, Sequence[float]],
        world: World,
        device: torch.device,
    ) -> None:
        self._model, self._optimizers, self._settings = model, optimizers, settings
        self._world, self._device = world, device
        self._buffers = Buffers(model)
        self.guard = Guard(settings.spike, norms)

    def step(self, rows: Batch, state: State, lr: float) -> tuple[dict[str, Tensor], bool]:
        """Every player's turn; returns the terms of the log, still on the device, and whether all turns were taken: one
        that the guard refuses leaves weights and buffers as they were, on every worker alike."""
        if state.step == 0 and (self._parts > 1 or self._world.size > 1):
            self._first_look(rows)
        terms: dict[str, Tensor] = {}
        sound = True
        for player in self._model.players:
            optimizer, parameters = self._optimizers[player], self._model.parameters_of(player)
            for group in optimizer.param_groups:
                group["lr"] = lr
            old = self._buffers.copy()
            compute = self._exact_gradients if self._settings.parts else self._gradients
            found = compute(player, parameters, rows, state.step, old)
            norm = nn.utils.clip_grad_norm_(parameters, self._settings.clip)
            if self.guard.passes(player, float(norm)):
                optimizer.step()
            else:
                sound = False
                self._buffers.put(old)
            prefix = f"{player}/" if len(self._optimizers) > 1 else ""
            terms |= {prefix + name: value for name, value in {**found, "grad_norm": norm}.items()}
        return terms, sound

    @property
    def _parts(self) -> int:
        """Parts of this worker's rows, which it computes one after the other."""
        return self._settings.parts // self._world.size if self._settings.parts else self._settings.accumulate

    def _first_look(self, rows: Batch) -> None:
        """Compute every player's loss on the batch's first part, for what a model does when it first sees data.

        ActNorm's scales, a codebook from the first codes: all workers get what the first one found, or every part would
        find its own.
        """
        for player in dict.fromkeys(self._model.players):
            self._loss(player, part(rows, 0, self._parts), 0, 0)
        broadcast_weights(self._model, self._world)

    def _loss(self, player: str, rows: Batch, step: int, place: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """A player's loss on some rows, and the terms of the log.

        place: of these rows in the batch. Layers that draw from torch's own generator (dropout) draw other numbers in
        each.
        """
        seed = self._settings.seed
        torch.manual_seed(((seed << 20) + step + (place << 52)) % (1 << 63))
        with autocast(self._settings.precision, self._device):
            loss = self._model.loss(rows, Noise(seed, rows.ids, step), player)
        return loss.total, loss.terms

    def _gradients(
        self, player: str, parameters: Sequence[nn.Parameter], rows: Batch, step: int, old: Sequence[Tensor]
    ) -> Mapping[str, Tensor]:
        """Leave the gradient of the mean loss over all workers' rows in the parameters, and in the buffers what their
        rule says; returns the terms of the log, of this worker's rows."""
        world, count = self._world, self._parts
        self._optimizers[player].zero_grad(set_to_none=True)
        terms: dict[str, Tensor] = {}
        changes: list[Tensor] = []
        for k in range(count):
            if k:
                self._buffers.put(old)
            total, found = self._loss(player, part(rows, k, count) if count > 1 else rows, step, world.rank * count + k)
            (total / count).backward()  # gradients add up
            terms = {name: terms[name] + value / count if k else value / count for name, value in found.items()}
            if self._buffers and count * world.size > 1:
                changes.append(self._buffers.change(old))
        average_gradients(parameters, world)
        if changes:
            self._buffers.add(old, worker_mean(torch.stack(changes).mean(0), world), changes)
        return terms

    def _exact_gradients(
        self, player: str, parameters: Sequence[nn.Parameter], rows: Batch, step: int, old: Sequence[Tensor]
    ) -> Mapping[str, Tensor]:
        """As `_gradients`, with the same bits however many workers there are, terms included: see
        gensys/engine/parallel.py."""
        count = self._parts
        names: list[str] = []
        changes: list[Tensor] = []

        def parts() -> Iterator[Tensor]:
            """The gradients of each part; behind them the terms of the log and the changes of the buffers."""
            for k in range(count):
                for p in parameters:
                    p.grad = None
                self._buffers.put(old)
                total, found = self._loss(player, part(rows, k, count), step, self._world.rank * count + k)
                total.backward()
                names[:] = found
                values = [flat_gradients(parameters), *(value.flatten().float() for value in found.values())]
                if self._buffers:
                    changes.append(self._buffers.change(old))
                    values.append(changes[-1])
                yield torch.cat(values)

        mean = exact_mean(parts(), self._settings.parts, self._world)
        weights = sum(p.numel() for p in parameters)
        gradients, terms, change = mean.tensor_split([weights, weights + len(names)])
        set_gradients(parameters, gradients)
        if changes:
            self._buffers.add(old, change, changes)
        return dict(zip(names, terms, strict=True))


def part(rows: Batch, k: int, count: int) -> Batch:
    """Part k of `count`, in memory of its own: where a view begins can decide how a library adds."""
    x, ids = (tensor.chunk(count)[k].clone() for tensor in (rows.x, rows.ids))
    return Batch(x, {name: value.chunk(count)[k].clone() for name, value in rows.cond.items()}, ids)


def moved(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.x.to(device), {k: v.to(device) for k, v in batch.cond.items()}, batch.ids.to(device))
