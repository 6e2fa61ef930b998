"""A look at every checkpoint while training goes on: a grid of samples and a figure, made by an actor of its own.

The driver, which has nothing to do meanwhile, watches the run's folder; whenever there is a newer whole checkpoint, and
the last look is over, it asks the observer for one. The observer changes no bit of the training: it reads checkpoints,
which are never changed, and writes pictures and lines of its own. It reserves nothing of Ray, so it is placed wherever
there is room and shares a core where there is none; if it dies, the look is lost and the next one is not.

    samples/STEP.png        the grid, as training draws it where there is no observer
    observations.jsonl      {"step": ..., "fd_lenet_512": ..., "seconds": ...}, a line for each look
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import ray
import torch
from gensys.pipelines.pool import BLOCK
from gensys.pipelines.real import judge_of, real_source
from gensys.pipelines.session import stand_in
from ray.exceptions import RayActorError, RayTaskError

from gensys.core import Generative, is_codec
from gensys.data.quarantine import readable
from gensys.engine.checkpoint import load_weights, newest
from gensys.errors import CheckpointError, RunError
from gensys.evaluate.classifier import features
from gensys.evaluate.frechet import Moments, frechet
from gensys.noise import Noise
from gensys.preview import conditions, draw
from gensys.run import Run
from gensys.run_folder import RunFolder

__all__ = ["OBSERVATIONS", "Observer"]

OBSERVATIONS = "observations.jsonl"
_SAMPLES = 512  # that a figure is of: enough to see a run improve, few enough for a core to draw between checkpoints
_FIRST_ID = 1 << 49  # far from the ids that anyone samples, and from those of the grids


class _Looker:
    """Runs in an actor."""

    def __init__(self, directory: str) -> None:
        torch.set_num_threads(1)  # the other cores train
        stand_in(directory)
        self._reference: Moments | None = None

    @torch.no_grad()
    def look(self, path: str, seen: int) -> dict[str, Any] | None:
        """Draw the grid of the newest checkpoint and measure it; None if it is no newer than `seen`."""
        begun, folder = time.perf_counter(), RunFolder(Path(path))
        spec = folder.spec()
        run = spec.load()
        model = spec.model(run)
        step = self._load(model, folder.path / "checkpoints")
        if step <= seen:
            return None
        draw(model, run, folder.path / "samples" / f"{step:08d}.png")
        found: dict[str, Any] = {"step": step}
        try:
            found |= self._measure(model, run, folder)
        except RunError as error:  # no classifier for data like these
            found["not_measured"] = str(error)
        return found | {"seconds": round(time.perf_counter() - begun, 3)}

    def _load(self, model: Generative, checkpoints: Path) -> int:
        """The averaged weights of the newest checkpoint, which may be removed, for a newer one, while it is read."""
        for last in (False, False, True):
            at = newest(checkpoints)
            if at is None:
                return -1
            try:
                load_weights(model, at / "average.safetensors")
            except CheckpointError:
                if last:
                    raise
            else:
                model.requires_grad_(False).eval()
                return int(at.name)
        return -1

    def _measure(self, model: Generative, run: Run, folder: RunFolder) -> dict[str, float]:
        """The Frechet distance of a few samples; {} for a codec and for data that are no labelled images."""
        source, _ = real_source(folder)
        if is_codec(model) or not source.classes or len(source.shape) != 3:
            return {}
        judged = judge_of(source, folder.path / "judge").classifier
        if self._reference is None:
            rows = readable(source)[1][:_SAMPLES]
            self._reference = Moments.of(features(judged, source.batch(rows, Noise(0, rows)).x))
        drawn = []
        for ids in (_FIRST_ID + torch.arange(_SAMPLES)).split(BLOCK):
            cond = conditions(run.source, ids - _FIRST_ID)
            drawn.append(features(judged, model.sample(cond, Noise(run.settings.seed, ids)).clamp(-1.0, 1.0)))
        return {f"fd_lenet_{_SAMPLES}": frechet(Moments.of(torch.cat(drawn)), self._reference)}


class Observer:
    """The driver's side. `watch` is called now and then; `close` waits for the look at the last checkpoint.

    failures: looks that were lost, in words.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failures: list[str] = []
        self._actor: Any = None
        self._looking: Any = None
        self._seen = -1

    def watch(self) -> None:
        """Take what the observer has found, and ask for the next look if there is a newer checkpoint."""
        if self._looking is not None:
            arrived, _ = ray.wait([self._looking], timeout=0)
            if not arrived:
                return
            self._take()
        named = [int(marker.parent.name) for marker in (self.folder / "checkpoints").glob("[0-9]*/COMMITTED")]
        if max(named, default=-1) <= self._seen:
            return
        if self._actor is None:
            self._actor = ray.remote(num_cpus=0, max_restarts=-1)(_Looker).remote(os.getcwd())
        before, self._seen = self._seen, max(named)
        self._looking = self._actor.look.remote(str(self.folder), before)

    def close(self) -> None:
        """Look at the last checkpoint, and end the actor."""
        while True:
            self.watch()
            if self._looking is None:
                break
            ray.wait([self._looking])
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    def _take(self) -> None:
        try:
            found: dict[str, Any] | None = ray.get(self._looking)
            if found is not None:
                self._seen = max(self._seen, found["step"])
                with open(self.folder / OBSERVATIONS, "a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")
        except (RayActorError, RayTaskError) as error:  # the actor may be killed: that does not end the training
            cause = getattr(error, "cause", None) or error
            self.failures.append(f"step {self._seen} was not looked at: {cause}".splitlines()[0])
        finally:
            self._looking = None
