"""The page of several runs, side by side: figures, what was done otherwise, samples, curves, cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gensys.report.animation import columns_for
from gensys.report.card import data_of
from gensys.report.figures import Picture, sheet
from gensys.report.page import publish
from gensys.report.plots import curves
from gensys.report.protocol import differing, versus
from gensys.report.reading import Contents, Training, left_out, number, read
from gensys.report.recipe import Places
from gensys.report.scores import compact, duration
from gensys.report.templates import markup, rendered

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["write_reports"]

_ROWS = 4  # of samples of each run
_LOSSES = {"loss": "training loss", "val_loss": "loss on held-out rows"}


def write_reports(folders: Sequence[Path], out: Path) -> Path:
    """Write one page about several runs, of what `write_report` reads; returns its path. Raises RunError if one of
    the folders is no run."""
    return publish(_page([read(folder) for folder in folders]), out)


def _page(runs: Sequence[Contents]) -> str:
    names = _names([found.run.path.resolve() for found in runs])
    lines = versus([found.evaluation for found in runs])
    common, own = _knobs(runs)
    return rendered(
        "several.html.j2",
        names=names,
        runs=[
            (name, Path(Places(f)(f.run.document.get("recipe", "unknown recipe"))).name)
            for name, f in zip(names, runs, strict=True)
        ],
        lines=lines,
        things=_things(runs),
        doubts=[(n, doubt) for n, f in zip(names, runs, strict=True) for doubt in f.doubts],
        left_out=[(n, told) for n, f in zip(names, runs, strict=True) if (told := left_out(f.evaluation))],
        unranked=[line.name for line in lines if not line.ranked],
        protocol=differing([_protocol(found) for found in runs]),
        knobs=common,
        own=own,
        grids=_grids(runs, names),
        curves=_curves(runs, names),
        costs=_costs(runs),
        gaps=[(name, [gap.what for gap in found.gaps]) for name, found in zip(names, runs, strict=True) if found.gaps],
    )


def _things(runs: Sequence[Contents]) -> str:
    """What real data are called."""
    tables = {bool(found.evaluation.get("columns")) for found in runs if found.evaluation}
    return "data" if len(tables) > 1 else "rows" if True in tables else "images"


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, with so many of the folders above them as tell them apart."""
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    names = ["/".join(path.parts[-depth:]) for path in paths]
    return [name if names.count(name) == 1 else f"{name} ({k + 1})" for k, name in enumerate(names)]


def _protocol(found: Contents) -> dict[str, Any]:
    protocol = None if found.evaluation is None else found.evaluation.get("protocol")
    if not isinstance(protocol, dict):
        return {}
    places = Places(found)
    return {
        name: places(v) if isinstance(v, str) else v for name, v in protocol.items() if name not in ("data", "weights")
    }


def _knobs(runs: Sequence[Contents]) -> tuple[list[tuple[str, list[str]]], list[tuple[str, list[str]]]]:
    """The knobs, and what else a run was made from, that differ: those that all have, and those that only some have."""
    made = [_made_from(found) for found in runs]
    rows = differing(made)
    everywhere = {name for name in made[0] if all(name in document for document in made)}
    return [row for row in rows if row[0] in everywhere], [row for row in rows if row[0] not in everywhere]


def _made_from(found: Contents) -> dict[str, Any]:
    places = Places(found)

    def knobs(training: Training, prefix: str) -> dict[str, Any]:
        values = training.document.get("knobs")
        items = values.items() if isinstance(values, dict) else ()
        return {f"{prefix}{name}": places(v) if isinstance(v, str) else v for name, v in items}

    about = {"recipe": places(found.run.document.get("recipe", "–"))}
    about |= {"content of the data": str(data_of(found.run).get("fingerprint", "–"))[:12]}
    about |= {"rows to train on": found.run.document.get("train_rows")}
    return about | knobs(found.run, "") | (knobs(found.codec, "codec · ") if found.codec is not None else {})


# ------------------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class _Grid:
    name: str
    picture: Picture
    columns: int
    caption: str


@dataclass(frozen=True)
class _Grids:
    """The grids of those that have samples. said: whether they are of the same noise and labels."""

    grids: list[_Grid]
    said: str


