"""What can be wrong with a store on disk, found by reading all of it again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gensys.data import layout
from gensys.data.commits import INDEX
from gensys.errors import StoreError

if TYPE_CHECKING:
    from gensys.data.store import Store

__all__ = ["Problem", "check_index", "check_metadata", "check_shard"]


@dataclass(frozen=True)
class Problem:
    """Something that `verify` found. shard: its number, None = the whole store. array: its name, "" = all of them."""

    shard: int | None
    array: str
    what: str

    def __str__(self) -> str:
        where = "the store" if self.shard is None else f"shard {self.shard}"
        return f"{where}{f', {self.array}' if self.array else ''}: {self.what}"


def check_shard(store: Store, shard: int) -> list[Problem]:
    """Read one shard's files and compare them with what was committed."""
    try:
        record = store.commits.record(shard)
    except StoreError as error:
        return [Problem(shard, "", str(error))]
    if record is None:
        return [Problem(shard, "", "not committed")]
    if record["fingerprint"] != store.fingerprint:
        return [Problem(shard, "", f"made for the configuration {record['fingerprint']}, not {store.fingerprint}")]
    found = []
    for name in sorted(store.config.files):
        measured = store.place.measure(store.shard_file(name, shard))
        wanted = store.config.file_bytes(name)
        if measured is None:
            found.append(Problem(shard, name, "its file is missing"))
        elif measured[0] != wanted:
            found.append(Problem(shard, name, f"its file has {measured[0]} bytes instead of {wanted}"))
        elif measured[1] != record["digests"][name]:
            found.append(Problem(shard, name, "its content is not what was committed"))
    return found


def check_metadata(store: Store) -> list[Problem]:
    """Compare the metadata of every array with the copy that the group consolidates."""
    group, found = json.loads(store.place.read("zarr.json")), []
    for name, wanted in group["consolidated_metadata"]["metadata"].items():
        try:
            whole = json.loads(store.place.read(f"{name}/zarr.json")) == wanted
        except (OSError, ValueError):
            whole = False
        if not whole:
            found.append(Problem(None, name, "its zarr.json is missing or not that of the group"))
    return found


def check_index(store: Store) -> list[Problem]:
    """Compare the index of a sealed store with its digest, which the group holds."""
    if store.sealed:
        measured = store.place.measure(INDEX)
        if measured is None or measured[1] != store.content():
            return [Problem(None, layout.DIGESTS, "the index is not what was sealed")]
    return []
