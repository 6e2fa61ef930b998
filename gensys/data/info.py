"""What a store is and how far it is, read from its metadata, its markers and the small arrays of its rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from gensys.data.channel_moments import MIRROR
from gensys.data.latents import states
from gensys.data.manifest import STATES, from_bytes
from gensys.data.store import KEY, Store
from gensys.data.text import text_path
from gensys.data.where import Where, is_url, resolved

__all__ = ["describe"]


def describe(path: Where) -> dict[str, Any]:
    """A store, finished or not, as JSON values. Of rows, only those of committed shards are counted.

    Raises StoreError if there is no store of gensys at `path`.
    """
    store = Store.open(path)
    config, attributes, done = store.config, store.attributes, sorted(store.done())
    arrays = {
        name: {
            "dtype": attributes.get("logical_dtype", {}).get(name, spec.dtype),
            "shape": [config.sizes(name)[0], *spec.shape],
            "bytes": config.shards * config.file_bytes(name),
        }
        for name, spec in sorted(config.files.items())
    }
    found: dict[str, Any] = {
        "store": resolved(store.where),
        "kind": attributes.get("kind", "unknown"),
        "rows": len(store),
        "sealed": store.sealed,
        "shards": config.shards,
        "shards_committed": len(done),
        "rows_per_shard": config.shard,
        "rows_per_chunk": config.chunk,
        "bytes": sum(a["bytes"] for a in arrays.values()),
        "fingerprint": store.fingerprint,
        "arrays": arrays,
    }
    if "state" in config.arrays:
        found["states"] = attributes["states"] if "states" in attributes else states(store)
    if classes := attributes.get("classes"):
        found["classes"] = _classes(store, classes, done)
    for name in ("source", "codec", "codebook", "updated_from", "normalisation", "buckets"):
        if name in attributes:
            found[name] = attributes[name]
    if found["kind"] == "latents":
        found["mirrored"] = any(name.endswith(MIRROR) for name in config.arrays)
    if reasons := attributes.get("quarantine"):
        names = from_bytes(store.read("name", np.array([r["row"] for r in reasons])))
        found["quarantine"] = [{**r, "name": name} for r, name in zip(reasons, names, strict=True)]
    if found["kind"] == "latents" and not is_url(path) and text_path(store.path).exists():
        found["texts"] = {
            name: describe(text_path(store.path) / name)["arrays"] for name in ("rows", "texts", "tokens")
        }
    known = {*found, KEY, "normalisation_digest", "digested", "logical_dtype"}
    if other := {name: value for name, value in attributes.items() if name not in known}:
        found["made_from"] = other
    return found


def _classes(store: Store, classes: list[str], done: list[int]) -> dict[str, int]:
    """How many good rows each class has."""
    counts = np.zeros(len(classes), np.int64)
    for shard in done if "label" in store.config.arrays else ():
        rows = store.rows_of(shard)
        label = store.read("label", rows)
        if "state" in store.config.arrays:
            label = label[store.read("state", rows) == STATES.index("good")]
        counts += np.bincount(label[label >= 0], minlength=len(classes))[: len(classes)]
    return dict(zip(classes, counts.tolist(), strict=True))
