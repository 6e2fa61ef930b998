"""Score samples of a table, or of any vectors, against real rows: what `gensys evaluate` does for such data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gensys.pipelines.bits import bits_if_any
from gensys.pipelines.real import Real, protocol_of
from torch import Tensor

from gensys.columns import Column
from gensys.data.arrays import columns_of
from gensys.data.source import Source
from gensys.data.store import Store
from gensys.errors import ConfigError, RunError
from gensys.evaluate.metric import Metric
from gensys.noise import Noise
from gensys.progress import Screen
from gensys.run_folder import RunFolder

__all__ = ["evaluate_table"]

_LABEL = "label"


def evaluate_table(
    store: Store,
    folder: RunFolder,
    source: Source,
    *,
    predict: str | None,
    bits: int,
    quick: bool,
    screen: Screen,
) -> tuple[dict[str, Metric], dict[str, Any], list[str], dict[str, Any]]:
    """(the metrics, the protocol, what is left out and why, {"columns": each of them for a person}).

    Rows that were drawn by their labels have these as one more column, "label". predict: the column that models which
    are trained on samples predict of held-out rows; None = the last. bits, quick: see `evaluate`.
    Raises ConfigError for an option that has no effect, or without scikit-learn.
    """
    if quick:
        raise ConfigError("--quick takes the moments of images, and these samples are rows of numbers: leave it out")
    try:
        from gensys.evaluate.tabular import marginals, table
    except ModuleNotFoundError as error:
        raise ConfigError(f"tables are scored with {error.name}: pip install 'gensys[tabular]'") from error

    spec = folder.spec().with_knobs(store.attributes["knobs"])
    model = folder.model(spec, store.attributes["weights"])
    # one set for floors: of each a forest is trained
    real, ids = Real.choose(source, len(store), floored=len(store)), np.arange(len(store))
    left_out: list[str] = []
    labelled = bool(source.classes) and _LABEL in model.conditions
    if source.classes and not labelled:
        left_out.append(f"no column {_LABEL!r}: this model knows no labels")
    columns = [*columns_of(source), *([Column(_LABEL, source.classes)] if labelled else [])]
    samples = torch.from_numpy(store.read("x", ids))
    if labelled:
        samples = _beside(samples, torch.from_numpy(store.read(_LABEL, ids)))
    test, train, reference = (_rows(source, rows, labelled) for rows in (real.test, real.train, real.reference))
    floor = None if real.floor is None else _rows(source, real.floor, labelled)
    varying = _varying(reference, columns)
    if len(varying) < len(columns):
        names = ", ".join(repr(column.name) for k, column in enumerate(columns) if k not in varying)
        left_out.append(f"no score of {names}: always the same among real rows")
        if not varying:
            raise RunError(f"{str(store.path)!r} cannot be scored: no column of real rows has two values")
        kept = [columns[k] for k in varying]
        if predict in {column.name for column in columns} - {column.name for column in kept}:
            others = ", ".join(column.name for column in kept)
            raise ConfigError(
                f"'predict' is {predict!r}, which is always the same among real rows: name one of {others}"
            )
        columns = kept
        samples, test, train, reference = (x[:, varying] for x in (samples, test, train, reference))
        floor = None if floor is None else floor[:, varying]
    if floor is None:
        n = len(store)
        left_out.append(f"few floors: {n} samples need {n} more real rows than the reference has; sample fewer")
    target, enough = _target(predict, columns), len(test) >= table.LEAST_HELD
    if not enough:
        wanted = f"they need {table.LEAST_HELD} held-out rows, and there are {len(test)}"
        left_out.append(f"no utility, no privacy: {wanted}")
    elif len(columns) < 2 or len(test[:, target].unique()) < 2:
        why = "there is no other column" if len(columns) < 2 else "it is the same in all held-out rows"
        left_out.append(f"no utility: {columns[target].name!r} cannot be predicted, {why}")
        enough = False
    name = columns[target].name if enough else None
    unseen = (train, test) if len(test) >= table.LEAST_HELD else (None, None)
    with screen.phase("evaluate", len(store), "samples") as phase:
        try:
            metrics = table.evaluate_table(samples, reference, floor, *unseen, columns, name)
        except ValueError as error:  # too few rows, or values that are none: the message names which
            raise RunError(f"{str(store.path)!r} cannot be scored: {error}") from error
        phase.update(len(store))
    if "membership_auc" in metrics and "closest_record_ratio" not in metrics:
        left_out.append("no ratio of distances: most held-out rows are training rows too")
    if bits:
        found, missing = bits_if_any(model, source, real.test[:bits])
        metrics, left_out = metrics | found, [*left_out, *missing]
    protocol = protocol_of(store, folder, source, None, real)
    protocol |= {"train": f"{len(train)} rows", "held out": f"{len(test)} rows", "predicted": name or "nothing"}
    described = marginals.described(samples.double().numpy(), reference.double().numpy(), columns)
    return metrics, protocol, left_out, {"columns": described}


def _varying(x: Tensor, columns: list[Column]) -> list[int]:
    """The columns of rows (n, D) that can be scored: categories, and numbers that are not all the same."""
    return [k for k, column in enumerate(columns) if column.categories or bool((x[:, k] != x[0, k]).any())]


def _beside(x: Tensor, labels: Tensor) -> Tensor:
    """Rows (n, D) with their labels (n,) as the last column."""
    return torch.cat([x, labels[:, None].to(x)], 1)


def _rows(source: Source, rows: Tensor, labelled: bool) -> Tensor:
    """Real rows (n, D). labelled: with their labels, so that rows without one are left out."""
    batch = source.batch(rows, Noise(0, rows))
    if not labelled:
        return batch.x
    labels = batch.cond[_LABEL]
    return _beside(batch.x, labels)[labels >= 0]


def _target(predict: str | None, columns: list[Column]) -> int:
    names = [column.name for column in columns]
    if predict is not None and predict not in names:
        raise ConfigError(f"'predict' is {predict!r}, and the columns are {', '.join(names)}: name one of them")
    return names.index(predict) if predict is not None else len(names) - 1
