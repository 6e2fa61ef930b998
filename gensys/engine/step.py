"""One step of training: every player's turns on fresh rows, computed in parts where that is asked for, and guarded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from gensys.core import Batch, Generative
from gensys.engine.buffers import Buffers
from gensys.engine.checkpoint import State
from gensys.engine.guard import Guard
from gensys.engine.parallel import World, broadcast_weights, exact_mean, is_sharded, packed, summed, unpacked
from gensys.engine.precision import autocast
from gensys.engine.settings import Settings
from gensys.noise import Noise

__all__ = ["Turns", "moved", "part", "rounds"]


def rounds(players: Sequence[str]) -> int:
    """Batches in a step: as many as the busiest player has turns, so that none trains on a row twice in one step."""
    return max(Counter(players).values())


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

    def step(self, batches: Sequence[Batch], state: State, lr: float) -> tuple[dict[str, Tensor], bool]:
        """Every player's turn; returns the terms of the log, still on the device, and whether all turns were taken: one
        that the guard refuses leaves weights and buffers as they were, on every worker alike.

        batches: `rounds(players)` of them; the k-th turn of a player is on the k-th."""
        if state.step == 0 and (len(self._places(batches[0])) > 1 or self._world.size > 1):
            self._first_look(batches[0])
        terms: dict[str, Tensor] = {}
        sound = True
        taken: Counter[str] = Counter()
        for player in self._model.players:
            optimizer, parameters = self._optimizers[player], self._model.parameters_of(player)
            for group in optimizer.param_groups:
                group["lr"] = lr * self._settings.pace(player)
            old = self._buffers.copy()
            compute = self._exact_gradients if self._settings.parts else self._gradients
            number = state.step * len(batches) + taken[player]
            found = compute(player, parameters, batches[taken[player]], number, old)
            taken[player] += 1
            norm = nn.utils.clip_grad_norm_(parameters, self._settings.clip)
            norm = norm.full_tensor() if is_sharded(norm) else norm  # pyright: ignore[reportAttributeAccessIssue]
            if self.guard.passes(player, float(norm)):
                optimizer.step()
            else:
                sound = False
                self._buffers.put(old)
            prefix = f"{player}/" if len(self._optimizers) > 1 else ""
            terms |= {prefix + name: value for name, value in {**found, "grad_norm": norm}.items()}
        return terms, sound

    def _places(self, rows: Batch) -> range:
        """The places in the batch of the parts of this worker's rows, which it computes one after the other."""
        if self._settings.parts:
            return self._world.span(self._settings.parts)
        count = self._settings.accumulate
        return range(self._world.rank * count, self._world.rank * count + min(count, rows.ids.shape[0]))

    def _first_look(self, rows: Batch) -> None:
        """Compute every player's loss on the batch's first part, for what a model does when it first sees data.

        ActNorm's scales, a codebook from the first codes: all workers get what the first one found, or every part would
        find its own.
        """
        for player in dict.fromkeys(self._model.players):
            self._loss(player, part(rows, 0, len(self._places(rows))), 0, 0)
        broadcast_weights(self._model, self._world)

    def _loss(self, player: str, rows: Batch, number: int, place: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """A player's loss on some rows, and the terms of the log.

        number: of the batch that the rows are of, over the whole run: the step, where a step has one batch. place: of
        these rows in the batch. Layers that draw from torch's own generator (dropout) draw other numbers in each.
        """
        seed = self._settings.seed
        # on a CPU only its own generator: torch.manual_seed leaves word for accelerators too, a millisecond a turn
        seeded = torch.default_generator.manual_seed if self._device.type == "cpu" else torch.manual_seed
        seeded(((seed << 20) + number + (place << 52)) % (1 << 63))
        with autocast(self._settings.precision, self._device):
            loss = self._model.loss(rows, Noise(seed, rows.ids, number), player)
        return loss.total, loss.terms

    def _gradients(
        self, player: str, parameters: Sequence[nn.Parameter], rows: Batch, number: int, old: Sequence[Tensor]
    ) -> Mapping[str, Tensor]:
        """Leave the gradient of the mean loss over all workers' rows in the parameters, and in the buffers what their
        rule says; returns the terms of the log, averaged alike."""
        places = self._places(rows)
        self._optimizers[player].zero_grad(set_to_none=True)
        terms: dict[str, Tensor] = {}
        changes: list[Tensor] = []
        change = torch.zeros(0, device=self._device)
        for k, place in enumerate(places):
            if k:
                self._buffers.put(old)
            some = part(rows, k, len(places)) if len(places) > 1 else rows
            weight = some.ids.shape[0] / self._settings.batch  # workers and parts may have one row more than others
            total, found = self._loss(player, some, number, place)
            (total * weight).backward()  # gradients add up
            terms = {name: terms[name] + value * weight if k else value * weight for name, value in found.items()}
            if self._buffers and weight < 1:
                changes.append(self._buffers.change(old))
                change = change + changes[-1] * weight if k else changes[-1] * weight
        if self._world.size > 1:
            whole = [p for p in parameters if not is_sharded(p)]  # those of others were added in the backward pass
            flat = summed(packed(whole, *terms.values(), change), self._world)
            means, change = unpacked(whole, flat).tensor_split([len(terms)])
            terms = dict(zip(terms, means, strict=True))
        if changes:
            self._buffers.add(old, change, changes)
        return terms

    def _exact_gradients(
        self, player: str, parameters: Sequence[nn.Parameter], rows: Batch, number: int, old: Sequence[Tensor]
    ) -> Mapping[str, Tensor]:
        """As `_gradients`, with the same bits however many workers there are, terms included: see
        gensys/engine/parallel.py."""
        places = self._places(rows)
        names: list[str] = []
        changes: list[Tensor] = []

        def parts() -> Iterator[Tensor]:
            """The gradients of each part; behind them the terms of the log and the changes of the buffers."""
            for k, place in enumerate(places):
                for p in parameters:
                    p.grad = None
                self._buffers.put(old)
                total, found = self._loss(player, part(rows, k, len(places)), number, place)
                total.backward()
                names[:] = found
                if self._buffers:
                    changes.append(self._buffers.change(old))
                yield packed(parameters, *found.values(), *changes[-1:])

        others = unpacked(parameters, exact_mean(parts(), self._settings.parts, self._world))
        terms, change = others.tensor_split([len(names)])
        if changes:
            self._buffers.add(old, change, changes)
        return dict(zip(names, terms, strict=True))


def part(rows: Batch, k: int, count: int) -> Batch:
    """Part k of `count`, in memory of its own: where a view begins can decide how a library adds."""
    x, ids = (tensor.tensor_split(count)[k].clone() for tensor in (rows.x, rows.ids))
    return Batch(x, {name: value.tensor_split(count)[k].clone() for name, value in rows.cond.items()}, ids)


def moved(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.x.to(device), {k: v.to(device) for k, v in batch.cond.items()}, batch.ids.to(device))
