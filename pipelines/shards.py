"""Which shards of a job are still to be done, who is late with one, and what happened on the way.

Only bookkeeping: no Ray, no clock of its own. It holds what is under way, a few shards for every worker, whatever the
number of shards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

__all__ = ["Counts", "Order", "Shards"]

LEAST = 30.0  # seconds: a pause of the machine, a slow disk, a first import are no reason to doubt a worker
# times the median: shards of one job are alike, and a worker that is slowed down tenfold is as good as gone
FACTOR = 10.0
UNKNOWN = 3600.0  # seconds, while no shard has been finished yet and nothing is known
_REMEMBERED = 99  # times of the latest shards, of which the median is taken


@dataclass
class Counts:
    """What happened to the workers of a job. deaths: ended by others (killed, out of memory). stragglers: shards that
    were handed to another worker as well. restarts: of workers, those that the pool ended itself included."""

    deaths: int = 0
    restarts: int = 0
    stragglers: int = 0

    def __str__(self) -> str:
        """Those that are not zero, in words; "" if all is well."""
        words = (("worker died", "workers died"), ("restart", "restarts"), ("straggler", "stragglers"))
        numbers = (self.deaths, self.restarts, self.stragglers)
        return ", ".join(f"{n} {one if n == 1 else many}" for n, (one, many) in zip(numbers, words, strict=True) if n)


@dataclass
class Order:
    """What a worker was told to do. shard: None = to start. begun: when. attempt: how often it was handed out before.

    overdue: it was late, and its shard goes to another as well. ended: its worker was killed for that.
    """

    shard: int | None
    begun: float
    attempt: int = 0
    overdue: bool = False
    ended: bool = False


class Shards:
    """The shards of one job, each taken when a worker is there for it; again if one is lost or late; and done once."""

    def __init__(self, shards: Iterable[int]) -> None:
        self._fresh = iter(shards)
        self._more = True  # as far as is known
        self._returned: deque[int] = deque()  # to be handed out again, before any other
        self._open: dict[int, int] = {}  # handed out and not done -> how often
        self._losses: dict[int | None, int] = {}
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)

    @property
    def finished(self) -> bool:
        return not (self._more or self._open)

    def take(self, now: float) -> Order | None:
        """The next one to do; None if all are done or under way."""
        while self._returned:
            shard = self._returned.popleft()
            if shard in self._open:  # not done meanwhile
                self._open[shard] += 1
                return Order(shard, now, self._open[shard])
        shard = next(self._fresh, None)
        if shard is None:
            self._more = False
            return None
        self._open[shard] = 0
        return Order(shard, now)

    def done(self, order: Order, now: float) -> bool:
        """Note that an order was carried out; True if its shard was not done before."""
        if order.shard is None:
            self._losses.pop(None, None)  # one did start: only failures in a row count
        if order.shard is None or self._open.pop(order.shard, None) is None:
            return False
        self._seconds.append(now - order.begun)
        return True

    def lost(self, order: Order) -> int:
        """A worker died over an order: hand it out again. Returns how often that happened to this shard."""
        self.again(order)
        self._losses[order.shard] = self._losses.get(order.shard, 0) + 1
        return self._losses[order.shard]

    def again(self, order: Order) -> None:
        """Hand a shard out once more, unless it is done or waits for that already."""
        if order.shard is not None and order.shard in self._open and order.shard not in self._returned:
            self._returned.append(order.shard)

    def late(self, order: Order, now: float) -> bool:
        """Whether an order takes too long: after its time, and once more when it has had three times that.

        Its time is ten times the median of the shards so far, twice that for each time it was handed out before: one
        that is really so slow gets through in the end.
        """
        if order.shard is None or order.ended:
            return False
        usual = max(LEAST, FACTOR * median(self._seconds)) if self._seconds else UNKNOWN
        return now - order.begun > usual * 2**order.attempt * (3 if order.overdue else 1)
