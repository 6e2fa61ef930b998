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
from gensys.engine.checkpoint import (
    Saver,
    State,
    checkpoint_tensors,
    load_optimizer,
    load_weights,
    newest,
    read_state,
)
from gensys.engine.log import Log
from gensys.engine.optim import adamw, rate
from gensys.engine.parallel import World, broadcast_weights
from gensys.engine.precision import autocast
from gensys.engine.recompute import recompute_blocks
from gensys.engine.settings import Budget, Settings
from gensys.engine.step import Turns, moved, part
from gensys.errors import TrainingError
from gensys.noise import Noise

__all__ = ["Budget", "Progress", "Settings", "train"]

_PATIENCE = 5  # refused steps, one after the other: more than a few unlucky rows explain
_NAMED = 8  # sample ids in a message


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
    score: Callable[[Generative], float] | None = None,
    watch: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> State:
    """Train until the budget is spent or `stop` says so; resumes from the newest whole checkpoint in `folder`.

    batch(step): this worker's part of the global batch. preview(average, step): draws a grid with the averaged weights.
    score(average): how good they are, lower = better, asked on worker 0 whenever a checkpoint is due, while the others
    wait; it is logged as `val_loss`, kept in the checkpoint, and the best checkpoint stays on the disk.

    A checkpoint is copied at the end of a step and written in the background. One that falls due while the last is
    still being written is put off until that is done, but for save_every = 0, which waits and saves at every step. The
    last one of a run is waited for.

    All randomness is counter-based, so step k is the same whether or not the run was interrupted before it. A step that
    the guard refuses (gensys/engine/guard.py) changes no weight; the log counts such steps as `skipped`.

    Raises: TrainingError, which names the samples, when every step is refused, or when a weight is not finite; what
    went wrong as a checkpoint was written, at the next step.
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
    if settings.recompute:
        recompute_blocks(model)
    turns = Turns(model, optimizers, settings, state.norms, world, device)

    log = Log(folder, state.step) if chief else None
    clock = time.perf_counter() - state.seconds
    saved_at, pictured = state.seconds, settings.budget.progress(state)
    begun = logged = state.step
    terms: dict[str, Tensor] = {}
    lr, bad = 0.0, 0  # bad: steps skipped just now, one after the other
    try:
        with Saver(folder / "checkpoints", settings.keep) as saver:
            if chief and preview and state.step == 0:
                preview(average, 0)
            while not state.finished:
                saver.check()
                seconds, wish = _agree(time.perf_counter() - clock, stop is not None and stop(), world, device)
                state = replace(state, seconds=seconds)
                fraction = settings.budget.progress(state)
                state = replace(state, finished=fraction >= 1.0)
                leaving = state.finished or wish
                due = seconds - saved_at >= settings.save_every and not (saver.busy and settings.save_every)
                saving = leaving or due

                clocks = {"images": state.images, "seconds": round(seconds, 3)}
                every = state.step % settings.log_every == 0 or state.step == 1 or state.finished
                if log and every and state.step > logged:
                    logged = state.step
                    values = _numbers(terms, state, bad)
                    log.write(state.step, {**values, "lr": lr, **clocks})
                    if watch:
                        watch(Progress(state, fraction, values.get("loss", float("nan"))))
                if log and saving:
                    saved_at = seconds
                    _require_finite(model, state.step)
                    state = replace(state, score=_finite(score(average) if score else None), norms=turns.guard.norms())
                    if state.score is not None and state.step > begun:
                        log.write(state.step, {"val_loss": state.score, **clocks})
                    saver.save(checkpoint_tensors(model, average, optimizers), state)
                if chief and preview and (state.finished or fraction >= pictured + 1 / settings.previews):
                    pictured = fraction
                    preview(average, state.step)  # after saving: a picture that fails must not cost the weights
                if leaving:
                    break

                lr = rate(settings.optim, state.step, fraction)
                rows = moved(batch(state.step), device)
                terms, sound = turns.step(rows, state, lr)
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


def _finite(value: float | None) -> float | None:
    """A score as a checkpoint keeps it: one that is not a number is none, and never the best."""
    return float(value) if value is not None and math.isfinite(value) else None


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
    """The message of a run that gives up: which samples of its last batch have a loss that is not finite by itself, or
    if there is none, the largest loss."""
    count = rows.ids.shape[0]
    model.eval()  # one row has no statistics of its own for a batch normalisation
    losses: list[tuple[float, int]] = []
    for k in range(count):
        row = part(rows, k, count)
        with autocast(settings.precision, device):
            totals = [float(model.loss(row, Noise(settings.seed, row.ids, step), player).total.detach())
                      for player in dict.fromkeys(model.players)]  # fmt: skip
        losses.append((max(totals) if all(map(math.isfinite, totals)) else math.inf, int(row.ids[0])))
    guilty = [i for loss, i in losses if loss == math.inf]
    before = f"the {_PATIENCE - 1} steps before, which were skipped"
    if guilty or not settings.spike:
        named = ", ".join(map(str, guilty[:_NAMED])) + (", ..." if len(guilty) > _NAMED else "")
        which = (
            f"the samples {named}"
            if 0 < len(guilty) < count
            else "all of its samples"
            if guilty
            else "none of its samples"
        )
        return (
            f"the loss is not finite at step {step}, nor was its gradient in {before}; alone, that of {which} is not: "
            f"mend the data, {_REMEDY}; {_KEPT}"
        )
    largest = ", ".join(f"{i} ({loss:.4g})" for loss, i in sorted(losses, reverse=True)[:_NAMED])
    return (
        f"the gradient at step {step} is more than {settings.spike:g} times as large as usual, or not finite, as in "
        f"{before}; alone, the samples of the largest loss are {largest}: look at them, {_REMEDY}, or raise 'spike'; "
        f"{_KEPT}"
    )


def _agree(seconds: float, wish: bool, world: World, device: torch.device) -> tuple[float, bool]:
    """The longest clock and whether anyone wants to stop: every worker leaves at the same step, at the same rate."""
    if world.size == 1:
        return seconds, wish
    both = torch.tensor([seconds, float(wish)], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX)
    return float(both[0]), bool(both[1])
