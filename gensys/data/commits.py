"""Which shards of a store are committed, and to what content: the truth, of which the shard files are checked copies.

A commit is one small marker, a file of its own, so that writers need not wait for each other. Sealing gathers all of
them into one index, the array "digests" (a row of zeros = not in it), and takes the markers away: a store of a billion
rows is then as quick to open as a small one. Where both speak of a shard, the index holds.

The index is on the disk before a marker goes, so whoever looks at the markers first and at the index second misses
nothing. Taking commits back is clearing rows of the index, and removing markers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gensys.data import layout
from gensys.data.layout import COMMITS, DIGEST_BYTES, DIGESTS, Config
from gensys.data.place import Place
from gensys.durable import digest
from gensys.errors import StoreError

__all__ = ["INDEX", "Commits"]

INDEX = layout.shard_file(DIGESTS, 0, 2)


class Commits:
    """The commits in a place. What the index said when it was last read is kept: see `refresh`."""

    def __init__(self, place: Place, config: Config) -> None:
        self._place, self._config, self._names = place, config, sorted(config.files)
        self._index: npt.NDArray[np.uint8] | None = None

    def refresh(self) -> npt.NDArray[np.uint8]:
        """Read the index: (shards, arrays, 16) uint8, as much of it as there is, zeros for the rest."""
        index = np.zeros((self._config.shards, len(self._names), DIGEST_BYTES), np.uint8)
        try:
            data = self._place.read(INDEX)[: index.nbytes]
        except FileNotFoundError:
            data = b""
        index.reshape(-1)[: len(data)] = np.frombuffer(data, np.uint8)
        self._index = index
        return index

    def holds(self, shard: int) -> bool:
        """Whether the index holds a shard now. A store that was never sealed has none: then nothing is read."""
        return self._place.exists(INDEX) and bool(self.refresh()[shard].any())

    def done(self) -> set[int]:
        """The shards that are committed, as it is now."""
        return self._marked() | set(np.flatnonzero(self.refresh().any((1, 2))).tolist())

    def _marked(self) -> set[int]:
        names = (name.rpartition("/")[2] for name in self._place.list(COMMITS))
        return {int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()}

    def record(self, shard: int) -> dict[str, Any] | None:
        """{"shard", "rows", "fingerprint", "digests"} of a committed shard, else None.

        Raises StoreError if its marker is damaged. The index is that of the last `refresh`, unless no marker is there.
        """
        found = self._indexed(shard, self.refresh() if self._index is None else self._index)
        if found is None:
            found = self._read(shard)
        if found is None:
            found = self._indexed(shard, self.refresh())
        return found

    def _indexed(self, shard: int, index: npt.NDArray[np.uint8]) -> dict[str, Any] | None:
        row = index[shard]
        if not row.any():
            return None
        return self._of(shard, {name: row[k].tobytes().hex() for k, name in enumerate(self._names)})

    def _of(self, shard: int, digests: Mapping[str, str]) -> dict[str, Any]:
        config = self._config
        rows = min(config.shard, config.rows - shard * config.shard)
        return {"shard": shard, "rows": rows, "fingerprint": config.fingerprint, "digests": dict(digests)}

    def _read(self, shard: int) -> dict[str, Any] | None:
        name = layout.marker_file(shard)
        which = f"the commit marker {name!r} of {str(self._place)!r}"
        try:
            record = json.loads(self._place.read(name))
            sizes = {len(bytes.fromhex(d)) for d in record["digests"].values()}
            named = set(record["digests"]) == set(self._names) and sizes == {DIGEST_BYTES} and record["fingerprint"]
            if named and record == {**self._of(shard, record["digests"]), "fingerprint": record["fingerprint"]}:
                return record
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"the commit marker {name!r} of {str(self._place)!r} is damaged ({error}): repair"
            ) from error
        raise StoreError(f"{which} names other arrays, or is of another shard: repair the store")

    def publish(self, shard: int, digests: Mapping[str, str]) -> bool:
        """Commit a shard, whose files are there; False if it was committed before, perhaps to something else."""
        marker = layout.marker_file(shard)
        published = self._place.publish(marker, json.dumps(self._of(shard, digests), sort_keys=True).encode())
        if published and self.holds(shard):
            # The store was sealed since we looked. Nobody missed the marker before, so nobody will.
            self._place.remove([marker])
            return False
        return published

    def digests(self) -> npt.NDArray[np.uint8]:
        """The whole index, made of the markers and of the index that is there. StoreError if a shard is in neither."""
        index = np.zeros((self._config.shards, len(self._names), DIGEST_BYTES), np.uint8)
        for shard in self._marked():
            record = self._read(shard)
            if record is not None:
                index[shard] = [list(bytes.fromhex(record["digests"][name])) for name in self._names]
        there = self.refresh()
        known = np.asarray(there.any((1, 2)))
        index[known] = there[known]
        lacking = np.flatnonzero(index.any((1, 2)) == 0)
        if lacking.size:
            raise StoreError(f"shard {lacking[0]} of the store {str(self._place)!r} is not committed: finish the store")
        return index

    def gather(self) -> str:
        """Write the index of all commits, which must be there; returns its digest. The markers stay."""
        data = layout.encode_index(self.digests())
        self._place.replace(INDEX, data)
        return digest(data)

    def remove_markers(self, shards: Iterable[int] | None = None) -> None:
        """Of all shards, or of these."""
        self._place.remove(sorted(self._place.list(COMMITS)) if shards is None else map(layout.marker_file, shards))

    def take_back(self, shards: Iterable[int]) -> None:
        """Uncommit shards."""
        shards, index = list(shards), self.refresh()
        self.remove_markers(shards)
        if self._place.exists(INDEX):
            index[shards] = 0
            self._place.replace(INDEX, layout.encode_index(index))
