"""What every row of a latent store is to hold: which item of the source, under which name, to be computed or kept.

The one who starts an encoding knows all of this (names, digests, what is quarantined) from reading the source once. It
is written down beside the store, as a store of its own, so that workers look up their rows without reading any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from gensys.data.source import Source
from gensys.data.store import ArraySpec, Store
from gensys.data.where import Where
from gensys.errors import StoreError

__all__ = ["GOOD", "QUARANTINED", "REMOVED", "STATES", "Manifest", "found_in", "from_bytes", "names_of", "to_bytes"]

GOOD, QUARANTINED, REMOVED = 0, 1, 2
STATES = ("good", "quarantined", "removed")
_WIDTH = 64  # names have a multiple of so many bytes: a name that is a little longer need not change every shard
_PART = 65536  # rows asked for, and written, at once: a file of names has 4 MB, or a few times as many


def to_bytes(names: Sequence[str], width: int = 0) -> npt.NDArray[np.uint8]:
    """Names as rows of UTF-8 filled up with zeros, (n, W) uint8; W: a multiple of 64, at least `width`.

    Bytes of file names that are no UTF-8 are kept (PEP 383). Raises StoreError for a name with a zero byte.
    """
    raw = [name.encode("utf-8", "surrogateescape") for name in names]
    if bad := [name for name, data in zip(names, raw, strict=True) if b"\0" in data]:
        raise StoreError(f"the name {bad[0]!r} of an item holds a zero byte: rename it")
    width = max(width, -(-max((len(data) for data in raw), default=0) // _WIDTH) * _WIDTH, _WIDTH)
    return np.array(raw, f"S{width}").view(np.uint8).reshape(len(raw), width)


def from_bytes(rows: npt.NDArray[np.uint8]) -> list[str]:
    """The inverse of `to_bytes`."""
    return [bytes(row).rstrip(b"\0").decode("utf-8", "surrogateescape") for row in rows]


def found_in(there: npt.NDArray[np.uint8], wanted: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Where each row of `wanted` (m, W) stands among those of `there` (n, W), n >= 1: (m,), -1 = nowhere."""
    # rows of one width differ as such bytes do, though the zeros at their ends are not compared
    keys, asked = (np.ascontiguousarray(a).view(f"S{a.shape[1]}").ravel() for a in (there, wanted))
    order = keys.argsort(kind="stable")  # of several that are equal the first one
    at = order[np.minimum(np.searchsorted(keys, asked, sorter=order), len(keys) - 1)]
    return np.where(keys[at] == asked, at, -1)


