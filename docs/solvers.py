"""Write docs/solvers.md and docs/solvers.png from trained runs: every solver at every number of network calls.

    python docs/solvers.py measure FILE.json "flow matching=runs/flow" "diffusion=runs/ddpm" [--samples 1000]
    python docs/solvers.py write FILE.json [MORE.json ...]

`measure` draws the same sample ids with each solver and scores them as `gensys evaluate` does; it keeps what it has in
FILE.json after every row, and goes on from there. `write` makes the page. Nothing in the page is typed by hand.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import click
import torch
from gensys.pipelines.evaluate import _Real, judge_of, real_source

from gensys.evaluate.frechet import Moments, frechet_distance
from gensys.families.diffusion import Diffusion
from gensys.families.latent import Latent
from gensys.knobs import SOLVERS
from gensys.noise import Noise
from gensys.pictures import to_uint8
from gensys.preview import labels_for
from gensys.run_folder import RunFolder

HERE = Path(__file__).parent
CALLS = (4, 8, 15, 20, 40, 50, 100)
LONG = {"ancestral": (250, 1000)}  # what the solver is known for
COST = {"heun": 2, "churn": 2, "rk4": 4, "predictor_corrector": 2}  # network calls of a step
LEFT_OUT = {"multistep_consistency"}  # for models of its own
BLOCK = 250  # samples that are drawn at once


def path_model(model: Any) -> Diffusion:
    prior = model.prior if isinstance(model, Latent) else model
    if not isinstance(prior, Diffusion):
        raise click.ClickException(f"a path model is wanted, got {type(prior).__name__}")
    return prior


def calls_of(model: Diffusion, cond: dict[str, torch.Tensor], noise: Noise) -> float:
    """Network calls of a sample, guidance not counted."""
    if model.table is not None:
        return len(model.table.calls)
    return float(len(model.trajectory(cond, noise)))


class Scale:
    """The Frechet distance of samples of a run, as `gensys evaluate` takes it."""

    def __init__(self, folder: RunFolder, samples: int) -> None:
        source, _ = real_source(folder)
        self.judged = judge_of(source, folder.path / "judge")
        real = _Real.choose(source, samples)
        self.reference = self._moments(source.batch(real.reference, Noise(0, real.reference)).x)
        other = None if real.floor is None else source.batch(real.floor, Noise(0, real.floor)).x
        self.floor = None if other is None else frechet_distance(self._moments(other), self.reference)

    def _moments(self, x: torch.Tensor) -> Moments:
        with torch.no_grad():
            return Moments.of(torch.cat([self.judged.classifier.features(part) for part in x.split(BLOCK)]))

    def __call__(self, x: torch.Tensor) -> float:
        return frechet_distance(self._moments(x), self.reference)


def plans() -> Iterator[tuple[str, int]]:
    """(solver, steps)."""
    for name in SOLVERS:
        if name == "dopri5":
            yield name, 1
        elif name not in LEFT_OUT:
            cost = COST.get(name, 1)
            for calls in (*CALLS, *LONG.get(name, ())):
                if calls >= cost and calls % cost == 0:
                    yield name, calls // cost


def measure_run(label: str, path: Path, samples: int, grids: tuple[str, ...], known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    folder = RunFolder(path)
    scale = Scale(folder, samples)
    spec = folder.spec()
    classes = len(spec.load().source.classes)
    ids = torch.arange(samples)
    for solver, steps in plans():
        for grid in grids:
            row = {"run": label, "solver": solver, "steps": steps, "grid": grid}
            if any(all(r.get(k) == v for k, v in row.items()) for r in known):
                continue
            begun = time.process_time()
            try:
                model = folder.model(folder.retuned({"solver": solver, "steps": str(steps), "grid": grid, "guidance": "1"}))
            except Exception as error:  # a pair that is refused, such as a singular end: the page says so
                yield {**row, "refused": str(error)}
                continue
            calls = calls_of(path_model(model), labels_for(ids[:8], classes), Noise(0, ids[:8]))
            drawn = [model.sample(labels_for(part, classes), Noise(0, part)) for part in ids.split(BLOCK)]
            x = torch.cat([to_uint8(part) for part in drawn]).float() / 127.5 - 1.0
            fd = scale(x)
            yield {**row, "calls": calls, "fd": fd, "floor": scale.floor, "seconds": time.process_time() - begun}


@click.group()
def cli() -> None:
    """Measure solvers on trained runs, and write the page."""


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("runs", nargs=-1, required=True)
@click.option("--samples", default=1000)
@click.option("--grids", default="uniform")
def measure(file: Path, runs: tuple[str, ...], samples: int, grids: str) -> None:
    """Score every solver on the runs LABEL=FOLDER."""
    torch.set_num_threads(1)
    document = json.loads(file.read_text()) if file.exists() else {"rows": [], "samples": samples, "runs": {}}
    for named in runs:
        label, _, path = named.partition("=")
        spec = RunFolder(Path(path)).spec()
        document["runs"][label] = {"recipe": spec.recipe, "knobs": dict(spec.knobs) | {"data": Path(str(spec.knobs.get("data"))).name}}
        for row in measure_run(label, Path(path), samples, tuple(grids.split(",")), document["rows"]):
            document["rows"].append(row)
            document |= {"date": str(date.today()), "torch": torch.__version__, "machine": platform.machine()}
            file.write_text(json.dumps(document, indent=1))
            told = f"{row['fd']:8.3f}  ({row['fd'] / row['floor']:.2f} x floor)" if "fd" in row else "refused"
            print(f"{label:20} {row['solver']:20} {row['grid']:9} {row.get('calls', 0):6.0f} calls {told}", flush=True)
