"""Plots for the report, as inline SVG.

SVG is written here by hand: its colours are the page's own (CSS), so plots follow light and dark, and a page with ten
of them needs no plotting library and is the same text for the same numbers.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Axis", "Spot", "cloud", "curves", "enough_digits", "interval", "scatter", "shares", "spans", "tradeoff"]

Point = tuple[float, float]
Spot = tuple[float, float, int]  # across, up, label; -1 = none

_POINTS = 400  # of a curve: more cannot be seen at this size
_NAMED = 20  # classes whose names a map can hold
_STYLES = 6  # of lines, that the page tells apart by colour and by dashes
_SMOOTH = 0.02  # half-width of the smoothing kernel, as a fraction of the horizontal axis


def _nice(low: float, high: float, count: int) -> list[float]:
    """Round numbers between two: multiples of 1, 2 or 5 times a power of ten, about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / raw)))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _nice_log(low: float, high: float) -> list[float]:
    """Powers of ten between two, with their doubles and quintuples where there are few of them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [m * 10.0**p for p in powers for m in factors if low * 0.999 <= m * 10.0**p <= high * 1.001]
        if len(ticks) >= 3:
            break
    return ticks if len(ticks) <= 5 else ticks[:: math.ceil(len(ticks) / 5)]


def _short(value: float, digits: int = 3) -> str:
    """12k, 3.5M, 0.02, 2e-05."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e12:
            return f"{value / size:.{digits}g}{unit}"
    return f"{value:.{digits}g}"


def enough_digits(values: Sequence[float], error: float) -> int:
    """Three, or so many that no value is off by more: years, or pressures, differ in their last digits alone."""
    enough = (d for d in range(3, 9) if all(abs(float(f"{value:.{d}g}") - value) <= error for value in values))
    return next(enough, 9)


def _labelled(ticks: Sequence[float]) -> list[tuple[float, str]]:
    """Each tick with its label, of three digits, or of so many that every label is its tick."""
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=math.inf)

    digits = enough_digits(ticks, step / 100)
    return [(tick, _short(tick, digits)) for tick in ticks]


def _smoothed(xs: Sequence[float], ys: Sequence[float]) -> list[float]:
    """A Gaussian average along the axis: centred, so it does not lag behind as a running average does."""
    import numpy as np

    x, y = np.asarray(xs), np.asarray(ys)
    width = _SMOOTH * max(float(x[-1] - x[0]), 1e-12)
    weights = np.exp(-0.5 * ((x[:, None] - x[None, :]) / width) ** 2)
    return (weights @ y / weights.sum(1)).tolist()


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about `_POINTS` points, each the mean of as many neighbours."""
    size = math.ceil(len(points) / _POINTS)
    blocks = [points[k : k + size] for k in range(0, len(points), size)]
    return [(sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for b in blocks] if size > 1 else points


@dataclass(frozen=True)
class Axis:
    """Where the values from low to high lie between two places of a drawing; log: their logarithms, for low > 0."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    @classmethod
    def around(cls, values: Sequence[float], begin: float, end: float, log: bool = False) -> Axis:
        """With some room on both sides of the values."""
        low, high = min(values), max(values)
        if log:
            return cls(low / 1.3, high * 1.3, begin, end, log)
        margin = 0.05 * (high - low) or 0.1
        return cls(low - margin, high + margin, begin, end)

    def at(self, value: float) -> float:
        """The place of a value; of one below a logarithmic axis, its lower end; of all values, if they are one, the
        middle."""
        low, high, v = self.low, self.high, value
        if self.log:
            low, high, v = math.log(low), math.log(high), math.log(max(v, self.low))
        return self.begin + (self.end - self.begin) * (0.5 if high == low else (v - low) / (high - low))

    def ticks(self, count: int = 4) -> list[tuple[float, str]]:
        """Round numbers along the axis, about so many, with their labels."""
        return _labelled(_nice_log(self.low, self.high) if self.log else _nice(self.low, self.high, count))


