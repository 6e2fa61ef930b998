"""The main job, from one command: `gensys demo`.

train a codec -> encode the data into a latent store -> train a flow on the latents -> sample -> evaluate -> report

Nothing here is special to the demo but the division of time: every stage is the function that the verb of that name
calls. Ray, its actors and its training workers start in the background while the codec trains in this process.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gensys.pipelines.crew import Workers
from gensys.pipelines.encode import encode
from gensys.pipelines.evaluate import evaluate
from gensys.pipelines.gallery import add_map, add_neighbours
from gensys.pipelines.pool import Pool
from gensys.pipelines.sample import sample
from gensys.pipelines.session import Session
from gensys.pipelines.train import train

from gensys.data.sources import open_source, split
from gensys.data.store import Store
from gensys.errors import ConfigError
from gensys.progress import Screen
from gensys.run import resolve
from gensys.run_folder import RunFolder

__all__ = ["demo"]

_OVERHEAD = 40.0  # seconds that are not training: encoding, sampling, evaluation, report (two cores)
_CODEC_SHARE = 0.15  # of the training time: its reconstructions are as good as the metrics can see well before
_LEAST = 4.0  # seconds of training, however small the budget


@dataclass
class _Stages:
    """How long each stage took, for the report."""

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str, detail: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.rows.append({"stage": name, "seconds": round(time.perf_counter() - begun, 2), "detail": detail})
        (self.folder / "stages.json").write_text(json.dumps(self.rows, indent=2) + "\n")


def demo(folder: Path, *, data: str, budget: float, workers: int, samples: int, screen: Screen) -> dict[str, Any]:
    """Run the main job within `budget` seconds in all. Stages that are finished already are not done again.

    Returns {"seconds", "metrics", "report", "grid", "stages"}.
    """
    from gensys.report import add_trajectory, write_report

    if budget <= 0 or samples < 1 or workers < 1:
        raise ConfigError(f"'budget', 'samples' and 'workers' must be positive, got {budget}, {samples}, {workers}")
    begun = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    source = open_source(data)
    training, held_out = split(source)
    screen.line(f"data: {source.about}")
    screen.line(f"{len(training):,} to train on, {len(held_out):,} held out; the run is in {folder}")

    time_to_train = max(budget - _OVERHEAD, 2 * _LEAST)
    codec_seconds = max(_LEAST, _CODEC_SHARE * time_to_train)
    codec, flow = RunFolder(folder / "codec"), RunFolder(folder)
    latents, drawn = folder / "latents.zarr", folder / "samples.zarr"
    stages = _Stages(folder)
    with Session(workers) as session:
        crew = Workers(workers, flow, session)
        pool = Pool(workers, session, cpus=0)  # the pool rests while the crew trains, and the crew is gone after
        try:
            with stages.stage("train codec", "KL autoencoder, in this process while Ray starts"):
                spec = resolve("kl_autoencoder", {"data": data, "budget": f"{codec_seconds:.0f}s"})
                # one thread: the other cores are busy starting Ray, and a second thread that has to wait for one of
                # them at the end of every loop makes this process slower, not faster
                train(codec, spec, workers=0, fresh=False, screen=screen, threads=1)
            with stages.stage("encode", f"{len(source):,} images, {workers} Ray actors"):
                encode(codec, latents, data=None, shard=None, workers=workers, screen=screen, pool=pool)
            with stages.stage("train flow", f"DiT on latents, {workers} Ray Train workers"):
                left = max(_LEAST, budget - _OVERHEAD - (time.perf_counter() - begun))
                spec = resolve("latent_dit", {"data": str(latents.resolve()), "budget": f"{left:.0f}s"})
                train(flow, spec, workers=workers, fresh=False, screen=screen, crew=crew)
            with stages.stage("sample", f"{samples:,} samples, {workers} Ray actors"):
                sample(
                    flow,
                    drawn,
                    ids=range(samples),
                    seed=0,
                    label=None,
                    overrides={},
                    shard=None,
                    workers=workers,
                    screen=screen,
                    pool=pool,
                )
        finally:
            crew.close()
            pool.close()
    with stages.stage("evaluate", "classifier, distances, reconstruction"):
        scores = evaluate(folder, screen=screen)
    with stages.stage("report", "pictures and report.html"):
        add_trajectory(folder)
        add_neighbours(folder, screen)
        add_map(folder, screen)
        report = write_report(folder)
    seconds = time.perf_counter() - begun
    return {
        "seconds": round(seconds, 1),
        "samples": len(Store.open(drawn)),
        "metrics": scores["metrics"],
        "report": str(report.resolve()),
        "grid": str(drawn.with_suffix(".png").resolve()),
        "stages": stages.rows,
    }
