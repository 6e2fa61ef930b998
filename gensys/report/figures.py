"""What the report draws: pictures as data URIs, curves and intervals as inline SVG.

SVG is written here by hand: its colours are the page's own (CSS), so curves follow light and dark, and a page with ten
of them needs no plotting library and is the same text for the same numbers.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image as Frame

__all__ = ["Picture", "curve", "frames", "interval", "picture", "scatter", "sheet", "spread"]

T = TypeVar("T")

_POINTS = 400  # of a curve: more cannot be seen at this size
_SMOOTH = 0.02  # half-width of the smoothing kernel, as a fraction of the horizontal axis


@dataclass(frozen=True)
class Picture:
    """An image inside the page. uri: its bytes. width, height: in CSS pixels, at which one pixel is one pixel."""

    uri: str
    width: int
    height: int


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` items, evenly spread, the first and the last among them."""
    last = len(items) - 1
    return [items[k] for k in sorted({round(k * last / (count - 1)) for k in range(count)})] if items else []


def _uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def picture(path: Path) -> Picture | None:
    """A PNG file as it is, animation included; None if it is no whole PNG."""
    from PIL import Image

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            return Picture(_uri(data), image.width, image.height)
    # Pillow tells of damage by any of these, depending on where it is; SyntaxError is a broken chunk.
    except (OSError, ValueError, SyntaxError):
        return None


def frames(path: Path, count: int) -> list[Picture]:
    """At most `count` frames of an animated PNG as stills, the last among them; [] if it is no whole PNG."""
    from PIL import Image, ImageSequence

    try:
        with Image.open(path, formats=["PNG"]) as image:
            every = [frame.copy() for frame in ImageSequence.Iterator(image)]
            return [_still(frame) for frame in spread(every, count)]
    except (OSError, ValueError, SyntaxError):
        return []


def _still(image: Frame) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", save_all=False)
    return Picture(_uri(buffer.getvalue()), image.width, image.height)


def sheet(images: npt.NDArray[np.uint8], columns: int) -> Picture:
    """uint8 (N, C, H, W), C = 1 or 3, in rows; small images enlarged by a whole number; gaps are transparent."""
    import numpy as np
    from PIL import Image

    n, channels, height, width = images.shape
    scale = max(1, min(8, round(960 / (columns * (width + 1)))))
    rows, gap = math.ceil(n / columns), 1
    opaque = np.full((n, 1, height, width), 255, np.uint8)
    cells = np.concatenate([images, opaque], axis=1).transpose(0, 2, 3, 1)
    canvas = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, channels + 1), np.uint8)
    for k, cell in enumerate(cells):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        canvas[top : top + height, left : left + width] = cell
    big = Image.fromarray(canvas.repeat(scale, axis=0).repeat(scale, axis=1))
    buffer = io.BytesIO()
    big.save(buffer, format="PNG")
    return Picture(_uri(buffer.getvalue()), big.width, big.height)


# ----------------------------------------------------------------------------------------------------------------- SVG


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


