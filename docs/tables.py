"""Recipes on two tables of scikit-learn, scored as tables: the figures of docs/evaluation.md.

    python docs/tables.py FOLDER

Runs are left in FOLDER; what is there is not trained again. Three minutes of one core.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
from page import gensys, put
from sklearn import datasets

HERE = Path(__file__).parent
SHOWN = ("ks_complement", "pearson_similarity", "c2st_auc", "tstr_linear", "closest_record_ratio", "membership_auc")


@dataclass(frozen=True)
class Model:
    """A line of the table: a recipe, the knobs of its training, and those of drawing."""

    said: str
    recipe: str
    knobs: tuple[str, ...]
    drawn: tuple[str, ...] = ()


CANCER = ("vae", ("width=64", "latent=8", "budget=100k"))
MODELS = {
    "cancer": (
        Model("`vae`, draws of p(x given z)", *CANCER),
        Model("its mean, `noisy=false`", *CANCER, drawn=("noisy=false",)),
        Model("`vae prior=normal`, draws", CANCER[0], (*CANCER[1], "prior=normal")),
        Model("`flow_matching`", "flow_matching", ("budget=60k",)),
        Model("`ddpm`", "ddpm", ("budget=60k",)),
    ),
    "diabetes": (
        Model("`vae categorical=sex`", "vae", ("categorical=sex", "budget=60k")),
        Model("`nsf`", "nsf", ("budget=60k",)),
        Model("`realnvp`", "realnvp", ("budget=60k",)),
        Model("`flow_matching categorical=sex`", "flow_matching", ("categorical=sex", "budget=60k")),
        Model("`ddpm categorical=sex`", "ddpm", ("categorical=sex", "budget=60k")),
    ),
}
SAMPLES = {"cancer": 250, "diabetes": 200}


def cancer(file: Path) -> None:
    """569 rows: the diagnosis is the last column, two of the ten numbers before it are cut into words."""
    data = datasets.load_breast_cancer()
    x = data.data[:, :10]
    third, half = np.quantile(x[:, 2], [1 / 3, 2 / 3]), np.median(x[:, 5])
    sizes, halves = np.array(["small", "medium", "large"]), np.array(["low", "high"])
    words = {2: sizes[np.digitize(x[:, 2], third)], 5: halves[(x[:, 5] > half).astype(int)]}
    columns = [words.get(k, x[:, k]) for k in range(10)] + [data.target_names[data.target]]
    _write(file, [*data.feature_names[:10], "diagnosis"], columns)


def diabetes(file: Path) -> None:
    """442 rows of numbers: ten of a patient, of which sex is 1 or 2, and the progress of the disease."""
    data = datasets.load_diabetes(scaled=False)
    _write(file, [*data.feature_names, "progress"], [*data.data.T, data.target])


def _write(file: Path, names: list[str], columns: list[Any]) -> None:
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([names, *zip(*columns, strict=True)])


def score(folder: Path, table: str, model: Model) -> dict[str, Any]:
    """The metrics of a model, trained in FOLDER."""
    run = folder / "-".join((table, model.recipe, *model.knobs))
    store = run / f"{'-'.join(('samples', *model.drawn))}.zarr"
    gensys("train", model.recipe, f"data={folder / table}.csv", *model.knobs, "--run", str(run))
    gensys("sample", str(run), *model.drawn, "--seeds", f"0:{SAMPLES[table]}", "--out", str(store))
    return gensys("evaluate", str(store)).said["metrics"]


def _row(said: str, cells: Iterable[str]) -> str:
    return f"| {said} | " + " | ".join(cells) + " |"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Train, sample, score, and write the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    cancer(folder / "cancer.csv")
    diabetes(folder / "diabetes.csv")
    lines = []
    for table, models in MODELS.items():
        found = [score(folder, table, model) for model in models]
        lines += [_row(table, [f"`{name}`" for name in SHOWN]), "|---" * (1 + len(SHOWN)) + "|"]
        for model, metrics in zip(models, found, strict=True):
            lines.append(_row(model.said, [format(metrics[name]["value"], ".3f") for name in SHOWN]))
        lines.append(_row("real data", [format(found[0][name]["floor"], ".3f") for name in SHOWN]))
        lines += [_row("+- of the first line", [_half(found[0][name]) for name in SHOWN]), ""]
    lines += [f"- {table.__name__}: {table.__doc__} {SAMPLES[table.__name__]} samples." for table in (cancer, diabetes)]
    lines.append(f"- {date.today()}, one seed, one thread.")
    put(HERE / "evaluation.md", "tables", "tables.py", lines)


def _half(metric: dict[str, Any]) -> str:
    low, high = metric["low"], metric["high"]
    return "" if low is None else format((high - low) / 2, ".3f")


if __name__ == "__main__":
    main()
