"""What a network call buys: samples of a run with several numbers of steps, drawn and scored.

They are kept in nfe/ of the run's folder, STEPS.zarr and STEPS.evaluation.json, and made anew once the run has other
weights, or its sampler other knobs.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from gensys.pipelines.evaluate import evaluate
from gensys.pipelines.real import real_source
from gensys.pipelines.sample import sample

from gensys.core import Generative
from gensys.data.store import Store
from gensys.engine.precision import autocast
from gensys.errors import ConfigError, StoreError
from gensys.noise import Noise
from gensys.preview import conditions
from gensys.progress import Screen
from gensys.report.tradeoff import FOLDER
from gensys.run import Knob, Run
from gensys.run_folder import RunFolder

__all__ = ["SAMPLES", "add_tradeoff"]

SAMPLES = 500
_TIMED = 16  # samples that are drawn to see how long one takes


def add_tradeoff(folder: RunFolder, steps: Sequence[int], *, screen: Screen, workers: int = 0) -> None:
    """Draw and score 500 samples with each of these numbers of steps and the run's other knobs; says first what it
    costs. What is there already is kept.

    Raises: ConfigError for a model that has no steps to choose, or a number that is none.
    """
    if not steps or min(steps) < 1:
        raise ConfigError(f"'nfe' is a list of numbers of steps, such as 2,5,10, got {list(steps)}")
    spec = folder.spec()
    run = spec.load()
    if "steps" not in run.retune:
        raise ConfigError(f"'nfe': a run of {spec.recipe!r} has no steps that may be chosen after training")
    weights, place = folder.weights_digest(), folder.path / FOLDER
    missing = [k for k in sorted(set(steps)) if not _there(place, k, weights, {**spec.knobs, "steps": k})]
    if not missing:
        return
    if len((source := real_source(folder)[0]).shape) == 1:
        raise ConfigError(f"'nfe' shows the Frechet distance of images, and {source.name!r} holds none: leave it out")
    calls = {k: folder.retuned({"steps": str(k)}).model().evaluations for k in missing}
    each, total = _seconds(folder.model(), run), SAMPLES * sum(calls.values())
    screen.line(
        f"{SAMPLES} samples each with so many steps (network calls a sample): "
        f"{', '.join(f'{k} ({calls[k]})' for k in missing)}; {total:,} calls, about {total * each:,.0f} s, and the "
        f"scoring of each"
    )
    for k in missing:
        out, overrides = place / f"{k}.zarr", {"steps": str(k)}
        if not _same(out, weights, {**spec.knobs, "steps": k}):
            shutil.rmtree(out, ignore_errors=True)
        sample(
            folder,
            out,
            ids=range(SAMPLES),
            seed=0,
            label=None,
            overrides=overrides,
            shard=None,
            workers=workers,
            screen=screen,
        )
        evaluate(out, screen=screen)


def _seconds(model: Generative, run: Run) -> float:
    """That a network call takes for a sample."""
    ids, seconds = torch.arange(_TIMED), 0.0
    for _ in range(2):  # the first call prepares what all others use
        begun = time.perf_counter()
        with autocast(run.settings.precision, torch.device("cpu")):
            model.sample(conditions(run.source, ids), Noise(0, ids))
        seconds = time.perf_counter() - begun
    return seconds / (_TIMED * max(1, model.evaluations))


def _same(out: Path, weights: str, knobs: Mapping[str, Knob]) -> bool:
    """Whether the store is there and of these weights and knobs, finished or not."""
    try:
        about = Store.open(out).attributes
    except StoreError:  # none, or a damaged one: it is made anew
        return False
    return about["weights"] == weights and about["knobs"] == dict(knobs)


def _there(place: Path, steps: int, weights: str, knobs: Mapping[str, Knob]) -> bool:
    """Whether samples and scores are there: scores are written last, after the samples were sealed."""
    out, scores = place / f"{steps}.zarr", place / f"{steps}.evaluation.json"
    return _same(out, weights, knobs) and scores.exists() and scores.stat().st_mtime >= out.stat().st_mtime
