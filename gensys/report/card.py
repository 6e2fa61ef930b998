"""The data card: what a run was trained on, as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gensys.report.reading import Contents, Training, number
from gensys.report.recipe import Places
from gensys.report.scores import Fact, compact

__all__ = ["data_card", "data_of"]

_NAMED = 5  # rows that could not be read, with their reasons


def data_of(training: Training) -> Mapping[str, Any]:
    """What run.json says of the data; {} if nothing."""
    data = training.document.get("data")
    return data if isinstance(data, dict) else {}


def data_card(found: Contents, places: Places) -> list[Fact]:
    """The facts. Of a model of latents, those of the images that its codec was trained on, then those of the latents.

    What an older run does not say is left out: that no licence is known is said only where the source was asked.
    """
    rows = _facts(found.codec or found.run, places)
    if found.codec is not None:
        data = data_of(found.run)
        about = str(data.get("about") or "–")
        images = str(data_of(found.codec).get("about") or "")
        rows.append(Fact("latents", places(about.replace(images, "these data") if images else about)))
        rows += [Fact("latents · fingerprint", str(data["fingerprint"]), code=True)] if "fingerprint" in data else []
        rows += _split(found.run, "latents · ")
    return rows


def _facts(training: Training, places: Places) -> list[Fact]:
    data = data_of(training)
    if not data:
        return []
    rows = [Fact("name", places(data.get("name") or "–")), Fact("what it is", places(data.get("about") or "–"))]
    if "licence" in data or "rows" in data:
        rows.append(Fact("licence", str(data.get("licence") or "the source states none")))
    if isinstance(shape := data.get("shape"), list):
        rows.append(Fact("one datum", " × ".join(map(str, shape))))
    if number(data.get("classes")):
        rows.append(Fact("classes", compact(data["classes"])))
    rows += _split(training, "")
    rows += [Fact("fingerprint", str(data["fingerprint"]), code=True)] if "fingerprint" in data else []
    quarantined = data.get("quarantined")
    if isinstance(quarantined, list):
        rows.append(
            Fact("damaged", f"{len(quarantined):,} rows that cannot be read are left out: {_named(quarantined)}")
        )
    elif "rows" in data:
        rows.append(Fact("damaged", "none"))
    return rows


def _split(training: Training, prefix: str) -> list[Fact]:
    """Of how many rows it was trained on how many, and how the others were chosen."""
    data, trained = data_of(training), number(training.document.get("train_rows"))
    rows = [] if number(data.get("rows")) is None else [Fact(f"{prefix}rows", compact(data["rows"]))]
    rows += [] if trained is None else [Fact(f"{prefix}trained on", compact(int(trained)))]
    if number(data.get("held_out")) is not None:
        rows.append(Fact(f"{prefix}held out", f"{compact(data['held_out'])}: {data.get('split') or 'unknown how'}"))
    return rows


def _named(quarantined: list[Any]) -> str:
    named = [f"{q.get('item', '?')} ({q.get('why', '?')})" for q in quarantined[:_NAMED] if isinstance(q, dict)]
    return "; ".join(named) + ("; …" if len(quarantined) > _NAMED else "")
