"""How results are put into words: names and values, scores, what a store holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gensys.data.where import Where, is_url, resolved
from gensys.terminal import Answer, columns, duration, quoted, size

if TYPE_CHECKING:
    from gensys.data.store import Store

__all__ = ["combined", "facts", "next_verb", "number", "scores", "store_answer"]


def store_answer(store: Store, following: str, counts: Mapping[str, Mapping[str, int]]) -> Answer:
    """What a finished store holds, the command to go on with, and (for --json) what was counted on the way."""
    arrays = {name: {"dtype": spec.dtype, "shape": list(spec.shape)} for name, spec in store.config.arrays.items()}
    kinds = {"mean": "latent", "codes": "latent", "z": "sampled latent", "x": "sample"}
    name, what = next((name, what) for name, what in kinds.items() if name in arrays)
    text = f"{len(store):,} {what}{'' if len(store) == 1 else 's'} of {'x'.join(map(str, arrays[name]['shape']))} "
    text += (
        f"{arrays[name]['dtype']}{' with labels' if store.attributes.get('classes') else ''} in {quoted(store.where)}"
    )
    for kind, suffix in (("picture", ".png"), ("table", ".csv")):
        beside = store.path.with_suffix(suffix)
        here = what == "sample" and not is_url(store.where) and beside.exists()
        text += f"; {kind}: {quoted(beside)}" if here else ""
    return Answer(
        {"store": resolved(store.where), "rows": len(store), "shards": store.config.shards, "arrays": arrays}
        | {"counts": counts},
        f"{text}\nnext: {following}",
    )


def next_verb(samples: Where) -> str:
    """What is done with samples: scores are written beside them, so those in a bucket are verified only."""
    return "verify" if is_url(samples) else "evaluate"


def scores(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """The numbers, then what each one is."""
    rows = [["metric", "value", "95 % interval", "real data", "better", "rows"]]
    for name, metric in metrics.items():
        interval = "" if metric["low"] is None else f"{number(metric['low'])} .. {number(metric['high'])}"
        value = f"{number(metric['value'])} {metric['unit']}".rstrip()
        floor = number(metric["floor"]) + (f" +- {metric['spread']:.2g}" if metric.get("spread") else "")
        rows.append([name, value, interval, floor, metric["better"], f"{metric['n']:,}"])
    about = columns([[name, metric["about"]] for name, metric in metrics.items()])
    return f"{columns(rows)}\n\n{about}"


def facts(facts: Mapping[str, object]) -> str:
    """Names and values; where a name ends in a unit, the value gets it."""
    return columns(list(_flat(facts)))


def _flat(facts: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in facts.items():
        title = prefix + name.replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{title}, ")
        elif isinstance(value, int | float) and not isinstance(value, bool) and "seconds" in name:
            if name == "estimated_seconds":
                whole = duration(round(value / 60) * 60).removesuffix(" 00 s")
                yield "time", f"about {whole if value >= 600 else duration(value)}"
            else:
                yield title.replace("seconds", "time"), duration(value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and "bytes" in name:
            yield title.removesuffix(" bytes"), size(value)
        else:
            yield title, number(value)


def number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return (
        f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else "" if value is None else str(value)
    )


def combined(answers: Sequence[Answer]) -> Answer:
    """The answers about several stores that are one; of a single one, its own."""
    if len(answers) == 1:
        return answers[0]
    text = "\n\n".join(answer.text for answer in answers)
    return Answer({"stores": [answer.document for answer in answers]}, text, max(answer.code for answer in answers))
