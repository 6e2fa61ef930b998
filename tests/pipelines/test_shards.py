"""Who gets which shard, and when a worker is late: without Ray, with a clock that the test sets."""

import itertools

import pytest
from gensys.pipelines.shards import FACTOR, LEAST, UNKNOWN, Counts, Shards


def taken(shards, now=0.0):
    return [order.shard for order in iter(lambda: shards.take(now), None)]


def test_every_shard_is_handed_out_once_in_order():
    shards = Shards([4, 1, 7])
    first = shards.take(0.0)
    assert (first.shard, taken(shards)) == (4, [1, 7])
    assert shards.done(first, 1.0)
    assert not shards.done(first, 2.0)
    assert not shards.finished


def test_nothing_is_held_for_shards_that_wait():
    """Ten thousand million shards are begun at once, and what is done is forgotten."""
    shards = Shards(range(10**10))
    for order in itertools.islice(iter(lambda: shards.take(0.0), None), 1000):
        shards.done(order, 1.0)
    assert not shards._open
    assert len(shards._seconds) < 100


def test_a_lost_shard_comes_next_and_is_counted():
    shards = Shards(range(3))
    order = shards.take(0.0)
    assert [shards.lost(order), shards.take(0.0).shard] == [1, 0]
    assert [shards.lost(order), shards.take(0.0).shard] == [2, 0]
    assert taken(shards) == [1, 2]


def test_two_that_do_the_same_shard_do_it_once():
    shards = Shards([5])
    slow = shards.take(0.0)
    shards.again(slow)
    shards.again(slow)
    quick = shards.take(9.0)
    assert quick.shard == 5
    assert taken(shards) == []
    assert shards.done(quick, 10.0)
    assert shards.finished
    assert not shards.done(slow, 11.0)
    shards.lost(slow)  # it dies over a shard that is done
    assert taken(shards) == []


@pytest.mark.parametrize(("seconds", "usual"), [(1.0, LEAST), (20.0, FACTOR * 20.0), (None, UNKNOWN)])
def test_a_worker_is_late_after_ten_times_the_median(seconds, usual):
    shards = Shards(range(9))
    for spent in [] if seconds is None else [seconds / 2, seconds, 90 * seconds]:
        shards.done(shards.take(0.0), spent)
    order = shards.take(100.0)
    assert [shards.late(order, 100.0 + t) for t in (0.99 * usual, 1.01 * usual)] == [False, True]
    order.overdue = True
    assert [shards.late(order, 100.0 + t) for t in (2.99 * usual, 3.01 * usual)] == [False, True]
    order.ended = True
    assert not shards.late(order, 1e9)
    shards.again(order)
    second = shards.take(0.0)  # a shard that is really slow has twice the time
    assert [shards.late(second, t) for t in (1.99 * usual, 2.01 * usual)] == [False, True]


def test_counts_in_words():
    assert str(Counts()) == ""
    assert str(Counts(1, 2, 0)) == "1 worker died, 2 restarts"
    assert str(Counts(stragglers=2)) == "2 stragglers"