def _first(found: Contents) -> int:
    return 0 if found.samples is None else int(number(found.samples.about.get("first")) or 0)


def _grids(runs: Sequence[Contents], names: Sequence[str]) -> _Grids | None:
    """The same samples of every run: those ids that the first samples of all of them have."""
    shown = [(name, found) for name, found in zip(names, runs, strict=True) if found.samples is not None]
    if not shown:
        return None
    begin = max(_first(found) for _, found in shown)
    end = min(_first(f) + len(f.samples.x) for _, f in shown if f.samples is not None)
    classes = max(len(f.samples.classes) for _, f in shown if f.samples is not None)
    columns, alike = columns_for(classes), begin < end
    count = _ROWS * columns if not alike else min(_ROWS * columns, end - begin)
    grids: list[_Grid] = []
    asked: list[list[str]] = []
    for name, found in shown:
        samples = found.samples
        assert samples is not None
        at = begin - _first(found) if alike else 0
        x, labels = samples.x[at : at + count], samples.labels[at : at + count]
        asked.append([samples.classes[k] if 0 <= k < len(samples.classes) else "" for k in labels])
        seed = f"ids {_first(found) + at}:{_first(found) + at + len(x)}, seed {samples.about.get('seed', 'unknown')}"
        grids.append(_Grid(name, sheet(x, min(columns, len(x))), columns, seed))
    seeds = {str(f.samples.about.get("seed")) for _, f in shown if f.samples is not None}
    if not alike:
        said = "No sample has the same id in all runs: these are the first of each, which were drawn for other noise."
    elif any(labels != asked[0] for labels in asked[1:]):
        said = "The same ids, but they were asked for other classes."
    elif len(seeds) > 1:
        said = "The same ids and classes, from other seeds: their noise is not the same."
    else:
        said = "The same ids, classes and seed in every grid, not selected."
    return _Grids(grids, said)


@dataclass(frozen=True)
class _Curve:
    name: str
    svg: Markup
    runs: list[tuple[int, str, str]]


def _curves(runs: Sequence[Contents], names: Sequence[str]) -> list[_Curve]:
    """The losses of all runs that have them, on one axis."""
    found: list[_Curve] = []
    for key, title in _LOSSES.items():
        series = [_points(contents.run, key) for contents in runs]
        have = [k for k, points in enumerate(series) if points]
        if not have:
            continue
        ends = [compact(series[k][-1][1], 3) for k in have]
        told = "; ".join(f"{names[k]} ends at {end}" for k, end in zip(have, ends, strict=True))
        svg = markup(curves([series[k] for k in have], f"{title} against rows seen: {told}", styles=have))
        found.append(_Curve(title, svg, [(k, names[k], end) for k, end in zip(have, ends, strict=True)]))
    return found


def _points(training: Training, key: str) -> list[tuple[float, float]]:
    return [
        (x, y)
        for line in training.log
        if (x := number(line.get("images"))) is not None and (y := number(line.get(key))) is not None
    ]


def _costs(runs: Sequence[Contents]) -> list[tuple[str, list[str]]]:
    """What each run has cost; rows that no run has are left out."""

    def seconds(value: float | None) -> str:
        return "–" if value is None else duration(value)

    def rate(training: Training) -> str:
        return compact(training.images / training.seconds, 3) if training.images and training.seconds else "–"

    peaks = [found.run.peak_bytes for found in runs]
    rows = [
        ("training", [seconds(found.run.seconds) for found in runs]),
        ("rows seen", [compact(found.run.images) for found in runs]),
        ("rows / s", [rate(found.run) for found in runs]),
        ("peak memory", ["–" if peak is None else f"{peak / 2**20:,.0f} MiB" for peak in peaks]),
        ("training its codec", [seconds(None if found.codec is None else found.codec.seconds) for found in runs]),
        ("network calls a sample", [compact(_protocol(found).get("network calls")) for found in runs]),
        ("scoring", [seconds(number((found.evaluation or {}).get("seconds"))) for found in runs]),
    ]
    return [(name, values) for name, values in rows if any(value != "–" for value in values)]
