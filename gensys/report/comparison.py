"""The page of a comparison: one table and its plots, as HTML and Markdown, and a picture of everybody's samples.

Everything is computed from what `gensys compare` measured: compare.json and the runs beside it.
"""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from gensys import durable
from gensys.report.figures import picture
from gensys.report.plots import scatter
from gensys.report.reading import number as _finite
from gensys.run import recipes

__all__ = ["Row", "rows_of", "table", "write_comparison"]

_STRIP = 20  # samples of each contender in the picture
_LEFT = 110  # pixels for their names


@dataclass(frozen=True)
class Row:
    """A contender: what its runs have, one value for each seed that did not fail."""

    name: str
    paper: str
    runs: tuple[str, ...]
    failures: tuple[str, ...]
    cells: tuple[Mapping[str, Any], ...]

    def values(self, of: Callable[[Mapping[str, Any]], float | None]) -> list[float]:
        """One of its numbers, of every seed that has it."""
        return [value for cell in self.cells if (value := of(cell)) is not None and math.isfinite(value)]


def metric(name: str, over_floor: bool = False) -> Callable[[Mapping[str, Any]], float | None]:
    """A metric of a cell, by the beginning of its name; over what real data have."""

    def of(cell: Mapping[str, Any]) -> float | None:
        found = next((m for key, m in cell["metrics"].items() if key.startswith(name)), {})
        value, floor = (_finite(found.get(key)) for key in ("value", "floor"))
        if value is None or not over_floor:
            return value
        return value / floor if floor else None

    return of


def number(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda cell: cell.get(name)


def _plain(values: Sequence[float], digits: int = 3) -> str:
    """The mean of all seeds."""
    return f"{statistics.fmean(values):.{digits}g}" if values else ""


def _spread(values: Sequence[float]) -> str:
    """The mean, and the standard deviation over seeds."""
    if len(values) < 2:
        return _plain(values)
    return f"{statistics.fmean(values):.3g} ± {statistics.stdev(values):.2g}"


def _relative(values: Sequence[float]) -> str:
    """The standard deviation over seeds, over the mean."""
    return f"{statistics.stdev(values) / statistics.fmean(values):.0%}" if len(values) > 1 else ""


def _bytes(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values) / 2**20:,.0f} MiB" if values else ""


def _count(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):,.0f}" if values else ""


STABILITY = "spread of fd over seeds"
COLUMNS: tuple[tuple[str, Callable[[Mapping[str, Any]], float | None], Callable[[Sequence[float]], str]], ...] = (
    ("fd / real data's", metric("fd_", over_floor=True), _spread),
    (STABILITY, metric("fd_", over_floor=True), _relative),
    ("precision", metric("precision"), _plain),
    ("recall", metric("recall"), _plain),
    ("density", metric("density"), _plain),
    ("coverage", metric("coverage"), _plain),
    ("label agreement", metric("label_agreement"), _plain),
    ("bits / dim", metric("bits_per_dim"), _spread),
    ("passes over the data", number("passes"), _plain),
    ("parameters", number("parameters"), _count),
    ("peak memory", number("peak_bytes"), _bytes),
    ("evaluations / sample", number("evaluations"), _count),
    ("CPU s / 1,000 samples", number("sample_cpu"), _plain),
)


def rows_of(document: Mapping[str, Any]) -> list[Row]:
    """The contenders of compare.json, the nearest to the data first; those whose runs all failed last."""
    plan, known = document["plan"], recipes()
    rows = []
    for name in plan["contenders"]:
        cells = [cell for cell in document["cells"] if cell and cell["name"] == name]
        good = tuple(cell for cell in cells if "failed" not in cell)
        paper = known[good[0]["recipe"]].paper if good and good[0]["recipe"] in known else ""
        failures = tuple(f"seed {cell['seed']}: {cell['failed']}" for cell in cells if "failed" in cell)
        rows.append(Row(name, paper, tuple(f"{name}/{cell['seed']}" for cell in good), failures, good))
    distance = COLUMNS[0][1]
    return sorted(rows, key=lambda row: statistics.fmean(row.values(distance) or [math.inf]))


def write_comparison(folder: Path, document: Mapping[str, Any]) -> Path:
    """Write comparison.html, comparison.md and comparison.png into the folder; returns the page."""
    rows = rows_of(document)
    _picture(folder, rows)
    durable.replace(folder / "comparison.md", _markdown(document, rows).encode())
    page = folder / "comparison.html"
    durable.replace(page, _html(folder, document, rows).encode())
    return page


def _protocol(document: Mapping[str, Any]) -> list[str]:
    """What the table means, in sentences."""
    plan = document["plan"]
    good = [cell for cell in document["cells"] if cell and "metrics" in cell]
    bits = sorted(
        f"{cell['name']}: {cell['metrics']['bits_per_dim']['about'].split(': ', 1)[1]}"
        for cell in good
        if cell["seed"] == 0 and "bits_per_dim" in cell["metrics"]
    )
    return [
        f"Data: {document['data']}. Every run trained for {plan['seconds']:g} s of a processor, on one thread; "
        f"{plan['seeds']} seeds, {plan['samples']:,} samples of each run. A model of latents trained for two "
        f"thirds of the time, its codec for one.",
        "fd: Frechet distance in the features of a LeNet over that of as many other real images (1 = real data); ± is "
        "the standard deviation over seeds. Agreement: how often a classifier sees the label that was asked for. "
        "Parameters, memory and evaluations do not count the codec.",
        f"Bits per dimension of held-out images: {'; '.join(bits) or 'none has a likelihood'}.",
    ]


def _failures(rows: Iterable[Row]) -> list[str]:
    return [f"{row.name}, {failure}" for row in rows for failure in row.failures]


