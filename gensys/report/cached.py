"""What is made for a report once, from the samples and the data, and kept in the run's folder as JSON.

Each file says what it was made from. One that was made from other samples, or other data, is as good as none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gensys import durable
from gensys.errors import GensysError

__all__ = ["MAP", "NEIGHBOURS", "TRAJECTORY", "complete", "keep", "kept", "origin"]

MAP, NEIGHBOURS, TRAJECTORY = "map.json", "neighbours.json", "trajectory.json"


def origin(folder: Path) -> dict[str, str] | None:
    """What pictures of a run's samples are made from: the content of samples.zarr, and that of the data as run.json
    has it. None if there are no finished samples. No row is read for it."""
    from gensys.data.store import Store

    path = folder / "samples.zarr"
    if not path.exists():
        return None
    try:
        store = Store.open(path)
        if not store.sealed:
            return None
        document = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return {"samples": store.content(), "data": str(document.get("data", {}).get("fingerprint", ""))}
    except (GensysError, OSError, ValueError, AttributeError):  # as damaged samples are: the report tells of them
        return None


def complete(folder: Path) -> bool:
    """Whether all that can be made of a run's samples is there; also where there are no finished samples."""
    made_from = origin(folder)
    return made_from is None or all(kept(folder / name, made_from) is not None for name in (MAP, NEIGHBOURS))


def keep(path: Path, made_from: Mapping[str, str], document: Mapping[str, Any]) -> None:
    """Write what was made."""
    durable.replace(path, durable.with_digest({"made_from": dict(made_from), **document}))


def kept(path: Path, made_from: Mapping[str, str] | None) -> dict[str, Any] | None:
    """What was made from this; None if it was not yet, or from something else, or if the file is damaged."""
    try:
        document = durable.without_digest(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and document.get("made_from") == made_from else None
