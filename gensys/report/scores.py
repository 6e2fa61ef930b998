"""Numbers for people: metrics with as many digits as their interval warrants, protocols as flat rows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gensys.report.reading import number

__all__ = ["Fact", "Figure", "Score", "compact", "duration", "facts", "figures", "scores"]

_DIRECTIONS = {
    "higher": ("↑", "higher is better"),
    "lower": ("↓", "lower is better"),
    "nearer": ("→", "nearer to real data is better"),
}
_DECIMALS = 6  # at most; numbers that need more have an exponent
_HASH = re.compile(r"[0-9a-f]{24,}")


@dataclass(frozen=True)
class Score:
    """A row of the table of metrics, as text; plot: (value, low, high, floor) where the four can be drawn from zero.

    arrow: which way is better, direction: the same in words.
    """

    name: str
    about: str
    value: str
    interval: str
    floor: str
    ratio: str
    arrow: str
    direction: str
    n: str
    plot: tuple[float, float | None, float | None, float | None] | None


@dataclass(frozen=True)
class Fact:
    """A name and its value; code: the value is a hash, to be copied and not to be read."""

    name: str
    value: str
    code: bool = False


@dataclass(frozen=True)
class Figure:
    """A key figure: a large value, what it is, and what it is to be compared with."""

    value: str
    unit: str
    title: str
    note: str


def duration(seconds: float) -> str:
    """12.3 s, 4 min 05 s, 2 h 03 min."""
    if seconds < 59.95:  # above, it would be rounded to 60.0 s
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _clock(seconds: float) -> tuple[str, str]:
    """41.2 s, 3:07 min, 2:05 h: one number to be set large, and its unit."""
    if seconds < 59.95:
        return f"{seconds:.1f}", "s"
    hours = round(seconds) >= 3600
    large, small = divmod(round(seconds / 60 if hours else seconds), 60)
    return f"{large}:{small:02d}", "h" if hours else "min"


def compact(value: object, digits: int = 4) -> str:
    """A value as one reads it: 12,345 and 0.0123; yes and no; lists with commas; what is not known as a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        whole = math.isfinite(value) and abs(value) >= 10**digits - 0.5  # also what is rounded up to it
        return f"{value:,.0f}" if whole else f"{value:.{digits}g}"
    if isinstance(value, list | tuple):
        shown = ", ".join(compact(v, digits) for v in value[:20])
        return f"{shown}, … ({len(value)})" if len(value) > 20 else shown or "–"
    return str(value)


def _decimals(value: float, low: float | None, high: float | None) -> int:
    """So many that the width of the interval shows two digits; without one, four digits of the value."""
    width = 0.0 if low is None or high is None else high - low
    scale = width if width > 0 else abs(value) / 100
    return 2 if scale == 0 else max(0, 1 - math.floor(math.log10(scale)))


def _floor(floor: float, spread: float | None, decimals: int) -> str:
    """What real data get, and how much that varies from one set of rows to another if it was measured on several.

    With as many decimals as the value has, and at least two digits that are not zero: a wide interval around a bad
    value must not round what it is compared with to nothing."""
    if floor == 0:
        return compact(floor)
    decimals = max(decimals, 1 - math.floor(math.log10(abs(floor))))
    return _text(floor, decimals) + (f" ± {_text(spread, decimals)}" if spread else "")


def _text(value: object, decimals: int) -> str:
    """A number of a metric, also one that is infinite ("inf") or was not measured."""
    finite = number(value)
    if finite is not None:
        return compact(finite, 6) if decimals > _DECIMALS else f"{finite:z,.{decimals}f}"
    return {"inf": "∞", "-inf": "−∞", "None": "–"}.get(str(value), "not a number")


def scores(metrics: Mapping[str, Any]) -> list[Score]:
    """The rows of the table, in the order of the file."""
    return [_score(name, metric) for name, metric in metrics.items() if isinstance(metric, dict)]