def _cells(row: Row) -> list[str]:
    """What stands under the columns; runs that failed are told where the spread over the others is, and how many seeds
    have a finite value where not all have."""
    failed = f"{len(row.failures)} of {len(row.failures) + len(row.runs)} failed" if row.failures else ""
    cells = []
    for title, of, words in COLUMNS:
        values = row.values(of)
        some = f"{len(values)} of {len(row.cells)} seeds" if 0 < len(values) < len(row.cells) else ""
        parts = (words(values), some, failed if title == STABILITY else "")
        cells.append(", ".join(part for part in parts if part))
    return cells


def table(rows: Iterable[Row]) -> list[list[str]]:
    """As text: the titles, and a line for each contender."""
    return [["", *(title for title, *_ in COLUMNS)], *([row.name, *_cells(row)] for row in rows)]


def _markdown(document: Mapping[str, Any], rows: Sequence[Row]) -> str:
    plan = document["plan"]
    titles, *lines_of = table(rows)
    command = (
        f"gensys compare --data {plan['data']} --budget {plan['seconds']:g}s --families {','.join(plan['contenders'])}"
    )
    lines = [
        "# Families of models, measured",
        "",
        f"Written on {date.today()} by `{command} --seeds {plan['seeds']} --samples {plan['samples']}`.",
        "",
        "![samples](comparison.png)",
        "",
        f"| {' | '.join(titles)} |",
        f"|{'---|' * len(titles)}",
        *(f"| {' | '.join(cells)} |" for cells in lines_of),
        "",
    ]
    for sentence in _protocol(document):
        lines += [sentence, ""]
    lines += [f"- failed: {failure}" for failure in _failures(rows)]
    return "\n".join(lines).rstrip() + "\n"


_STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1c1c1c, #e6e6e6); --faint: light-dark(#8a8a8a, #8f8f8f);
  --line: light-dark(#dddddd, #3a3a3a); --paper: light-dark(#ffffff, #161616); --dot: light-dark(#2458c5, #86a8ff); }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 75rem; padding: 0 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; white-space: nowrap; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; } th { font-weight: 600; }
td:first-child, th:first-child { text-align: left; } a { color: var(--dot); } .faint { color: var(--faint); }
.plots { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; } svg { max-width: 100%; }
svg text { font: 11px system-ui, sans-serif; fill: var(--faint); } svg .name { fill: var(--ink); }
svg .grid { stroke: var(--line); } svg .dot { fill: var(--dot); } img { max-width: 100%; image-rendering: pixelated; }
"""


def _html(folder: Path, document: Mapping[str, Any], rows: Sequence[Row]) -> str:
    def line(row: Row) -> str:
        name, paper = html.escape(row.name), html.escape(row.paper)
        runs = " ".join(
            f"<a href='{html.escape(run)}/samples.png' title='samples of seed {html.escape(run.split('/')[-1])}'>"
            f"{html.escape(run.split('/')[-1])}</a>"
            for run in row.runs
        )
        values = "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row))
        return f"<tr><td>{name} {runs}<span class='faint'> {paper}</span></td>{values}</tr>"

    cells = "".join(map(line, rows))
    titles = "".join(f"<th>{html.escape(title)}</th>" for title, *_ in COLUMNS)
    sheet = picture(folder / "comparison.png")
    image = f"<img src='{sheet.uri}' alt='samples of every family' width='{sheet.width}'>" if sheet else ""
    text = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in _protocol(document))
    failed = "".join(f"<p class='faint'>failed: {html.escape(failure)}</p>" for failure in _failures(rows))
    plots = "".join(f"<figure>{plot}</figure>" for plot in _plots(rows))
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>Families of models</title><style>{_STYLE}</style><h1>Families of models, measured</h1>{text}"
        f"<div class='wide'><table><tr><th></th>{titles}</tr>{cells}</table></div>{failed}"
        f"<div class='plots'>{plots}</div>{image}</html>\n"
    )


def _plots(rows: Iterable[Row]) -> list[str]:
    """Distance against the cost of sampling; recall against precision."""
    by = {title: of for title, of, _ in COLUMNS}

    def points(x: str, y: str) -> list[tuple[float, float, str]]:
        found = []
        for row in rows:
            across, up = row.values(by[x]), row.values(by[y])
            if across and up:
                found.append((statistics.fmean(across), statistics.fmean(up), row.name))
        return found

    rows = [*rows]
    costs, places = "CPU s / 1,000 samples", "fd / real data's"
    return [
        scatter(points(costs, places), costs, places, logarithmic=True),
        scatter(points("precision", "recall"), "precision", "recall"),
    ]


def _picture(folder: Path, rows: Iterable[Row]) -> None:
    """A strip of samples for every contender, of its first seed, with its name."""
    import numpy as np
    import torch
    from PIL import Image, ImageDraw

    from gensys.data.store import Store
    from gensys.pictures import grid, save_png

    strips: list[tuple[str, Image.Image]] = []
    for row in rows:
        if row.runs:
            store = Store.open(folder / row.runs[0] / "samples.zarr")
            some = torch.from_numpy(store.read("x", np.arange(min(_STRIP, len(store)))))
            strips.append((row.name, grid(some, columns=_STRIP, scale=2)))
    if strips:
        height = sum(strip.height for _, strip in strips)
        sheet = Image.new("RGB", (_LEFT + max(strip.width for _, strip in strips), height), "white")
        draw, top = ImageDraw.Draw(sheet), 0
        for name, strip in strips:
            draw.text((4, top + strip.height // 2 - 6), name, fill="black")
            sheet.paste(strip, (_LEFT, top))
            top += strip.height
        save_png(sheet, folder / "comparison.png")