def _opening(kind: str, width: int, height: int, title: str, fixed: bool = False) -> str:
    size = f' width="{width}"' if fixed else ""
    label = f'role="img" aria-label="{html.escape(title)}"'
    return f'<svg class="{kind}" viewBox="0 0 {width} {height}"{size} {label}>'


def curves(
    series: Sequence[Sequence[Point]],
    title: str,
    *,
    height: int = 220,
    width: int = 460,
    linear: bool = False,
    styles: Sequence[int] = (),
) -> str:
    """An SVG of curves of (rows seen, value), none of them empty, on common axes; logarithmic over a wide range.

    One curve has its values faint and their average strong. With `styles`, a number for each curve, the averages alone
    are drawn, as the lines s0, s1, ... of the page's style. title: what a screen reader says; it may hold anything, it
    is escaped. linear: never logarithmic.
    """
    series = [_thin(list(points)) for points in series]
    smooth = [_smoothed([x for x, _ in points], [y for _, y in points]) for points in series]
    ys = [y for points in series for _, y in points] if not styles else [y for line in smooth for y in line]
    low, high, furthest = min(ys), max(ys), max(points[-1][0] for points in series)
    log = not linear and low > 0 and high / low > 8
    if not log and low > 0 and low < 0.6 * high:
        low = 0.0  # a curve that falls far is read against zero
    left, right, top, bottom = 46, 10, 8, 22
    across, up = Axis(0.0, furthest or 1.0, left, width - right), Axis(low, high, height - bottom, top, log)

    def line(xs: Sequence[float], values: Sequence[float], name: str) -> str:
        d = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in zip(xs, values, strict=True))
        return f'<polyline class="{name}" points="{d}"/>'

    out = [_opening("curve", width, height, title)]
    for y, text in up.ticks(4 if height > 150 else 2):
        out.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{up.at(y):.1f}" y2="{up.at(y):.1f}"/>')
        out.append(f'<text x="{left - 8}" y="{up.at(y) + 4:.1f}" text-anchor="end">{text}</text>')
    out += [
        f'<text x="{across.at(x):.1f}" y="{height - 4}" text-anchor="middle">{text}</text>'
        for x, text in _labelled(_nice(0.0, furthest, 4))
    ]
    for k, (points, values) in enumerate(zip(series, smooth, strict=True)):
        xs, name = [x for x, _ in points], f" s{styles[k] % _STYLES}" if styles else ""
        if len(points) > 1:
            out += [] if name else [line(xs, [y for _, y in points], "raw")]
            out.append(line(xs, values, f"line{name}"))
        out.append(f'<circle class="dot{name}" cx="{across.at(xs[-1]):.1f}" cy="{up.at(values[-1]):.1f}" r="3"/>')
    return "".join([*out, "</svg>"])


def interval(value: float, low: float | None, high: float | None, floor: float | None) -> str:
    """A small SVG from zero on: the value as a dot, its interval as a bar, what real images get as an upright line."""
    width, middle = 150, 9
    end = max(v for v in (value, high, floor) if v is not None) * 1.06 or 1.0

    across = Axis(0.0, end, 4, width - 4).at

    out = [f'<svg class="interval" viewBox="0 0 {width} 18" aria-hidden="true">']
    out.append(f'<line class="grid" x1="4" x2="{width - 4}" y1="{middle}" y2="{middle}"/>')
    if floor is not None:
        out.append(f'<line class="floor" x1="{across(floor):.1f}" x2="{across(floor):.1f}" y1="1" y2="17"/>')
    if low is not None and high is not None:
        out.append(f'<line class="bar" x1="{across(low):.1f}" x2="{across(high):.1f}" y1="{middle}" y2="{middle}"/>')
    out.append(f'<circle class="dot" cx="{across(value):.1f}" cy="{middle}" r="3.5"/></svg>')
    return "".join(out)


