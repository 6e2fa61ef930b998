"""What every process that trains does, alone or as one of Ray Train's workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from gensys.pipelines.pool import BLOCK, device
from ray.exceptions import RayTaskError
from torch import Tensor

from gensys.core import Batch, Generative
from gensys.data.joined import Joined, visits
from gensys.data.prefetch import prefetch
from gensys.data.quarantine import without
from gensys.data.sources import split
from gensys.engine.checkpoint import State
from gensys.engine.loop import Progress
from gensys.engine.loop import train as fit
from gensys.engine.parallel import World
from gensys.engine.validation import validation_loss
from gensys.noise import Noise
from gensys.preview import draw
from gensys.run import Run, Spec
from gensys.run_folder import RunFolder

__all__ = ["ORDERS", "POLL", "batches", "said", "work"]

ORDERS = ("job.json", "STOP", "PAUSE", "PAUSED", "crew.json")  # how driver, foreman and workers talk
_HELD_OUT = 512  # rows that a checkpoint is judged on: about four steps of work, as often as one is saved
POLL = 0.25  # seconds between looks at a file


def batches(run: Run, world: World) -> Callable[[int], Batch]:
    """step -> this worker's share of the global batch: a function of (seed, step) and the worker's place."""
    settings = run.settings
    at = visits(run.source, run.rows, settings.seed, settings.batch)

    def batch(step: int) -> Batch:
        rows = world.share(at(step), settings.parts)
        return run.source.batch(rows, Noise(settings.seed, rows, step))

    return batch


def _score(run: Run, model: Generative) -> Callable[[Generative], float] | None:
    """How good averaged weights are: their loss on rows that are held out, evenly spaced, the same for every run.

    None for a game, whose losses say nothing of the kind, and where no row is held out.
    """
    rows = split(run.source)[1]
    rows = rows[~torch.isin(rows, run.rows)]
    rows = rows[:: max(1, len(rows) // _HELD_OUT)][:_HELD_OUT]
    if not len(rows) or len(set(model.players)) > 1:
        return None

    def score(average: Generative) -> float:
        groups = run.source.groups(rows) if isinstance(run.source, Joined) else [rows]
        blocks = (run.source.batch(block, Noise(0, block)) for group in groups for block in group.split(BLOCK))
        return validation_loss(average, blocks, run.settings.precision, device())

    return score


def work(
    folder: RunFolder,
    spec: Spec,
    world: World,
    watch: Callable[[Progress], None] | None,
    stop: Callable[[], bool],
    shard: bool = False,
    previews: bool = True,
) -> State:
    """Train until the budget is spent or `stop` says so.

    shard: see gensys/engine/sharding.py. previews: draw grids of samples on the way; else somebody else does.
    """
    run = spec.load()
    run = replace(run, rows=without(run.rows, folder.quarantined()))
    torch.manual_seed(run.settings.seed)  # the initial weights
    model = spec.model(run)

    def preview(average: Generative, step: int) -> Tensor | None:
        return draw(average, run, folder.path / "samples" / f"{step:08d}.png")

    return fit(
        model,
        prefetch(batches(run, world)),
        run.settings,
        folder.path,
        world=world,
        device=device(),
        preview=preview if previews else None,
        score=_score(run, model),
        watch=watch,
        stop=stop,
        shard=shard,
    )


def said(error: BaseException) -> str:
    """A failure in one line."""
    lines = str(error).strip().splitlines() or ["no text"]
    text = lines[-1 if isinstance(error, RayTaskError) else 0]  # of a task it is a traceback, whose last line says it
    return f"{type(error).__name__}: {text}"