def _score(name: str, metric: Mapping[str, Any]) -> Score:
    value, floor = number(metric.get("value")), number(metric.get("floor"))
    low, high = number(metric.get("low")), number(metric.get("high"))
    decimals = 0 if value is None else _decimals(value, low, high)
    unit = f" {metric['unit']}" if metric.get("unit") else ""
    interval = "" if low is None or high is None else f"{_text(low, decimals)} to {_text(high, decimals)}"
    if value is None:
        interval = ""  # an interval around nothing would look like a measurement
    # a decibel is a logarithm already, and there is no multiple of zero
    ratio = f"{compact(value / floor, 3)} ×" if value is not None and floor and floor > 0 and not unit else ""
    drawable = value is not None and min(v for v in (value, low, high, floor) if v is not None) >= 0
    arrow, direction = _DIRECTIONS.get(str(metric.get("better")), _DIRECTIONS["lower"])
    return Score(
        name=name,
        about=str(metric.get("about") or ""),
        value=_text(metric.get("value"), decimals) + ("" if value is None else unit),
        interval=interval,
        floor="" if floor is None else _floor(floor, number(metric.get("spread")), decimals),
        ratio=ratio,
        arrow=arrow,
        direction=direction,
        n=compact(metric.get("n")),
        plot=(value, low, high, floor) if drawable and value is not None else None,
    )


def figures(metrics: Mapping[str, Any], seconds: float | None, all_stages: bool) -> list[Figure]:
    """The key figures: does it draw what it is asked for, how near is it to real data, how good is the codec, how long
    did it take. A figure that was not measured is left out."""
    found: list[Figure] = []
    values = {name: m for name, m in metrics.items() if isinstance(m, dict) and number(m.get("value")) is not None}
    if (agreement := values.get("label_agreement")) is not None:
        real = number(agreement.get("floor"))
        note = "of samples are what they were asked to be, says a classifier"
        note += "" if real is None else f" (real images: {100 * real:.1f} %)"
        found.append(Figure(f"{100 * agreement['value']:.1f}", "%", "label agreement", note))
    distance = next((name for name in values if name.startswith("fd")), None)
    if distance is not None:
        value, floor = float(values[distance]["value"]), number(values[distance].get("floor"))
        if floor:
            note = f"1 is as near as real images are; {distance} {compact(value, 3)} over {compact(floor, 3)}"
            found.append(Figure(compact(value / floor, 3), "× floor", "distance from real", note))
        else:
            found.append(Figure(compact(value, 3), "", "distance from real", f"{distance}; no floor measured"))
    if "reconstruction_psnr" in values:
        note = "peak signal-to-noise ratio of the codec; more is better"
        found.append(Figure(f"{values['reconstruction_psnr']['value']:.1f}", "dB", "reconstruction", note))
    elif "reconstruction_mse" in values:
        note = "mean squared error of the codec, values in [−1, 1]"
        found.append(Figure(compact(values["reconstruction_mse"]["value"], 3), "mse", "reconstruction", note))
    if seconds is not None:
        value, unit = _clock(seconds)
        title, note = ("total time", "all stages") if all_stages else ("training time", "as logged")
        found.append(Figure(value, unit, title, note))
    return found


def facts(document: object, prefix: str = "") -> Iterator[Fact]:
    """Any JSON as names and values: nested names are joined, hashes are marked, seconds and bytes get their units."""
    if isinstance(document, dict):
        for name, value in document.items():
            yield from facts(value, f"{prefix} · {_words(name)}" if prefix else _words(name))
        return
    if isinstance(document, list) and any(isinstance(v, dict | list) for v in document):
        for k, value in enumerate(document):
            yield from facts(value, f"{prefix} {k + 1}")
        return
    last, finite = prefix.rpartition(" · ")[2], number(document)
    if finite is not None and last.endswith("seconds"):
        yield Fact(prefix, duration(finite))
    elif finite is not None and last.endswith("bytes"):
        yield Fact(prefix.removesuffix(" bytes"), f"{finite / 2**30:.1f} GiB")
    else:
        text = compact(document) if not last.endswith("seed") or finite is None else str(document)
        yield Fact(prefix, text, code=_HASH.fullmatch(text) is not None)


def _words(name: object) -> str:
    return str(name).replace("_", " ")
