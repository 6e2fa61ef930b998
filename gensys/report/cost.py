"""What a run has cost: time, rows, rows a second and memory, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gensys.report.reading import Contents, Training, number
from gensys.report.scores import compact, duration

__all__ = ["Cost", "Stage", "costs", "stages"]


@dataclass(frozen=True)
class Cost:
    """A row of the table, as text. rate: rows a second."""

    name: str
    seconds: str
    rows: str
    rate: str
    memory: str


@dataclass(frozen=True)
class Stage:
    """A bar of the time line; left and width in per cent of the total."""

    name: str
    seconds: str
    detail: str
    left: float
    width: float


def costs(found: Contents) -> list[Cost]:
    """Of the trainings, as they were logged, of what was encoded and drawn with them, and of the scoring."""
    known = [(found.codec, "train the codec"), (found.run, "train the model" if found.codec else "train")]
    rows: list[Cost] = []
    for training, name in known:
        if training is not None:
            rows += [cost for cost in (_training(training, name),) if cost is not None]
            rows += _spent(training)
    scored = None if found.evaluation is None else number(found.evaluation.get("seconds"))
    if scored is not None and found.drawn is not None:
        rows.append(Cost("score the samples", duration(scored), compact(found.drawn.total), "–", "–"))
    return rows


def _training(training: Training, name: str) -> Cost | None:
    seconds, images = training.seconds, training.images
    if seconds is None:
        return None
    rate = images / seconds if images and seconds > 0 else None
    peak = training.peak_bytes
    return Cost(
        name, duration(seconds), compact(images), compact(rate, 3), "–" if peak is None else f"{peak / 2**20:,.0f} MiB"
    )


def _spent(training: Training) -> list[Cost]:
    """What verbs took that used this run, those that had as many workers together."""
    sums: dict[tuple[str, int], tuple[int, float]] = {}
    for line in training.spent:
        workers, rows, seconds = (number(line.get(name)) for name in ("workers", "rows", "seconds"))
        if workers is not None and rows is not None and seconds is not None:
            key = str(line.get("verb")), int(workers)
            before = sums.get(key, (0, 0.0))
            sums[key] = before[0] + int(rows), before[1] + seconds
    return [
        Cost(
            f"{verb}, {workers} workers" if workers > 1 else verb,
            duration(seconds),
            compact(rows),
            compact(rows / seconds, 3) if seconds > 0 else "–",
            "–",
        )
        for (verb, workers), (rows, seconds) in sums.items()
    ]


def stages(found: Contents) -> tuple[float | None, list[Stage]]:
    """The total and the bars. Without stages.json there are no bars, and the total is the training that was logged."""
    timed: list[tuple[Mapping[str, Any], float]] = [
        (s, seconds) for s in found.stages if (seconds := number(s.get("seconds"))) is not None and seconds >= 0
    ]
    if not timed:
        known = [t.seconds for t in (found.codec, found.run) if t is not None and t.seconds is not None]
        return (sum(known) if known else None), []
    total, begun, bars = sum(s for _, s in timed), 0.0, []
    for stage, seconds in timed:
        share = 100 / total if total > 0 else 0.0
        name, detail = str(stage.get("stage", "")), str(stage.get("detail") or "")
        bars.append(Stage(name, duration(seconds), detail, round(begun * share, 2), round(seconds * share, 2)))
        begun += seconds
    return total, bars