@dataclass(frozen=True)
class Manifest:
    """One entry for each row of a store.

    source: (n,) int64, the row's number in the source; -1 = it is no longer there. digest: (n, 16) uint8, of the item.
    state: (n,) uint8, GOOD, QUARANTINED (zeros) or REMOVED. name: (n, W) uint8, see `to_bytes`.
    todo: (n,) bool, to be computed; the others are those of the store that is updated.
    kept: rows of that store, 0 without one. marked: (n,) bool, removed by this update.
    classes: of the labels in the store; those of the source, after those that the store had.
    """

    source: npt.NDArray[np.int64]
    digest: npt.NDArray[np.uint8]
    state: npt.NDArray[np.uint8]
    name: npt.NDArray[np.uint8]
    todo: npt.NDArray[np.bool_]
    marked: npt.NDArray[np.bool_]
    kept: int
    classes: tuple[str, ...]

    @classmethod
    def fresh(cls, source: Source) -> Manifest:
        """Every row of a source, in its order."""
        n = len(source)
        return cls(
            source=np.arange(n),
            digest=source.digests(),
            state=_states(source),
            name=names_of(source),
            todo=np.ones(n, np.bool_),
            marked=np.zeros(n, np.bool_),
            kept=0,
            classes=tuple(source.classes),
        )

    @classmethod
    def updated(cls, source: Source, old: Store) -> Manifest:
        """The rows of a store, by name, as the source is now; what is new comes after them, in the source's order.

        A row keeps its place for ever, so whatever was trained on it, held out from it or drawn for it stays true.
        Raises StoreError if two items have one name, or if new ones would fall into an official test set.
        """
        n = len(old)
        everything = np.arange(n)
        theirs = old.read("name", everything)
        ours = names_of(source, theirs.shape[1])
        width = ours.shape[1]
        theirs = np.pad(theirs, ((0, 0), (0, width - theirs.shape[1])))
        at = found_in(theirs, ours)
        new = at < 0
        if source.first_test is not None and new.any():
            raise StoreError(
                f"{source.name!r} has an official test set from row {source.first_test} on, where the "
                f"{int(new.sum())} new rows would be counted in: encode into another store"
            )
        at[new] = n + np.arange(int(new.sum()))
        total = n + int(new.sum())
        rest = total - n
        before = np.concatenate([old.read("state", everything), np.full(rest, REMOVED, np.uint8)])
        digest = np.concatenate([old.read("digest", everything), np.zeros((rest, 16), np.uint8)])
        numbers, state = np.full(total, -1), np.full(total, REMOVED, np.uint8)
        numbers[at], state[at] = np.arange(len(source)), _states(source)
        now = digest.copy()
        now[at] = source.digests()
        name = np.concatenate([theirs, np.zeros((rest, width), np.uint8)])
        name[at] = ours
        changed = (state != before) | (now != digest).any(1)
        changed[n:] = True
        gone = numbers < 0
        had = tuple(old.attributes["classes"])
        classes = had + tuple(c for c in source.classes if c not in had)
        return cls(numbers, now, state, name, changed & ~gone, changed & gone, n, classes)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def touched(self) -> npt.NDArray[np.bool_]:
        """The rows that are not as they were."""
        return self.todo | self.marked

    @property
    def counts(self) -> dict[str, int]:
        """How many rows an update appends, encodes again and marks as removed."""
        appended = len(self) - self.kept
        return {"appended": appended, "again": int(self.todo.sum()) - appended, "marked": int(self.marked.sum())}

    def write(self, path: Where, chunk: int, identity: str) -> Store:
        """Put it into a store at `path`, or go on with one that was begun for the same `identity`.

        Its files are as long as `_PART` allows, whatever the shards of the latents: no worker begins before it is
        written, and with a file for each of many small shards that took longer than the look at the data.
        """
        shard = min(max(1, _PART // chunk), -(-len(self) // chunk)) * chunk
        arrays = {
            "source": self.source,
            "digest": self.digest,
            "state": self.state,
            "name": self.name,
            "todo": self.todo.astype(np.uint8),
        }
        specs = {name: ArraySpec(a.shape[1:], a.dtype.name) for name, a in arrays.items()}
        attributes = {"kind": "manifest", "of": identity, "classes": list(self.classes), "kept": self.kept}
        store = Store.create(path, specs, len(self), shard, chunk, attributes)
        for k in store.missing():
            rows = store.rows_of(k)
            store.commit(k, {name: a[rows.start : rows.stop] for name, a in arrays.items()})
        return store


def _states(source: Source) -> npt.NDArray[np.uint8]:
    state = np.full(len(source), GOOD, np.uint8)
    state[list(source.quarantine())] = QUARANTINED
    return state


def names_of(source: Source, width: int = 0) -> npt.NDArray[np.uint8]:
    """All names of a source as `to_bytes` gives them, (n, W), W >= width; StoreError if two are the same."""
    parts = [to_bytes(source.named(rows), width) for rows in torch.arange(len(source)).split(_PART)]
    width = max(part.shape[1] for part in parts)
    names = np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts])
    ordered = np.sort(names.view(f"S{width}").ravel())
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    if same.size:
        raise StoreError(
            f"two items of {source.name!r} are called {bytes(ordered[same[0]]).decode(errors='replace')!r}"
        )
    return names
