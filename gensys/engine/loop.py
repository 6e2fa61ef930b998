"""The training loop: what happens, in the order in which it happens.

The loop does not know what it trains. It asks for batches by step number, walks the model's players, and keeps
weights, average, optimizers and log in a run folder from which it goes on, bit for bit, wherever it was stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from gensys.core import Batch, Generative
from gensys.engine import ema
from gensys.engine.checkpoint import State, load_optimizer, load_weights, newest, read_state, save_checkpoint
from gensys.engine.log import Log
from gensys.engine.optim import Optim, adamw, rate
from gensys.engine.parallel import World, average_gradients, broadcast_weights
from gensys.engine.precision import Precision, autocast
from gensys.errors import ConfigError, TrainingError
from gensys.noise import Noise

__all__ = ["Budget", "Progress", "Settings", "train"]


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
    """How to train, whatever is trained. batch: rows a step, over all workers. ema: relative width of the average."""

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

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"'batch' must be at least 1, got {self.batch}")
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
    All randomness is counter-based, so step k is the same whether or not the run was interrupted before it.

    Raises: TrainingError when the loss is no longer finite.
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
    lr = 0.0
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
                values = _finite(terms, state.step)
                log.write(state.step, {**values, "lr": lr, "images": state.images, "seconds": round(seconds, 3)})
                if watch:
                    watch(Progress(state, fraction, values.get("loss", float("nan"))))
            if chief and (leaving or seconds - saved_at >= settings.save_every):
                saved_at = seconds
                _finite(terms, state.step)  # whether or not the log looked at this step
                save_checkpoint(folder / "checkpoints", model, average, optimizers, state, settings.keep)
            if chief and preview and (state.finished or fraction >= pictured + 1 / settings.previews):
                pictured = fraction
                preview(average, state.step)  # after saving: a picture that fails must not cost the weights
            if leaving:
                break

            lr = rate(settings.optim, state.step, fraction)
            terms = _step(model, optimizers, _moved(batch(state.step), device), settings, state, lr, world, device)
            state = replace(state, step=state.step + 1, images=state.images + settings.batch)
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
) -> dict[str, Tensor]:
    """Every player's turn on one batch; returns the terms of the log, still on the device."""
    torch.manual_seed((settings.seed << 20) + state.step)  # for layers that draw from torch's own generator (dropout)
    noise = Noise(settings.seed, rows.ids, state.step)
    terms: dict[str, Tensor] = {}
    for player in model.players:
        optimizer, parameters = optimizers[player], model.parameters_of(player)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        with autocast(settings.precision, device):
            loss = model.loss(rows, noise, player)
        loss.total.backward()
        average_gradients(parameters, world)
        norm = nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimizer.step()
        prefix = f"{player}/" if len(optimizers) > 1 else ""
        terms |= {prefix + name: value for name, value in {**loss.terms, "grad_norm": norm}.items()}
    return terms


def _moved(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.x.to(device), {k: v.to(device) for k, v in batch.cond.items()}, batch.ids.to(device))


def _finite(terms: Mapping[str, Tensor], step: int) -> dict[str, float]:
    """The terms as numbers. Raises TrainingError unless all of them, the gradient's norm included, are finite."""
    values = {name: float(value) for name, value in terms.items()}
    if not all(math.isfinite(value) for value in values.values()):
        raise TrainingError(
            f"the loss is not finite at step {step} ({values}): lower 'lr', or train with precision=fp32; the "
            f"checkpoints before this step are kept"
        )
    return values


def _agree(seconds: float, wish: bool, world: World, device: torch.device) -> tuple[float, bool]:
    """The longest clock and whether anyone wants to stop: every worker leaves at the same step, at the same rate."""
    if world.size == 1:
        return seconds, wish
    both = torch.tensor([seconds, float(wish)], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX)
    return float(both[0]), bool(both[1])
