"""Which figures of several runs may be held against each other, and what differs where they may not.

A figure depends on how it was measured (how many rows, against which real images, in the features of which classifier)
and on how the samples were drawn (solver, steps, guidance). Figures that were measured otherwise are never ranked.
Those of samples that were drawn otherwise are, as that is what one compares solvers for, and say so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gensys.report.reading import number
from gensys.report.scores import Score, compact, scores

__all__ = ["Cell", "Line", "differing", "versus"]

_Found = tuple[str, Mapping[str, Any]]  # the name of a metric as it is written, and the metric

_MEASURING = ("reference", "floor", "classifier", "features", "prompt", "data fingerprint")
_OTHER = {
    "data fingerprint": "another data set",
    "features": "other features",
    "predicted": "another column predicted",
}
# other draws from the same model, what names the model itself, and what is said by another key
_NOT_A_DIFFERENCE = ("samples", "sample ids", "sample seed", "weights", "codec", "data", "moments")
_OF_TABLES = ("train", "held out", "predicted")  # follow from the data, but for the last, which `tstr` alone depends on
# what another line about a metric means: pairs of one class, or of any where labels are not heard; exact, or a bound
_KINDS = {"ms_ssim_within": "within other classes", "diversity": "within other classes", "bits": "another likelihood"}
_MANY = 4  # knobs of sampling that are named; of more, as between two families, the table of knobs tells
_SIZE = re.compile(r"_\d\d+$")  # of fd_lenet_1000: how many rows a figure is of; wasserstein_1 is a name


@dataclass(frozen=True)
class Cell:
    """A figure of one run. others: what differs from the first run that has it, "steps 4". best: "best", "as good"
    where its interval holds the best, or "". measured: whether it was measured as that of the first run was."""

    score: Score
    others: tuple[str, ...]
    best: str
    measured: bool


@dataclass(frozen=True)
class Line:
    """A metric of all runs; None = a run has it not. ranked: whether all were measured alike."""

    name: str
    about: str
    arrow: str
    direction: str
    cells: tuple[Cell | None, ...]
    ranked: bool


def versus(evaluations: Sequence[Mapping[str, Any] | None]) -> list[Line]:
    """A line for each metric that any of the runs has, in the order of the first that has it."""
    metrics = [_metrics(evaluation) for evaluation in evaluations]
    names = dict.fromkeys(name for found in metrics for name in found)
    protocols = [_protocol(evaluation) for evaluation in evaluations]
    return [_line(name, [found.get(name) for found in metrics], protocols) for name in names]


def differing(documents: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(name, the value of each) of the entries that are not the same in all of them."""
    names = dict.fromkeys(name for document in documents for name in document)
    rows = [(name, [document.get(name) for document in documents]) for name in names]
    return [(str(n), [compact(v, 6) for v in values]) for n, values in rows if any(v != values[0] for v in values[1:])]


def _protocol(evaluation: Mapping[str, Any] | None) -> Mapping[str, Any]:
    protocol = None if evaluation is None else evaluation.get("protocol")
    return protocol if isinstance(protocol, dict) else {}


def _metrics(evaluation: Mapping[str, Any] | None) -> dict[str, _Found]:
    """Name without the number of rows -> (name, metric)."""
    found = {} if evaluation is None else evaluation["metrics"]
    return {_SIZE.sub("", name): (name, metric) for name, metric in found.items() if isinstance(metric, dict)}


def _line(name: str, found: Sequence[_Found | None], protocols: Sequence[Mapping[str, Any]]) -> Line:
    have = [k for k, one in enumerate(found) if one is not None]
    first = have[0]
    others: dict[int, tuple[list[str], list[str]]] = {}
    for k in have:
        mine, theirs = found[first], found[k]
        assert mine is not None
        assert theirs is not None
        measuring, drawing = _differences(name, protocols[first], protocols[k])
        if mine[1].get("n") != theirs[1].get("n"):  # so many real rows are taken as there are samples
            rest = [what for what in measuring if what not in ("another reference", "another floor")]
            measuring = [f"{compact(theirs[1].get('n'))} rows", *rest]
        if mine[1].get("about") != theirs[1].get("about"):
            measuring = [*measuring, *(told for start, told in _KINDS.items() if name.startswith(start))]
        others[k] = (measuring, drawing)
    ranked = not any(measuring for measuring, _ in others.values())
    words = _best([None if one is None else one[1] for one in found]) if ranked else [""] * len(found)
    cells: list[Cell | None] = []
    for k, one in enumerate(found):
        if one is None:
            cells.append(None)
            continue
        measuring, drawing = others[k]
        cells.append(Cell(scores({one[0]: one[1]})[0], (*measuring, *drawing), words[k], not measuring))
    shown = next(cell.score for cell in cells if cell is not None)
    return Line(name if not ranked else shown.name, shown.about, shown.arrow, shown.direction, tuple(cells), ranked)


def _differences(name: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What another protocol has otherwise, that the metric depends on: of the measuring, and of the drawing."""
    depends = (*_MEASURING, "predicted") if name.startswith("tstr") else _MEASURING
    measuring = [key for key in depends if mine.get(key) != theirs.get(key)]
    names = dict.fromkeys([*mine, *theirs])
    told_otherwise = (*_MEASURING, *_NOT_A_DIFFERENCE, *_OF_TABLES)
    drawing = [n for n in names if n not in told_otherwise and mine.get(n) != theirs.get(n)]
    if name.startswith(("reconstruction", "bits")):  # of real images: no sample is drawn and no classifier asked
        plain = name.startswith("bits") or name.endswith(("mse", "psnr", "ssim"))
        depends = ("data fingerprint",) if plain else ("data fingerprint", "features")
        return [_OTHER.get(key, f"another {key}") for key in measuring if key in depends], []
    if name.startswith("memorisation"):  # in pixels, against all training images
        measuring = [key for key in measuring if key == "data fingerprint"]
    told = [_OTHER.get(key, f"another {key}") for key in measuring]
    if len(drawing) > _MANY:
        return told, ["another sampler"]
    return told, [f"{key} {compact(theirs.get(key))}" for key in drawing]


def _best(metrics: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """The word for each: of one alone, and of those that are all the same, there is no best."""
    values = [None if m is None else number(m.get("value")) for m in metrics]
    known = [v for v in values if v is not None]
    if len(known) < 2 or min(known) == max(known):
        return [""] * len(metrics)
    shown = next(m for m in metrics if m is not None)
    real, better = number(shown.get("floor")), shown.get("better")
    if better == "nearer" and real is None:
        return [""] * len(metrics)
    best = min(known, key=lambda v: abs(v - (real or 0.0)) if better == "nearer" else -v if better == "higher" else v)
    words: list[str] = []
    for metric, value in zip(metrics, values, strict=True):
        low, high = (None, None) if metric is None else (number(metric.get("low")), number(metric.get("high")))
        inside = value is not None and low is not None and high is not None and low <= best <= high
        words.append("best" if value == best else "as good" if inside else "")
    return words
