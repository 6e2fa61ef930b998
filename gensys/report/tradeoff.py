"""What a network call buys: the distance from real images against the calls that a sample takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gensys.report.plots import tradeoff
from gensys.report.protocol import differing
from gensys.report.reading import Contents, number, quietly
from gensys.report.scores import compact
from gensys.report.templates import markup

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["FOLDER", "Tradeoff", "read_tradeoff"]

FOLDER = "nfe"
"""Where the samples of a run with other numbers of steps are, and their scores."""

_POINTS = ("steps", "network calls")  # what differs from point to point of a line; the rest makes another line


@dataclass(frozen=True)
class Tradeoff:
    """svg: the plot. series: (number of its style, what it was measured under) of every line. rows: (line, steps,
    calls, distance over floor, interval), as text."""

    svg: Markup
    series: list[tuple[int, str]]
    rows: list[tuple[int, str, str, str, str]]


def read_tradeoff(found: Contents) -> Tradeoff | None:
    """The scores of the run's weights with several numbers of network calls, or with several solvers; None if there
    are not two of them.

    They are the run's own evaluation.json, and STEM.evaluation.json of samples in the run's folder, in nfe/ of it, or
    beside it, if they were drawn by the same weights: what the run's samples were drawn by, or else the newest of nfe/.
    """
    every = list(_evaluations(found))
    if not every:
        return None
    weights = every[0]["protocol"].get("weights")
    protocols: list[dict[str, Any]] = []
    lines: list[list[tuple[Any, ...]]] = []
    for document in every:
        protocol = document["protocol"]
        point = _point(document)
        if point is None or protocol.get("weights") != weights:
            continue
        rest = {name: v for name, v in protocol.items() if name not in (*_POINTS, "sample ids", "moments")}
        if rest not in protocols:
            protocols.append(rest)
            lines.append([])
        line = lines[protocols.index(rest)]
        line += [point] if point not in line else []
    if sum(map(len, lines)) < 2:
        return None
    others = differing(protocols)
    named = [", ".join(f"{name} {values[k]}" for name, values in others) for k in range(len(lines))]
    plain = [f"{p.get('solver', 'sampler')}, {compact(p.get('samples'))} samples" for p in protocols]
    rows = [
        (k, steps, compact(int(calls)), compact(y, 3), "–" if low is None else f"{low:.3g} to {high:.3g}")
        for k, line in enumerate(lines)
        for calls, y, low, high, steps in sorted(line, key=lambda point: point[0])
    ]
    title = "Distance from real images over that of other real images: " + "; ".join(
        f"{calls} network calls {ratio}" for _, _, calls, ratio, _ in rows
    )
    svg = tradeoff([[point[:4] for point in line] for line in lines], title)
    return Tradeoff(markup(svg), [(k, named[k] or plain[k]) for k in range(len(lines))], rows)


def _evaluations(found: Contents) -> Iterator[Mapping[str, Any]]:
    """Those with metrics and a protocol, the run's own first."""
    folder = found.run.path.resolve()
    paths = [*sorted(folder.glob("*.evaluation.json")), *sorted((folder / FOLDER).glob("*.evaluation.json"))]
    beside = [path for path in sorted(folder.parent.glob("*.evaluation.json")) if _drawn_by(path, folder)]
    own = [] if found.evaluation is None else [found.evaluation]
    for document in (*own, *(quietly(path) for path in (*paths, *beside))):
        if isinstance(document.get("metrics"), dict) and isinstance(document.get("protocol"), dict):
            yield document


def _drawn_by(path: Path, folder: Path) -> bool:
    """Whether the samples that STEM.evaluation.json scores are of this run."""
    store = path.with_name(path.name.removesuffix(".evaluation.json") + ".zarr")
    attributes = quietly(store / "zarr.json").get("attributes")
    return isinstance(attributes, dict) and attributes.get("run") == str(folder)


def _point(document: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """(network calls, distance over floor, low, high, steps); None where one of the first two is not known."""
    calls = number(document["protocol"].get("network calls"))
    metric = next((m for n, m in document["metrics"].items() if n.startswith("fd") and isinstance(m, dict)), {})
    value, floor = number(metric.get("value")), number(metric.get("floor"))
    if not calls or value is None or not floor or value <= 0 or floor <= 0:
        return None
    low, high = number(metric.get("low")), number(metric.get("high"))
    both = (None, None) if low is None or high is None else (low / floor, high / floor)
    return calls, value / floor, *both, compact(document["protocol"].get("steps"))
