"""Whose weights the samples of a run are of, and whether the metrics are of these samples."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["checkpoint_of", "otherwise_scored"]

_OTHERWISE_TOLD = ("data", "precision")  # knobs that the protocol tells in other words
_DIGEST = re.compile(r"sha256 ([0-9a-f]{8,64})")


def checkpoint_of(folder: Path, digest: str) -> tuple[str, str]:
    """What `gensys sample --checkpoint` would have to be given for the weights of this digest, "" for the newest; and a
    sentence, where they are not the newest. Weights are read only as far as it takes to find them."""
    steps = sorted((path.parent for path in folder.glob("checkpoints/*/COMMITTED")), reverse=True)
    places = [(str(int(path.name)), path / "average.safetensors") for path in steps if path.name.isdigit()]
    if not places:
        return "", ""
    made = [(f"ema:{path.stem}", path) for path in sorted(folder.glob("ema/*.safetensors"))]
    newest = places[0][0]
    for name, path in [*places, *made]:
        if _sha256(path) == digest:
            if name == newest:
                return "", ""
            whose = f"the average {name}" if name.startswith("ema:") else f"step {int(name):,}"
            return name, f"The samples are of the weights of {whose}; the newest are of step {int(newest):,}."
    return (
        "",
        "The samples are of weights that the run no longer holds: it was trained on, or anew, since they were drawn.",
    )


def otherwise_scored(drawn: Mapping[str, Any], total: int, protocol: object) -> list[str]:
    """What the protocol of the metrics has otherwise than the samples that are there; [] if they are those scored."""
    if not isinstance(protocol, dict):
        return []
    first, digest = drawn.get("first"), _DIGEST.search(str(protocol.get("weights", "")))
    knobs = drawn.get("knobs")
    here: dict[str, Any] = {"samples": total, "sample seed": drawn.get("seed")}
    here |= {"sample ids": f"{first}:{first + total}"} if isinstance(first, int) else {}
    here |= knobs if isinstance(knobs, dict) else {}
    found = [] if digest is None or str(drawn.get("weights", "")).startswith(digest[1]) else ["weights"]
    names = [name for name in here if name in protocol and name not in _OTHERWISE_TOLD]
    return found + [name for name in names if protocol[name] != here[name]]


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
