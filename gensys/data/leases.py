"""Which shards other drivers are at: hints, so that several of them that fill one store do little work twice.

A driver keeps one small file in the store with the shards it handed out last and the time until which that may be
believed. Nothing depends on it: a shard that another seems to be at is put off, and done at the end if it is still
missing then, as a backup of a worker that may be slow or dead (Dean and Ghemawat, 2004, "MapReduce", section 3.6). So
a lease that is stale, wrong or garbage changes the order of the work, and a lost one costs a shard made twice, which
is committed once all the same.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from gensys.data.layout import LEASES
from gensys.data.store import Store

__all__ = ["Leases"]

_VALID = 600.0  # seconds: longer than a shard should take; after it, a driver that tells nothing new is not believed
_EVERY = 0.5  # seconds between looks at what others say, and between words to them


class Leases:
    """What one driver says and hears. Its shards come from `hand_out`; `close` takes its word back.

    holding: how many shards it has under way at once. name: of the driver, hexadecimal and its own. clock: seconds
    since 1970, roughly the same for all.
    """

    def __init__(
        self,
        store: Store,
        holding: int,
        *,
        name: str | None = None,
        every: float = _EVERY,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._clock, self._every = store, clock, every
        self._name = name or uuid.uuid4().hex
        self._file = f"{LEASES}/{self._name}.json"
        self._mine: deque[int] = deque(maxlen=max(1, holding))
        self._others: set[int] = set()
        self._heard = self._told = -float("inf")

    def hand_out(self, shards: Sequence[int]) -> Iterator[int]:
        """The shards to do, each decided when it is asked for: those that are committed by then are left out."""
        turn = int(self._name, 16) % max(1, len(shards))  # drivers begin at different places
        late = []
        for shard in (*shards[turn:], *shards[:turn]):
            if shard in self._at():
                late.append(shard)
            elif not self._store.committed(shard):
                self._tell(shard)
                yield shard
        for shard in late:
            if not self._store.committed(shard):
                self._tell(shard)
                yield shard

    def close(self) -> None:
        """Say no more."""
        self._store.place.remove([self._file])

    def _tell(self, shard: int) -> None:
        self._mine.append(shard)
        now = self._clock()
        if now - self._told >= self._every:
            self._told = now
            word = {"shards": list(self._mine), "until": now + _VALID}
            self._store.place.replace(self._file, json.dumps(word).encode())

    def _at(self) -> set[int]:
        """What the others say that they are at."""
        now = self._clock()
        if now - self._heard >= self._every:
            self._heard = now
            self._others = set()
            for name in self._store.place.list(LEASES):
                if name != self._file:
                    self._others |= self._word(name, now)
        return self._others

    def _word(self, name: str, now: float) -> set[int]:
        """The shards in a lease; none if it is over, taken back, or not one."""
        try:
            word = json.loads(self._store.place.read(name))
            return set(word["shards"]) if now < word["until"] < now + 2 * _VALID else set()
        except (OSError, ValueError, KeyError, TypeError):
            return set()
