"""The negative control: a writer without the commit protocol, to show that the chaos tests see what it prevents.

It writes a shard in its place, piece by piece, and takes "the file is there" for "the shard is done". In the end what
is there becomes a store like any other: rows that were never written are zeros.
"""

import os
import time
from pathlib import Path

import numpy as np

from gensys.data.store import Store

PIECES = 8


def _in_place(store, shard):
    return Path(store.path) / "label" / f"c.raw.{shard}"  # counted as progress where the shard's own file would be


def _commit(store, shard, arrays):
    if "label" not in store.config.arrays:  # not the store that is made, but one of notes on the way
        return commit(store, shard, arrays)
    if _in_place(store, shard).exists():
        return False
    data = b"".join(arrays[name].tobytes() for name in sorted(arrays))
    with open(_in_place(store, shard), "wb", buffering=0) as file:
        for k in range(PIECES):
            file.write(data[k * len(data) // PIECES : (k + 1) * len(data) // PIECES])
            time.sleep(3 * float(os.environ.get("CHAOS_PAUSE", "0")) / PIECES)  # most of a shard's time: it is hit
    return True


def _missing(store):
    if "label" not in store.config.arrays:
        return missing(store)
    left = [shard for shard in missing(store) if not _in_place(store, shard).exists()]
    if not left:
        for shard in missing(store):
            commit(store, shard, _read(store, shard))
            _in_place(store, shard).unlink()
    return left


def _read(store, shard):
    data, rows = _in_place(store, shard).read_bytes(), len(store.rows_of(shard))
    arrays, at = {}, 0
    for name, spec in sorted(store.config.files.items()):
        count = 1 if name in store.config.summaries else rows
        size = count * spec.row_bytes
        part, at = data[at : at + size].ljust(size, b"\0"), at + size
        arrays[name] = np.frombuffer(part, spec.dtype).reshape(count, *spec.shape)
    return arrays


if not hasattr(Store, "whole"):  # this file may be executed more than once
    Store.whole = Store.commit, Store.missing
commit, missing = Store.whole
Store.commit, Store.missing = _commit, _missing