def _short(value: float) -> str:
    """12k, 3.5M, 0.02, 2e-05."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


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


def curve(
    points: list[tuple[float, float]], title: str, *, height: int = 220, width: int = 460, linear: bool = False
) -> str:
    """An SVG of (images seen, value): the values faint, their average strong; a logarithmic axis over a wide range.

    title: what a screen reader says of it; it may hold anything, it is escaped. linear: never logarithmic.
    """
    points = _thin(points)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    smooth = _smoothed(xs, ys)
    low, high = min(ys), max(ys)
    log = not linear and low > 0 and high / low > 8
    if not log and low > 0 and low < 0.6 * high:
        low = 0.0  # a curve that falls far is read against zero
    ticks = _nice_log(low, high) if log else _nice(low, high, 4 if height > 150 else 2)
    left, right, top, bottom = 46, 10, 8, 22
    span_x = (xs[-1] - 0.0) or 1.0

    def across(x: float) -> float:
        return left + (width - left - right) * x / span_x

    def down(y: float) -> float:
        a, b, v = (math.log(low), math.log(high), math.log(max(y, low))) if log else (low, high, y)
        part = 0.5 if b == a else (v - a) / (b - a)
        return height - bottom - (height - top - bottom) * part

    def line(values: Sequence[float], name: str) -> str:
        d = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in zip(xs, values, strict=True))
        return f'<polyline class="{name}" points="{d}"/>'

    out = [f'<svg class="curve" viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}">']
    for y in ticks:
        out.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{down(y):.1f}" y2="{down(y):.1f}"/>')
        out.append(f'<text x="{left - 8}" y="{down(y) + 4:.1f}" text-anchor="end">{_short(y)}</text>')
    out += [
        f'<text x="{across(x):.1f}" y="{height - 4}" text-anchor="middle">{_short(x)}</text>'
        for x in _nice(0.0, xs[-1], 4)
    ]
    if len(points) > 1:
        out += [line(ys, "raw"), line(smooth, "line")]
    out.append(f'<circle class="dot" cx="{across(xs[-1]):.1f}" cy="{down(smooth[-1]):.1f}" r="3"/></svg>')
    return "".join(out)


def interval(value: float, low: float | None, high: float | None, floor: float | None) -> str:
    """A small SVG from zero on: the value as a dot, its interval as a bar, what real images get as an upright line."""
    width, middle = 150, 9
    end = max(v for v in (value, high, floor) if v is not None) * 1.06 or 1.0

    def across(v: float) -> float:
        return 4 + (width - 8) * v / end

    out = [f'<svg class="interval" viewBox="0 0 {width} 18" aria-hidden="true">']
    out.append(f'<line class="grid" x1="4" x2="{width - 4}" y1="{middle}" y2="{middle}"/>')
    if floor is not None:
        out.append(f'<line class="floor" x1="{across(floor):.1f}" x2="{across(floor):.1f}" y1="1" y2="17"/>')
    if low is not None and high is not None:
        out.append(f'<line class="bar" x1="{across(low):.1f}" x2="{across(high):.1f}" y1="{middle}" y2="{middle}"/>')
    out.append(f'<circle class="dot" cx="{across(value):.1f}" cy="{middle}" r="3.5"/></svg>')
    return "".join(out)


def scatter(
    points: Sequence[tuple[float, float, str]], across: str, up: str, *, logarithmic: bool = False, side: int = 420
) -> str:
    """An SVG of (x, y, name): a dot for each, its name beside it. across, up: what the axes are. logarithmic: both;
    points that are not positive are then left out."""
    shown = [point for point in points if not logarithmic or min(point[:2]) > 0]
    left, right, top, bottom = 54, 90, 10, 40
    scale = math.log if logarithmic else float

    def axis(values: Sequence[float], begin: float, end: float) -> tuple[dict[float, float], Sequence[float]]:
        """Where each value lies, and the ticks with their places."""
        low, high = min(values), max(values)
        if logarithmic:
            low, high = low / 1.3, high * 1.3
        else:
            margin = 0.05 * (high - low) or 0.1
            low, high = low - margin, high + margin
        ticks = _nice_log(low, high) if logarithmic else _nice(low, high, 4)
        width = scale(high) - scale(low)
        return {v: begin + (end - begin) * (scale(v) - scale(low)) / width for v in (*values, *ticks)}, ticks

    out = [
        f'<svg class="scatter" viewBox="0 0 {side} {side}" width="{side}" role="img" aria-label="{html.escape(up)}">'
    ]
    if shown:
        x_at, x_ticks = axis([x for x, *_ in shown], left, side - right)
        y_at, y_ticks = axis([y for _, y, _ in shown], side - bottom, top)
        for x in x_ticks:
            out.append(f'<line class="grid" x1="{x_at[x]:.1f}" x2="{x_at[x]:.1f}" y1="{top}" y2="{side - bottom}"/>')
            out.append(f'<text x="{x_at[x]:.1f}" y="{side - bottom + 14}" text-anchor="middle">{_short(x)}</text>')
        for y in y_ticks:
            out.append(f'<line class="grid" x1="{left}" x2="{side - right}" y1="{y_at[y]:.1f}" y2="{y_at[y]:.1f}"/>')
            out.append(f'<text x="{left - 6}" y="{y_at[y] + 4:.1f}" text-anchor="end">{_short(y)}</text>')
        for x, y, name in shown:
            out.append(f'<circle class="dot" cx="{x_at[x]:.1f}" cy="{y_at[y]:.1f}" r="4"/>')
            out.append(f'<text class="name" x="{x_at[x] + 7:.1f}" y="{y_at[y] + 4:.1f}">{html.escape(name)}</text>')
    middle, name = (left + side - right) / 2, html.escape(up)
    out.append(f'<text x="{middle:.1f}" y="{side - 8}" text-anchor="middle">{html.escape(across)}</text>')
    out.append(f'<text transform="translate(12 {side / 2}) rotate(-90)" text-anchor="middle">{name}</text></svg>')
    return "".join(out)
