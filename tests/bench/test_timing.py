"""The protocol, on a clock that the calls themselves move."""

import gc
from collections import Counter
from itertools import pairwise

import pytest

from gensys.bench.timing import Protocol, Sample, measure, order, spread


class Bench:
    """A clock, and calls that take as long on it as they are told; `noise(n)` slows down everything at that time."""

    def __init__(self, costs, slowdown=lambda now: 1.0):
        self.now, self.made, self.collecting = 0.0, [], []
        self.slowdown = slowdown
        self.calls = {name: self._call(name, seconds) for name, seconds in costs.items()}

    def _call(self, name, seconds):
        def call():
            self.made.append(name)
            self.collecting.append(gc.isenabled())
            self.now += seconds * self.slowdown(self.now)

        return call

    def clock(self):
        return 0.5 * self.now, self.now  # half of the time the processor was elsewhere


def test_every_call_has_a_sample_a_round_in_seconds_a_call():
    bench = Bench({"a": 0.25, "b": 0.001})
    samples = measure(bench.calls, Protocol(rounds=4), bench.clock)
    assert samples["a"] == [Sample(0.125, 0.25)] * 4
    assert [s.wall for s in samples["b"]] == pytest.approx([0.001] * 4)
    assert [s.cpu for s in samples["b"]] == pytest.approx([0.0005] * 4)


def test_short_calls_are_repeated_until_a_sample_is_long_enough():
    bench = Bench({"a": 1e-5})
    measure(bench.calls, Protocol(rounds=1, shortest=2e-3), bench.clock)
    # doubled while calibrating: 1, then at least 200; then one to prime and the sample itself
    assert bench.made.count("a") >= 200 + 1 + 200
    long = Bench({"a": 0.5})
    measure(long.calls, Protocol(rounds=3), long.clock)
    assert len(long.made) == 1 + 3, "a long call is neither repeated nor primed"


def test_the_order_rotates_and_turns_round():
    assert [order("abc", k) for k in range(7)] == [list(w) for w in ("abc", "bca", "cab", "cba", "acb", "bac", "abc")]
    first = Counter(order("ab", k)[0] for k in range(4))
    assert first == {"a": 2, "b": 2}
    after = Counter(pair for k in range(6) for pair in pairwise(order("abc", k)))
    assert set(after.values()) == {2}, "everybody follows everybody equally often"


def test_measured_in_that_order():
    bench = Bench({"a": 1.0, "b": 1.0, "c": 1.0})
    measure(bench.calls, Protocol(rounds=4, seconds=100), bench.clock)
    assert "".join(bench.made) == "abc" + "abc" + "bca" + "cab" + "cba"  # the first three calibrate


def test_a_machine_that_slows_down_changes_no_ratio():
    bench = Bench({"a": 0.1, "b": 0.3}, slowdown=lambda now: 1.0 if now < 2.0 else 7.0)
    samples = measure(bench.calls, Protocol(rounds=20, seconds=1000), bench.clock)
    ratios = [b.wall / a.wall for a, b in zip(samples["a"], samples["b"], strict=True)]
    assert spread(ratios).median == pytest.approx(3.0)
    assert spread([b.wall for b in samples["b"]]).median > 2.0


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 3), (5.0, 6), (1e9, 15)])
def test_rounds_end_when_the_time_is_over_but_there_are_enough(seconds, rounds):
    bench = Bench({"a": 1.0})
    assert len(measure(bench.calls, Protocol(seconds=seconds), bench.clock)["a"]) == rounds


def test_the_garbage_collector_rests():
    bench = Bench({"a": 1.0})
    assert gc.isenabled()
    measure(bench.calls, Protocol(), bench.clock)
    assert not any(bench.collecting)
    assert gc.isenabled()


def test_spread_is_median_and_quartiles():
    found = spread([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (found.low, found.median, found.high) == (2.0, 3.0, 4.0)
    assert spread([7.0]) == spread([7.0, 7.0])


def test_one_thread_is_timed_by_the_processor_several_by_the_wall():
    assert (Protocol().timed, Protocol(threads=2).timed) == ("cpu", "wall")
