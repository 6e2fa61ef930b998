"""The columns of a table, one by one: where the values of samples lie beside those of real rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gensys.report.plots import enough_digits, shares, spans
from gensys.report.reading import Contents, number
from gensys.report.scores import compact
from gensys.report.templates import markup

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["ColumnRow", "table_columns"]

_LEVELS = ("0.05", "0.25", "0.5", "0.75", "0.95")
_CATEGORIES = 6  # that are drawn of a column, the most frequent ones; more are told as a number


@dataclass(frozen=True)
class ColumnRow:
    """One column. score: how alike the two laws are, 1 = equal, with its `measure`. samples, real: in words."""

    name: str
    measure: str
    score: str
    plot: Markup
    samples: str
    real: str


def table_columns(found: Contents) -> list[ColumnRow]:
    """The columns that an evaluation of a table tells of, the least alike first; [] of all else."""
    told = None if found.evaluation is None else found.evaluation.get("columns")
    rows = [row for column in told if isinstance(column, dict) and (row := _row(column))] if told else []
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def _row(column: Mapping[str, Any]) -> tuple[float, ColumnRow] | None:
    """(its score, the row); None of a column that is told in another way."""
    name = str(column.get("column", ""))
    numbers = isinstance(column.get("quantiles"), dict)
    measure = "ks_complement" if numbers else "tv_complement"
    score = number(column.get(measure))
    if score is None:
        return None
    made = _numbers(column["quantiles"]) if numbers else _categories(column.get("shares"))
    return None if made is None else (score, ColumnRow(name, measure, compact(score, 3), *made))


def _numbers(quantiles: Mapping[str, Any]) -> tuple[Markup, str, str] | None:
    levels = [quantiles.get(level) for level in _LEVELS]
    pairs = [(number(q.get("samples")), number(q.get("real"))) for q in levels if isinstance(q, dict)]
    known = [(p, q) for p, q in pairs if p is not None and q is not None]
    if len(known) < len(_LEVELS):
        return None
    samples, real = [p for p, _ in known], [q for _, q in known]
    spread = max(samples[-1] - samples[0], real[-1] - real[0])
    digits = enough_digits([*samples, *real], spread / 100)
    return markup(spans(samples, real)), _median(samples, digits), _median(real, digits)


def _median(values: list[float], digits: int) -> str:
    low, _, middle, _, high = (compact(value, digits) for value in values)
    return f"{middle} ({low} to {high})"


def _categories(told: object) -> tuple[Markup, str, str] | None:
    pairs = [
        (str(name), p, q)
        for name, share in (told.items() if isinstance(told, dict) else ())
        if isinstance(share, dict)
        and (p := number(share.get("samples"))) is not None
        and (q := number(share.get("real"))) is not None
    ]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: -pair[2])
    shown = pairs[:_CATEGORIES]
    most_of_samples = max(pairs, key=lambda pair: pair[1])
    rest = f"; {len(pairs) - len(shown)} more" if len(pairs) > len(shown) else ""
    return (
        markup(shares(shown)),
        f"{most_of_samples[0]} {100 * most_of_samples[1]:.0f} %",
        f"{pairs[0][0]} {100 * pairs[0][2]:.0f} %{rest}",
    )
