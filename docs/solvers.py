"""Write docs/solvers.md and docs/solvers.png from trained runs: every solver at every number of network calls.

    python docs/solvers.py measure FILE.json "flow matching=runs/flow" "diffusion=runs/ddpm" [--samples 1000]
    python docs/solvers.py write FILE.json [MORE.json ...]

`measure` draws the same sample ids with each solver and scores them as `gensys evaluate` does; it keeps what it has in
FILE.json after every row, and goes on from there. `write` makes the page. Nothing in the page is typed by hand.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import click
import torch
from gensys.pipelines.moments import images_of
from gensys.pipelines.real import Real, judge_of, real_source

from gensys.errors import ConfigError
from gensys.evaluate.classifier import features
from gensys.evaluate.distribution import whole_sets
from gensys.evaluate.frechet import Moments, frechet
from gensys.families.diffusion import Diffusion
from gensys.families.mapped import prior_of
from gensys.knobs import SAMPLING, SOLVERS
from gensys.noise import Noise
from gensys.pictures import to_uint8
from gensys.preview import labels_for
from gensys.run_folder import RunFolder

HERE = Path(__file__).parent
CALLS = (20, 50, 15, 8, 4)  # in the order in which they are measured
MANY = {"ancestral", "ddim", "heun"}  # those that are taken to 100 calls: the end of the curve
LONG = 1000  # network calls of ancestral sampling as DDPM has it
COST = {"heun": 2, "churn": 2, "rk4": 4, "predictor_corrector": 2}  # network calls of a step
LEFT_OUT = {"dopri5", "multistep_consistency"}  # adaptive, so measured once; for models of its own
BLOCK = 250  # samples that are drawn at once


def path_model(model: Any) -> Diffusion:
    prior = prior_of(model)
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
        real = Real.choose(source, samples)
        self.reference = self._moments(source.batch(real.reference, Noise(0, real.reference)).x)
        floors = [] if real.floor is None else whole_sets(real.floor, samples)
        found = [self(source.batch(rows, Noise(0, rows)).x) for rows in floors]
        self.floor = statistics.fmean(found) if found else None

    def _moments(self, x: torch.Tensor) -> Moments:
        return Moments.of(features(self.judged.classifier, x))

    def __call__(self, x: torch.Tensor) -> float:
        return frechet(self._moments(x), self.reference)


def plans(long: bool, only: str = "") -> Iterator[tuple[str, int]]:
    """(solver, steps). long: with DDPM's thousand steps. only: SOLVER:CALLS,... in place of all."""
    for pair in filter(None, only.split(",")):
        name, _, calls = pair.partition(":")
        yield name, int(calls) // COST.get(name, 1)
    if only:
        return
    if long:
        yield "ancestral", LONG
    for calls in (*CALLS, 100):
        for name in SOLVERS:
            cost = COST.get(name, 1)
            if name in LEFT_OUT or calls % cost or calls < cost or (calls == 100 and name not in MANY):
                continue
            yield name, calls // cost
    yield "dopri5", 2  # its steps are its own affair, but for the last


