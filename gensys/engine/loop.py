"""The training loop: what happens, in the order in which it happens.

The loop does not know what it trains. It asks for batches by step number, walks the model's players, and keeps
weights, average, optimizers and log in a run folder from which it goes on, bit for bit, wherever it was stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from gensys.core import Batch, Generative
from gensys.engine import ema
from gensys.engine.checkpoint import State, load_optimizer, load_weights, newest, read_state, save_checkpoint
from gensys.engine.log import Log
from gensys.engine.optim import Optim, adamw, rate
from gensys.engine.parallel import (
    World,
    average_gradients,
    broadcast_weights,
    exact_mean,
    flat_gradients,
    set_gradients,
)
from gensys.engine.precision import Precision, autocast
from gensys.errors import ConfigError, TrainingError
from gensys.noise import Noise

__all__ = ["Budget", "Progress", "Settings", "train"]

_PATIENCE = 5  # steps without a finite gradient, one after the other: more than a few unlucky rows explain
_NAMED = 8  # sample ids in a message


@dataclass(frozen=True)
class Budget:
    """When a run ends: after so many images (rows seen), or after so many seconds of training. One of the two."""

    images: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.images is None) == (self.seconds is None) or not (self.images or self.seconds or 0) > 0:
            raise ConfigError(f"a budget is a positive number of images or of seconds, got {self}")

    def progress(self, state: State) -> float:
        """The fraction that is spent, in [0, 1]."""
        spent = state.images / self.images if self.images else state.seconds / (self.seconds or 1.0)
        return min(1.0, spent)


@dataclass(frozen=True)
class Settings:
    """How to train, whatever is trained. batch: rows a step, over all workers. ema: relative width of the average.

    parts: 0 = every worker computes its rows of a batch at once, and the last bits depend on how many workers there
    are. A power of two = the batch is computed in so many equal parts, whose gradients are added along a fixed tree:
    the same bits for any number of workers that divides it, and less memory, as only one part's activations are held.
    """

    batch: int
    budget: Budget
    optim: Optim = Optim()  # noqa: RUF009 - a frozen value
    ema: float = 0.07
    clip: float = 1.0  # the largest norm of a step's gradient: rare outliers of small batches do not undo the run
    precision: Precision = "auto"
    seed: int = 0
    keep: int = 2  # checkpoints on the disk
    save_every: float = 60.0  # seconds between checkpoints
    log_every: int = 20  # steps between lines of the log
    previews: int = 8  # sample grids over the run, after the one at step 0
    parts: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"'batch' must be at least 1, got {self.batch}")
        if self.parts < 0 or self.parts & (self.parts - 1):
            raise ConfigError(f"'parts' must be 0 or a power of two, got {self.parts}: give 2, 4, 8, ...")
        if self.parts and self.batch % self.parts:
            raise ConfigError(f"'batch' must be a multiple of the number of parts ({self.parts}), got {self.batch}")
        if not 0 <= self.seed < 1 << 43:  # shifted by 20 bits and added to a step, it must fit torch's 64-bit seed
            raise ConfigError(f"'seed' must lie in [0, 2^43), got {self.seed}")


@dataclass(frozen=True)
class Progress:
    """What a step tells those who watch."""

    state: State
    fraction: float
    loss: float


def train(
    model: Generative,
    batch: Callable[[int], Batch],
    settings: Settings,
    folder: Path,
    *,
    world: World = World(),  # noqa: B008 - a frozen value
    device: torch.device = torch.device("cpu"),  # noqa: B008
    preview: Callable[[Generative, int], None] | None = None,
    watch: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> State:
    """Train until the budget is spent or `stop` says so; resumes from the newest whole checkpoint in `folder`.

    batch(step): this worker's part of the global batch. preview(average, step): draws a grid with the averaged weights.
    All randomness is counter-based, so step k is the same whether or not the run was interrupted before it. A step
    whose gradient is not finite changes no weight; the log counts such steps as `skipped`.

    Raises: TrainingError, which names the samples, when no gradient is finite any more, or when a weight is not.
    """
    model.to(device)
    optimizers = {name: adamw(model.parameters_of(name), settings.optim) for name in dict.fromkeys(model.players)}
    average = ema.shadow(model)
    gamma = ema.exponent(settings.ema)
    chief = world.rank == 0

    state = State()
    if (found := newest(folder / "checkpoints")) is not None:
        load_weights(model, found / "model.safetensors")
        load_weights(average, found / "average.safetensors")
        load_optimizer(optimizers, found)
        state = read_state(found)
    broadcast_weights(model, world)

    log = Log(folder, state.step) if chief else None
    clock = time.perf_counter() - state.seconds
    saved_at, pictured, logged = state.seconds, settings.budget.progress(state), state.step
    terms: dict[str, Tensor] = {}
    lr, bad = 0.0, 0  # bad: steps skipped just now, one after the other
    try:
        if chief and preview and state.step == 0:
            preview(average, 0)
        while not state.finished:
            seconds, wish = _agree(time.perf_counter() - clock, stop is not None and stop(), world, device)
            state = replace(state, seconds=seconds)
            fraction = settings.budget.progress(state)
            state = replace(state, finished=fraction >= 1.0)
            leaving = state.finished or wish

            every = state.step % settings.log_every == 0 or state.step == 1 or state.finished
            if log and every and state.step > logged:
                logged = state.step
                values = _numbers(terms, state, bad)
                log.write(state.step, {**values, "lr": lr, "images": state.images, "seconds": round(seconds, 3)})
                if watch:
                    watch(Progress(state, fraction, values.get("loss", float("nan"))))
            if chief and (leaving or seconds - saved_at >= settings.save_every):
                saved_at = seconds
                _require_finite(model, state.step)
                save_checkpoint(folder / "checkpoints", model, average, optimizers, state, settings.keep)
            if chief and preview and (state.finished or fraction >= pictured + 1 / settings.previews):
                pictured = fraction
                preview(average, state.step)  # after saving: a picture that fails must not cost the weights
            if leaving:
                break

            lr = rate(settings.optim, state.step, fraction)
            rows = _moved(batch(state.step), device)
            terms, sound = _step(model, optimizers, rows, settings, state, lr, world, device)
            bad = 0 if sound else bad + 1
            if bad == _PATIENCE:
                raise TrainingError(_accusation(model, rows, settings, state.step, device))
            skipped = state.skipped + (not sound)
            state = replace(state, step=state.step + 1, images=state.images + settings.batch, skipped=skipped)
            ema.update(average, model, state.step, gamma)
    finally:
        if log:
            log.close()
    return state


def _step(
    model: Generative,
    optimizers: Mapping[str, torch.optim.Optimizer],
    rows: Batch,
    settings: Settings,
    state: State,
    lr: float,
    world: World,
    device: torch.device,
) -> tuple[dict[str, Tensor], bool]:
    """Every player's turn on one batch; returns the terms of the log, still on the device, and whether all turns were
    taken: a player whose gradient is not finite leaves its weights as they are, on every worker alike."""
    terms: dict[str, Tensor] = {}
    sound = True
    for player in model.players:
        optimizer, parameters = optimizers[player], model.parameters_of(player)
        for group in optimizer.param_groups:
            group["lr"] = lr
        if settings.parts:
            found = _exact_gradients(model, player, parameters, rows, settings, state.step, world, device)
        else:
            optimizer.zero_grad(set_to_none=True)
            found = _backward(model, player, rows, settings, state.step, world.rank, device)
            average_gradients(parameters, world)
        norm = nn.utils.clip_grad_norm_(parameters, settings.clip)
        if bool(torch.isfinite(norm)):
            optimizer.step()
        else:
            sound = False
        prefix = f"{player}/" if len(optimizers) > 1 else ""
        terms |= {prefix + name: value for name, value in {**found, "grad_norm": norm}.items()}
    return terms, sound


def _backward(
    model: Generative, player: str, rows: Batch, settings: Settings, step: int, place: int, device: torch.device
) -> Mapping[str, Tensor]:
    """Leave the gradient of a player's loss on some rows in its parameters; returns the terms of the log.

    place: of these rows in the batch. Layers that draw from torch's own generator (dropout) draw other numbers in each.
    """
    torch.manual_seed(((settings.seed << 20) + step + (place << 52)) % (1 << 63))
    with autocast(settings.precision, device):
        loss = model.loss(rows, Noise(settings.seed, rows.ids, step), player)
    loss.total.backward()
    return loss.terms


def _exact_gradients(
    model: Generative,
    player: str,
    parameters: Sequence[nn.Parameter],
    rows: Batch,
    settings: Settings,
    step: int,
    world: World,
    device: torch.device,
) -> Mapping[str, Tensor]:
    """As `_backward`, over all workers and with the same bits however many they are: see gensys/engine/parallel.py."""
    count = settings.parts // world.size
    names: list[str] = []

    def parts() -> Iterator[Tensor]:
        """The gradients of each part, and behind them the terms of the log, which are averaged alike."""
        for k in range(count):
            for p in parameters:
                p.grad = None
            part = _part(rows, k, count)
            terms = _backward(model, player, part, settings, step, world.rank * count + k, device)
            names[:] = terms
            yield torch.cat([flat_gradients(parameters), *(value.flatten().float() for value in terms.values())])

    mean = exact_mean(parts(), settings.parts, world)
    length = mean.numel() - len(names)
    set_gradients(parameters, mean[:length])
    return dict(zip(names, mean[length:], strict=True))


def _part(rows: Batch, k: int, count: int) -> Batch:
    """Part k of `count`, in memory of its own: where a view begins can decide how a library adds."""
    x, ids = (tensor.chunk(count)[k].clone() for tensor in (rows.x, rows.ids))
    return Batch(x, {name: value.chunk(count)[k].clone() for name, value in rows.cond.items()}, ids)


def _moved(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.x.to(device), {k: v.to(device) for k, v in batch.cond.items()}, batch.ids.to(device))


def _numbers(terms: Mapping[str, Tensor], state: State, bad: int) -> dict[str, float]:
    """The terms as numbers, of a skipped step those that are finite, and how many steps were skipped so far."""
    values = {name: float(value) for name, value in terms.items()}
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    if len(finite) < len(values) and not bad:
        raise TrainingError(
            f"the loss is not finite at step {state.step} ({values}), though its gradient is: mend the model; {_KEPT}"
        )
    return {**finite, "skipped": float(state.skipped)} if state.skipped else finite


def _require_finite(model: nn.Module, step: int) -> None:
    """No checkpoint may hold weights that are not numbers: a run could never go on from it."""
    for name, value in model.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise TrainingError(f"the weights {name!r} are not finite at step {step}: {_REMEDY}; {_KEPT}")


_REMEDY = "lower 'lr', or train with precision=fp32"
_KEPT = "the checkpoints before this step are kept"


def _accusation(model: Generative, rows: Batch, settings: Settings, step: int, device: torch.device) -> str:
    """The message of a run that gives up: which samples of its last batch have a loss that is not finite by itself."""
    count = rows.ids.shape[0]
    guilty = []
    for k in range(count):
        row = _part(rows, k, count)
        with autocast(settings.precision, device):
            totals = [model.loss(row, Noise(settings.seed, row.ids, step), player).total for player in model.players]
        if not all(bool(torch.isfinite(total)) for total in totals):
            guilty.append(int(row.ids[0]))
    named = ", ".join(map(str, guilty[:_NAMED])) + (", ..." if len(guilty) > _NAMED else "")
    which = f"of the samples {named}" if 0 < len(guilty) < count else f"of {'all' if guilty else 'none'} of its samples"
    return (
        f"the loss is not finite at step {step}, nor was its gradient in the {_PATIENCE - 1} steps before, which were "
        f"skipped; alone, that {which} is not: mend the data, {_REMEDY}; {_KEPT}"
    )


def _agree(seconds: float, wish: bool, world: World, device: torch.device) -> tuple[float, bool]:
    """The longest clock and whether anyone wants to stop: every worker leaves at the same step, at the same rate."""
    if world.size == 1:
        return seconds, wish
    both = torch.tensor([seconds, float(wish)], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX)
    return float(both[0]), bool(both[1])
