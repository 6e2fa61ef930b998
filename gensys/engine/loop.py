"""The training loop: what happens, in the order in which it happens.

The loop does not know what it trains. It asks for batches by step number, walks the model's players, and keeps
weights, average, optimizers and log in a run folder from which it goes on, bit for bit, wherever it was stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gensys.core import Batch, Generative
from gensys.engine import ema
from gensys.engine.checkpoint import (
    Saver,
    State,
    checkpoint_tensors,
    load_optimizer,
    load_weights,
    newest,
    profile_file,
    read_state,
    whole_tensors,
)
from gensys.engine.log import Log
from gensys.engine.memory import peak_bytes
from gensys.engine.optim import adamw, rate
from gensys.engine.parallel import World, broadcast_weights
from gensys.engine.posthoc import drop_after, save_snapshot
from gensys.engine.precision import autocast, resolve
from gensys.engine.recompute import recompute_blocks
from gensys.engine.settings import Budget, Settings
from gensys.engine.step import Turns, moved, part, rounds
from gensys.errors import ConfigError, TrainingError
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
    preview: Callable[[Generative, int], Tensor | None] | None = None,
    score: Callable[[Generative], float] | None = None,
    watch: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    shard: bool = False,
) -> State:
    """Train until the budget is spent or `stop` says so; resumes from the newest whole checkpoint in `folder`.

    batch(k): this worker's part of the global batch k, of which a step takes `rounds`: one, or in a game several.
    preview(average, step): draws a grid with the averaged weights, and returns it for the log, uint8 (C, H, W), or None
    for data that cannot be shown. score(average): how good they are, lower = better,
    asked on worker 0 whenever a checkpoint is due, while the others wait; it is logged as `val_loss`, kept in the
    checkpoint, and the best checkpoint stays on the disk.

    A checkpoint is copied at the end of a step and written in the background. One that falls due while the last is
    still being written is put off until that is done, but for save_every = 0, which waits and saves at every step. The
    last one of a run is waited for.

    shard: weights, average and optimizers are shared out among the workers, see gensys/engine/sharding.py; the
    checkpoints are the same, so a run may go on either way.

    All randomness is counter-based, so step k is the same whether or not the run was interrupted before it. A step that
    the guard refuses (gensys/engine/guard.py) changes no weight; the log counts such steps as `skipped`.

    Raises: TrainingError, which names the samples, when every step is refused, or when a weight is not finite; what
    went wrong as a checkpoint was written, at the next step.
    """
    if shard and settings.parts:
        raise ConfigError(
            f"sharded weights cannot be trained in parts ({settings.parts}): their gradients are added in an order "
            f"that depends on the number of workers; choose one of --exact and --shard-weights"
        )
    model.to(device)
    average = ema.shadow(model)
    profiles = {width: ema.shadow(model) for width in settings.profiles} if settings.snapshots else {}
    averages = [(average, ema.exponent(settings.ema)), *((p, ema.exponent(width)) for width, p in profiles.items())]
    chief = world.rank == 0

    state = State()
    if (found := newest(folder / "checkpoints")) is not None:
        load_weights(model, found / "model.safetensors")
        load_weights(average, found / "average.safetensors")
        for width, profile in profiles.items():
            load_weights(profile, found / profile_file(width))
        state = read_state(found)
    broadcast_weights(model, world)
    if settings.recompute:
        recompute_blocks(model)
    shown = average  # what is drawn and scored, by the chief: whole
    if shard:
        from gensys.engine.sharding import shard_weights

        shown = ema.shadow(average) if chief else average
        for copy, _ in averages:
            broadcast_weights(copy, world)
        for copy in (model, *(copy for copy, _ in averages)):
            shard_weights(copy, world, device, bf16=resolve(settings.precision) == "bf16")
    optimizers = {name: adamw(model.parameters_of(name), settings.optim) for name in dict.fromkeys(model.players)}
    if found is not None:
        load_optimizer(optimizers, found)
    turns, count = Turns(model, optimizers, settings, state.norms, world, device), rounds(model.players)

    log = Log(folder, state.step) if chief else None
    kept = int(settings.budget.progress(state) * settings.snapshots)
    if chief and profiles:
        drop_after(folder / "snapshots", state.step)
    clock = settings.budget.clock() - state.seconds
    saved_at, pictured = state.seconds, settings.budget.progress(state)
    begun = logged = state.step
    terms: dict[str, Tensor] = {}
    lr, bad = 0.0, 0  # bad: steps skipped just now, one after the other
    try:
        with Saver(folder / "checkpoints", settings.keep) as saver:
            if log and preview and state.step == 0:
                _show(log, preview(shown, 0), 0)
            while not state.finished:
                saver.check()
                wishes = stop is not None and stop(), saver.busy
                seconds, wish, busy = _agree(settings.budget.clock() - clock, *wishes, world, device)
                state = replace(state, seconds=seconds)
                fraction = settings.budget.progress(state)
                state = replace(state, finished=fraction >= 1.0)
                leaving = state.finished or wish
                due = seconds - saved_at >= settings.save_every and not (busy and settings.save_every)
                saving = leaving or due
                picturing = state.finished or fraction >= pictured + 1 / settings.previews
                if shard and (saving or picturing):
                    weights = whole_tensors(average.state_dict(), keep=chief)
                    if chief:
                        shown.load_state_dict(weights)

                clocks = {"images": state.images, "seconds": round(seconds, 3)}
                clocks |= {"workers": world.size, "restarts": world.restarts, "peak_bytes": peak_bytes()}
                every = state.step % settings.log_every == 0 or state.step == 1 or state.finished
                if log and every and state.step > logged:
                    logged = state.step
                    values = _numbers(terms, state, bad)
                    log.write(state.step, {**values, "lr": lr, **clocks})
                    if watch:
                        shown_loss = values.get("loss", values.get(f"{model.players[-1]}/loss", math.nan))
                        watch(Progress(state, fraction, shown_loss))
                if int(fraction * settings.snapshots) > kept:  # before saving: a run never goes on beyond a lost one
                    kept = int(fraction * settings.snapshots)
                    weights = {width: whole_tensors(p.state_dict(), keep=chief) for width, p in profiles.items()}
                    if chief:
                        save_snapshot(folder / "snapshots", state.step, weights)
                if saving:
                    saved_at = seconds
                    tensors = checkpoint_tensors(model, average, optimizers, keep=chief, profiles=profiles)
                    _require_finite(tensors["model.safetensors"], state.step)
                    if log:
                        value = _finite(score(shown) if score else None)
                        state = replace(state, score=value, norms=turns.guard.norms())
                        if value is not None and state.step > begun:
                            log.write(state.step, {"val_loss": value, **clocks})
                        saver.save(tensors, state)
                if picturing:
                    pictured = fraction
                if picturing and log and preview:  # after saving: a picture that fails must not cost the weights
                    _show(log, preview(shown, state.step), state.step)
                if leaving:
                    break

                lr = rate(settings.optim, state.step, fraction)
                batches = [moved(batch(state.step * count + k), device) for k in range(count)]
                terms, sound = turns.step(batches, state, lr)
                bad = 0 if sound else bad + 1
                if bad == _PATIENCE:
                    passes = -(-settings.batch // world.size) if shard else 0
                    raise TrainingError(_accusation(model, batches, passes, settings, state.step, device))
                skipped = state.skipped + (not sound)
                seen = state.images + settings.batch * count
                state = replace(state, step=state.step + 1, images=seen, skipped=skipped)
                for copy, gamma in averages:
                    ema.update(copy, model, state.step, gamma)
    finally:
        if log:
            log.close()
    return state


def _show(log: Log, picture: Tensor | None, step: int) -> None:
    if picture is not None:
        log.picture(step, picture)


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


def _require_finite(weights: Mapping[str, Tensor], step: int) -> None:
    """No checkpoint may hold weights that are not numbers: a run could never go on from it."""
    for name, value in weights.items():
        if not bool(torch.isfinite(value).all()):
            raise TrainingError(f"the weights {name!r} are not finite at step {step}: {_REMEDY}; {_KEPT}")


_REMEDY = "lower 'lr', or train with precision=fp32"
_KEPT = "the checkpoints before this step are kept"


def _accusation(
    model: Generative, batches: Sequence[Batch], passes: int, settings: Settings, step: int, device: torch.device
) -> str:
    """The message of a run that gives up: which samples of its last step have a loss that is not finite by itself, or
    if there is none, the largest loss. passes: forward passes a batch, as many on all workers if sharded; 0 = as many
    as it has rows."""
    model.eval()  # one row has no statistics of its own for a batch normalisation
    losses: list[tuple[float, int]] = []
    for number, rows in enumerate(batches, step * len(batches)):
        count = rows.ids.shape[0]
        found: list[tuple[float, int]] = []
        for k in range(passes or count):
            row = part(rows, min(k, count - 1), count)
            with autocast(settings.precision, device):
                totals = [float(model.loss(row, Noise(settings.seed, row.ids, number), player).total.detach())
                          for player in dict.fromkeys(model.players)]  # fmt: skip
            found.append((max(totals) if all(map(math.isfinite, totals)) else math.inf, int(row.ids[0])))
        losses += found[:count]
    count = len(losses)
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


def _agree(seconds: float, wish: bool, busy: bool, world: World, device: torch.device) -> tuple[float, bool, bool]:
    """The longest clock, whether anyone wants to stop, and whether anyone still saves: every worker leaves, and gives
    what it has to a checkpoint, at the same step."""
    if world.size == 1:
        return seconds, wish, busy
    all_three = torch.tensor([seconds, float(wish), float(busy)], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(all_three, torch.distributed.ReduceOp.MAX)
    return float(all_three[0]), bool(all_three[1]), bool(all_three[2])