def spans(samples: Sequence[float], real: Sequence[float]) -> str:
    """A small SVG of two laws, real above samples, by five quantiles each, in rising order: a line from the first to
    the last, a bar from the second to the fourth, and a dot at the third."""
    width, out = 190, []
    across = Axis.around([*samples, *real], 4, width - 4).at
    for kind, y, values in (("real", 8, real), ("drawn", 22, samples)):
        first, left, middle, right, last = (f"{across(value):.1f}" for value in values)
        out.append(f'<line class="thin {kind}" x1="{first}" x2="{last}" y1="{y}" y2="{y}"/>')
        out.append(f'<line class="thick {kind}" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        out.append(f'<circle class="{kind}" cx="{middle}" cy="{y}" r="3"/>')
    return f'<svg class="spans" viewBox="0 0 {width} 30" aria-hidden="true">{"".join(out)}</svg>'


def shares(rows: Sequence[tuple[str, float, float]]) -> str:
    """A small SVG of (name, share of samples, share of real rows): two bars for each, real above samples."""
    width, each, left, out = 190, 20, 70, list[str]()
    across = Axis(0.0, max(max(p, q) for _, p, q in rows) or 1.0, left, width - 4).at
    for k, (name, drawn, real) in enumerate(rows):
        short = name if len(name) <= 11 else f"{name[:10]}…"
        out.append(f'<text x="{left - 6}" y="{each * k + 13}" text-anchor="end">{html.escape(short)}</text>')
        for kind, y, share in (("real", each * k + 6, real), ("drawn", each * k + 13, drawn)):
            out.append(f'<line class="thick {kind}" x1="{left}" x2="{across(share):.1f}" y1="{y}" y2="{y}"/>')
    return f'<svg class="spans" viewBox="0 0 {width} {each * len(rows)}" aria-hidden="true">{"".join(out)}</svg>'


def scatter(
    points: Sequence[tuple[float, float, str]], across: str, up: str, *, logarithmic: bool = False, side: int = 420
) -> str:
    """An SVG of (x, y, name): a dot for each, its name beside it. across, up: what the axes are. logarithmic: both;
    points that are not positive are then left out."""
    shown = [point for point in points if not logarithmic or min(point[:2]) > 0]
    left, right, top, bottom = 54, 90, 10, 40
    out = [_opening("scatter", side, side, up, fixed=True)]
    if shown:
        xs = Axis.around([x for x, *_ in shown], left, side - right, logarithmic)
        ys = Axis.around([y for _, y, _ in shown], side - bottom, top, logarithmic)
        for x, text in xs.ticks():
            out.append(f'<line class="grid" x1="{xs.at(x):.1f}" x2="{xs.at(x):.1f}" y1="{top}" y2="{side - bottom}"/>')
            out.append(f'<text x="{xs.at(x):.1f}" y="{side - bottom + 14}" text-anchor="middle">{text}</text>')
        for y, text in ys.ticks():
            out.append(f'<line class="grid" x1="{left}" x2="{side - right}" y1="{ys.at(y):.1f}" y2="{ys.at(y):.1f}"/>')
            out.append(f'<text x="{left - 6}" y="{ys.at(y) + 4:.1f}" text-anchor="end">{text}</text>')
        for x, y, name in shown:
            out.append(f'<circle class="dot" cx="{xs.at(x):.1f}" cy="{ys.at(y):.1f}" r="4"/>')
            out.append(f'<text class="name" x="{xs.at(x) + 7:.1f}" y="{ys.at(y) + 4:.1f}">{html.escape(name)}</text>')
    middle, name = (left + side - right) / 2, html.escape(up)
    out.append(f'<text x="{middle:.1f}" y="{side - 8}" text-anchor="middle">{html.escape(across)}</text>')
    out.append(f'<text transform="translate(12 {side / 2}) rotate(-90)" text-anchor="middle">{name}</text></svg>')
    return "".join(out)


def cloud(
    real: Sequence[Spot], samples: Sequence[Spot], classes: Sequence[str], title: str, *, width: int = 640
) -> str:
    """An SVG of points in a plane, on one scale for both axes: the real ones faint, samples strong, a hue for each
    class and its name in the middle of its real points. title: see `curves`.

    Dots are the round ends of lines without length, so that a thousand of them take a few kilobytes.
    """
    xs, ys = [x for x, *_ in (*real, *samples)], [y for _, y, _ in (*real, *samples)]
    wide, tall = max(xs) - min(xs) or 1.0, max(ys) - min(ys) or 1.0
    height = round(min(1.0, max(0.4, tall / wide)) * width)
    margin = 12
    scale = min((width - 2 * margin) / wide, (height - 2 * margin) / tall)
    left, top = (width - scale * wide) / 2, (height - scale * tall) / 2
    across = Axis(min(xs), min(xs) + wide, left, left + scale * wide).at
    up = Axis(min(ys), min(ys) + tall, top + scale * tall, top).at
    out = [_opening("cloud", width, height, title)]
    for kind, spots in (("real", real), ("drawn", samples)):
        for label in sorted({label for *_, label in spots}):
            path = "".join(f"M{across(x):.1f} {up(y):.1f}h0" for x, y, k in spots if k == label)
            hue = f' style="--hue: {360 * label / max(len(classes), 1):.0f}"' if label >= 0 else ""
            out.append(f'<path class="{kind}{" hued" if hue else ""}"{hue} d="{path}"/>')
    for label, name in enumerate(classes if len(classes) <= _NAMED else ()):
        own = [(x, y) for x, y, k in real if k == label]
        if own:
            x, y = sum(x for x, _ in own) / len(own), sum(y for _, y in own) / len(own)
            out.append(f'<text class="name" x="{across(x):.1f}" y="{up(y):.1f}">{html.escape(name)}</text>')
    return "".join([*out, "</svg>"])


def tradeoff(
    series: Sequence[Sequence[tuple[float, float, float | None, float | None]]], title: str, *, width: int = 640
) -> str:
    """An SVG of quality against cost: of each series, (network calls, distance over floor, its low, its high), as the
    line s0, s1, ...; both axes logarithmic, and real images, at 1, marked. title: see `curves`."""
    height, left, right, top, bottom = 300, 46, 16, 12, 40
    points = [point for line in series for point in line]
    ends = [v for _, y, low, high in points for v in (y, low, high) if v is not None and v > 0]
    xs = Axis.around([x for x, *_ in points], left, width - right, log=True)
    ys = Axis.around([*ends, 1.0], height - bottom, top, log=True)
    out = [_opening("curve", width, height, title)]
    for y, text in ys.ticks():
        out.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{ys.at(y):.1f}" y2="{ys.at(y):.1f}"/>')
        out.append(f'<text x="{left - 8}" y="{ys.at(y) + 4:.1f}" text-anchor="end">{text}</text>')
    one = ys.at(1.0)
    out.append(f'<line class="floor" x1="{left}" x2="{width - right}" y1="{one:.1f}" y2="{one:.1f}"/>')
    last = -math.inf
    for x in sorted({x for x, *_ in points}):
        if xs.at(x) - last > 24:  # pixels: labels that do not touch
            last = xs.at(x)
            out.append(f'<text x="{last:.1f}" y="{height - 22}" text-anchor="middle">{_short(x)}</text>')
    middle = (left + width - right) / 2
    out.append(f'<text x="{middle:.1f}" y="{height - 4}" text-anchor="middle">network calls a sample</text>')
    for k, line in enumerate(series):
        name = f"s{k % _STYLES}"
        places = [(xs.at(x), ys.at(y)) for x, y, *_ in sorted(line)]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        out += [f'<polyline class="line {name}" points="{joined}"/>'] if len(places) > 1 else []
        for (x, y), (_, _, low, high) in zip(places, sorted(line), strict=True):
            if low is not None and high is not None:
                bar = f'y1="{ys.at(max(low, ys.low)):.1f}" y2="{ys.at(high):.1f}"'
                out.append(f'<line class="bar {name}" x1="{x:.1f}" x2="{x:.1f}" {bar}/>')
            out.append(f'<circle class="dot {name}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
    return "".join([*out, "</svg>"])