def measured(
    label: str,
    path: Path,
    samples: int,
    grids: tuple[str, ...],
    plan: list[tuple[str, int]],
    known: list[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """The rows of a run that are not known yet."""
    folder = RunFolder(path)
    scale = Scale(folder, samples)
    spec = folder.spec()
    classes = len(spec.load().source.classes)
    ids = torch.arange(samples)
    for solver, steps in plan:
        for grid in grids:
            row = {"run": label, "solver": solver, "steps": steps, "grid": grid}
            if any(all(r.get(k) == v for k, v in row.items()) for r in known):
                continue
            begun = time.process_time()
            knobs = {"solver": solver, "steps": str(steps), "grid": grid, "guidance": "1"}
            try:
                model = folder.model(folder.retuned(knobs))
            except ConfigError as error:  # a pair that is refused, such as a singular end: the page says so
                yield {**row, "refused": str(error)}
                continue
            calls = calls_of(path_model(model), labels_for(ids[:8], classes), Noise(0, ids[:8]))
            drawn = [model.sample(labels_for(part, classes), Noise(0, part)) for part in ids.split(BLOCK)]
            fd = scale(images_of(torch.cat([to_uint8(part) for part in drawn]).numpy()))
            yield {**row, "calls": calls, "fd": fd, "floor": scale.floor, "seconds": time.process_time() - begun}


@click.group()
def cli() -> None:
    """Measure solvers on trained runs, and write the page."""


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("runs", nargs=-1, required=True)
@click.option("--samples", default=1000)
@click.option("--grids", default="uniform")
@click.option("--only", default="", help="SOLVER:CALLS,... in place of all.")
@click.option("--long", is_flag=True, help="Also ancestral sampling in 1,000 steps.")
def measure(file: Path, runs: tuple[str, ...], samples: int, grids: str, only: str, long: bool) -> None:
    """Score every solver on the runs LABEL=FOLDER."""
    torch.set_num_threads(1)
    document = json.loads(file.read_text()) if file.exists() else {"rows": [], "samples": samples, "runs": {}}
    for named in runs:
        label, _, path = named.partition("=")
        spec = RunFolder(Path(path)).spec()
        knobs = dict(spec.knobs) | {"data": Path(str(spec.knobs.get("data"))).name}
        document["runs"][label] = {"recipe": spec.recipe, "knobs": knobs}
        for row in measured(
            label, Path(path), samples, tuple(grids.split(",")), list(plans(long, only)), document["rows"]
        ):
            document["rows"].append(row)
            document |= {"date": str(date.today()), "torch": torch.__version__, "machine": platform.machine()}
            file.write_text(json.dumps(document, indent=1))
            told = f"{row['fd']:8.3f}  ({row['fd'] / row['floor']:.2f} x floor)" if "fd" in row else "refused"
            print(f"{label:20} {row['solver']:20} {row['grid']:9} {row.get('calls', 0):6.0f} calls {told}", flush=True)


@cli.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def write(files: tuple[Path, ...]) -> None:
    """Make docs/solvers.md and docs/solvers.png."""
    documents = [json.loads(file.read_text()) for file in files]
    rows = [row for document in documents for row in document["rows"]]
    runs = {label: run for document in documents for label, run in document["runs"].items()}
    _plot(rows, list(runs))
    first = documents[0]
    text = [
        "# Every solver on the same trained models",
        "",
        f"Written by `python docs/solvers.py` from measurements of {first['date']} (torch {first['torch']}, "
        f"{first['machine']}, one thread). A figure is the Frechet distance of {first['samples']:,} samples in the "
        "features of a LeNet, as `gensys evaluate` takes it, over that of as many other real images (1.0 = as near to "
        "the reference as real data are). All rows of a model draw the same sample ids with the same weights, without "
        "guidance. Columns are network calls for a sample (heun, churn, rk4 and plms differ by up to three).",
        "",
        "![distance against network calls](solvers.png)",
    ]
    for label in runs:
        text += ["", f"## {label}", "", _told(runs[label]), "", *_table([r for r in rows if r["run"] == label])]
    (HERE / "solvers.md").write_text("\n".join(text) + "\n")


def _told(run: dict[str, Any]) -> str:
    knobs = " ".join(f"{k}={v}" for k, v in run["knobs"].items() if k not in SAMPLING)
    return f"`gensys train {run['recipe']} {knobs}`"


def _asked(row: dict[str, Any]) -> int:
    """Network calls as planned: some solvers save a few in the last step."""
    return row["steps"] * COST.get(row["solver"], 1)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    scored = [row for row in rows if "fd" in row]
    columns = sorted({_asked(row) for row in scored if row["solver"] != "dopri5"})
    lines = ["| solver, grid | " + " | ".join(map(str, columns)) + " |", "|---" * (len(columns) + 1) + "|"]
    refused: dict[str, str] = {}
    for solver, grid in dict.fromkeys((row["solver"], row["grid"]) for row in rows):
        mine = [row for row in scored if (row["solver"], row["grid"]) == (solver, grid)]
        if solver == "dopri5":
            lines += [
                f"| dopri5, adaptive | {row['fd'] / row['floor']:.2f} at {row['calls']:.0f} calls |" for row in mine
            ]
            continue
        found = {_asked(row): row["fd"] / row["floor"] for row in mine}
        if found:
            cells = [f"{found[c]:.2f}" if c in found else "" for c in columns]
            lines.append(f"| {solver}, {grid} | " + " | ".join(cells) + " |")
        for row in rows:
            if (row["solver"], row["grid"]) == (solver, grid) and "refused" in row:
                refused[f"{solver}, {grid}"] = row["refused"]
    lines += [""] + [f"- {name}: {why}" for name, why in refused.items()] if refused else []
    return lines


def _plot(rows: list[dict[str, Any]], runs: list[str]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, all_axes = pyplot.subplots(1, len(runs), figsize=(5.5 * len(runs), 4.2), sharey=True, squeeze=False)
    colours = {name: pyplot.get_cmap("tab20")(k) for k, name in enumerate(SOLVERS)}
    for axes, label in zip(all_axes[0], runs, strict=True):
        for solver in SOLVERS:
            points = sorted(
                (row["calls"], row["fd"] / row["floor"])
                for row in rows
                if row["run"] == label and row["solver"] == solver and row["grid"] == "uniform" and "fd" in row
            )
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", ms=3, lw=1.2, color=colours[solver], label=solver)
        axes.axhline(1.0, color="grey", lw=0.8, ls=":")
        axes.set(title=label, xscale="log", yscale="log", xlabel="network calls a sample")
    all_axes[0][0].set_ylabel("Frechet distance / real data's")
    all_axes[0][-1].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(HERE / "solvers.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    cli()
