"""A suite as a whole: candidates are checked, the document holds what a reader needs, the table shows it."""

import json

import pytest
import torch

from gensys.bench import SUITES, limits, suite
from gensys.bench.marks import ITSELF
from gensys.bench.peers import NEEDED, require
from gensys.bench.report import figure, text
from gensys.bench.row import Candidates, Row, Scope, deviation, tensors
from gensys.bench.timing import Protocol
from gensys.errors import ConfigError
from gensys.progress import Screen
from gensys.terminal import plain

KEYS = {
    "name", "shape", "dtype", "ours", "ours_ms", "ours_low_ms", "ours_high_ms", "ours_cpu_ms", "ours_wall_ms",
    "ours_error", "ours_peak_bytes", "limit", "limit_fraction", "peer", "peer_ms", "peer_low_ms", "peer_high_ms",
    "peer_cpu_ms", "peer_wall_ms", "peer_error", "peer_peak_bytes", "ratio", "ratio_low", "ratio_high", "rounds",
}  # fmt: skip
FAST = Protocol(rounds=3, fewest=1, seconds=0.1, shortest=1e-4)


class Clock:
    """Moved by the calls of the rows below."""

    now = 0.0

    def __call__(self):
        return self.now, self.now


@pytest.fixture
def stand(monkeypatch):
    """run(candidates, ...) -> the document of a suite with one row of these."""
    clock = Clock()
    monkeypatch.setattr(limits, "table", lambda protocol, quick: [])

    def run(ours, peers, protocol=FAST, pattern="*", **more):
        def timed(seconds, result):
            def call():
                clock.now += seconds
                return result

            return call

        def prepare(scope):
            return Candidates(
                ours={name: timed(*spec) for name, spec in ours.items()},
                peers={name: timed(*spec) for name, spec in peers.items()},
                error=deviation(torch.ones(3)),
                tolerance=0.1,
                **more,
            )

        monkeypatch.setattr(suite, "rows_of", lambda *_: iter([Row("job", "2x3", "float32", prepare)]))
        return suite.run("kernels", Scope(), protocol, Screen(quiet=True), pattern, clock)

    run.clock = clock
    return run


RIGHT, NEAR, WRONG = torch.ones(3), torch.full((3,), 1.05), torch.full((3,), 1.5)


def test_a_line_for_each_way_and_peer(stand):
    ours = {"out=": (0.1, RIGHT), "fresh": (0.2, RIGHT)}
    document = stand(ours, {"eager": (0.3, NEAR), "other": (0.5, RIGHT)})
    rows = document["rows"]
    assert all(set(row) == KEYS for row in rows)
    assert [(r["ours"], r["peer"], round(r["ratio"], 6)) for r in rows] == [
        ("out=", "eager", 3.0),
        ("out=", "other", 5.0),
        ("fresh", "eager", 1.5),
        ("fresh", "other", 2.5),
    ]
    assert rows[0]["ours_ms"] == pytest.approx(100.0)
    assert rows[0]["peer_error"] == pytest.approx(0.05, rel=1e-3)
    assert document["failures"] == []
    assert json.loads(json.dumps(plain(document), allow_nan=False)).keys() == {
        "suite", "machine", "protocol", "limits", "rows", "failures",
    }  # fmt: skip


def test_times_are_of_one_step(stand):
    (row,) = stand({"out=": (0.1, RIGHT)}, {"eager": (0.3, RIGHT)}, steps=4)["rows"]
    assert row["ours_ms"] == pytest.approx(25.0)
    assert row["peer_ms"] == pytest.approx(75.0)
    assert row["ratio"] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("ours", "peer", "wrong"),
    [
        (WRONG, RIGHT, ["ours out="]),
        (RIGHT, WRONG, ["peer eager"]),
        (torch.full((3,), float("nan")), NEAR, ["ours out="]),
    ],
)
def test_candidates_that_disagree_are_not_timed(stand, ours, peer, wrong):
    document = stand({"out=": (0.1, ours)}, {"eager": (0.3, peer)})
    assert document["rows"] == []
    assert [failure["candidate"] for failure in document["failures"]] == wrong
    assert stand.clock.now == pytest.approx(0.4), "each was called once, to be looked at"
    assert f"{wrong[0]}  off by" in text(document)


def test_an_error_that_is_not_a_number_is_a_failure(monkeypatch):
    candidates = Candidates({"out=": lambda: RIGHT}, {}, lambda result: float("nan"), 0.1)
    monkeypatch.setattr(suite, "rows_of", lambda *_: iter([Row("job", "3", "float32", lambda scope: candidates)]))
    monkeypatch.setattr(limits, "table", lambda protocol, quick: [])
    assert suite.run("kernels", Scope(), FAST, Screen(quiet=True))["failures"]


def test_a_candidate_that_raises_is_a_failure_and_the_other_rows_are_measured(monkeypatch):
    def fail():
        raise RuntimeError("no compiler\nand a long story")

    def rows(*_):
        for name, peer in (("one", fail), ("two", lambda: RIGHT)):
            candidates = Candidates({"out=": lambda: RIGHT}, {"compiled": peer}, deviation(RIGHT), 0.1)
            yield Row(name, "3", "float32", lambda scope, candidates=candidates: candidates)

    monkeypatch.setattr(suite, "rows_of", rows)
    monkeypatch.setattr(limits, "table", lambda protocol, quick: [])
    document = suite.run("kernels", Scope(), FAST, Screen(quiet=True))
    assert [row["name"] for row in document["rows"]] == ["two"]
    assert text(document).endswith("one  3  float32  peer compiled  RuntimeError: no compiler")


def test_a_peer_may_be_held_to_another_tolerance_or_do_a_part_only(stand):
    peers = {"loose": (0.3, WRONG), "part": (0.1, None)}
    document = stand({"out=": (0.1, RIGHT)}, peers, peer_tolerance=1.0)
    assert [(row["peer"], row["peer_error"]) for row in document["rows"]] == [("loose", 0.5), ("part", None)]


def test_the_share_of_the_limit(stand):
    clock = stand.clock

    def most():
        clock.now += 0.5

    limit = limits.Limit("copy", "B", 10.0, most)  # 20 bytes a second
    (row,) = stand({"out=": (1.0, RIGHT)}, {"eager": (2.0, RIGHT)}, limit=limit, work=15.0)["rows"]
    assert row["limit"] == "copy"
    assert row["limit_fraction"] == pytest.approx(0.75)


def test_several_threads_are_compared_with_one(stand):
    before = torch.get_num_threads()
    protocol = Protocol(rounds=2, fewest=1, threads=2)
    ours = {"out=": (0.1, RIGHT), "fresh": (0.2, RIGHT)}
    document = stand(ours, {"eager": (0.3, RIGHT)}, protocol=protocol)
    assert torch.get_num_threads() == before
    assert [(row["ours"], row["peer"]) for row in document["rows"]] == [
        ("out=", "eager"), ("out=", ITSELF), ("fresh", "eager"),
    ]  # fmt: skip
    assert document["protocol"]["timed"] == "wall"
    assert "2 threads, time on the wall" in text(document)


def test_memory_is_told_and_what_is_open_is_closed(stand):
    closed = []
    document = stand(
        {"out=": (0.1, RIGHT)},
        {"eager": (0.3, RIGHT)},
        peak={"out=": 1000, "eager": 1500}.get,
        close=lambda: closed.append(True),
    )
    (row,) = document["rows"]
    assert (row["ours_peak_bytes"], row["peer_peak_bytes"]) == (1000, 1500)
    assert "eager 3 (1.5 x the memory)" in text(document)
    assert closed == [True]


def test_rows_are_chosen_by_a_pattern(stand):
    for pattern in ("job", "2x3", "j*float32", "JOB"[:0]):
        assert stand({"out=": (0.1, RIGHT)}, {"eager": (0.3, RIGHT)}, pattern=pattern)["rows"]
    with pytest.raises(ConfigError, match="no row of kernels matches 'jab': its rows are job"):
        stand({"out=": (0.1, RIGHT)}, {"eager": (0.3, RIGHT)}, pattern="jab")


@pytest.mark.parametrize("grad", [False, True])
def test_gradients_are_on_for_those_who_ask(monkeypatch, grad):
    seen = set()

    def call():
        seen.add(torch.is_grad_enabled())
        return RIGHT

    candidates = Candidates({"out=": call}, {"eager": call}, deviation(RIGHT), 0.1, grad=grad)
    monkeypatch.setattr(suite, "rows_of", lambda *_: iter([Row("job", "3", "float32", lambda scope: candidates)]))
    monkeypatch.setattr(limits, "table", lambda protocol, quick: [])
    suite.run("kernels", Scope(), FAST, Screen(quiet=True))
    assert seen == {grad}
    assert torch.is_grad_enabled()


def test_the_table_names_machine_protocol_and_limits(stand):
    document = stand({"out=": (0.1, RIGHT)}, {"eager": (0.3, RIGHT)})
    document["limits"] = [{"name": "copy of 16 MiB", "per_second": 3e10, "unit": "B"}]
    shown = text(document)
    assert "1 thread, CPU time of the process" in shown
    assert "copy of 16 MiB 30 GB/s" in shown
    assert f"torch {torch.__version__}" in shown
    assert "job  2x3    fp32   out=  100" in shown


def test_machine_holds_no_name_of_the_host():
    import platform

    from gensys.bench.machine import machine

    facts = machine()
    assert platform.node() == "" or platform.node() not in json.dumps(facts, default=str)
    assert facts["cores"] >= 1
    assert facts["torch"] == torch.__version__


def test_missing_peers_come_with_the_line_that_installs_them(monkeypatch):
    monkeypatch.setitem(NEEDED, "kernels", {"json": "json", "no_such_thing": "no-such-thing", "nor_this": "nor-this"})
    with pytest.raises(ConfigError, match=r"not installed here: pip install no-such-thing nor-this$"):
        require("kernels")
    require("encode")  # which has none


def test_every_suite_says_which_peers_it_needs_and_all_are_in_the_extras():
    import re
    import tomllib
    from pathlib import Path

    assert NEEDED.keys() == SUITES.keys()
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    extra = {re.match(r"[\w-]+", line)[0] for line in (*extras["peers"], *extras["mds"])}
    assert extra == {package for packages in NEEDED.values() for package in packages.values()}


def test_deviation_is_relative_to_each_tensor():
    error = deviation((torch.tensor([1000.0]), torch.tensor([0.001, 0.0])))
    assert error((torch.tensor([1001.0]), torch.tensor([0.001, 0.0]))) == pytest.approx(1e-3)
    assert error([torch.tensor([1000.0]), torch.tensor([0.001, 0.0005])]) == pytest.approx(0.5)
    assert error((torch.tensor([float("nan")]), torch.tensor([0.001, 0.0]))) == float("inf")
    with pytest.raises(ValueError, match=r"returned \[\(2,\)\] instead of"):
        error(torch.zeros(2))
    with pytest.raises(TypeError, match="must return tensors, got NoneType"):
        tensors(None)


@pytest.mark.parametrize(("value", "shown"), [(0.01417, "0.0142"), (1.354, "1.35"), (596.4, "596"), (None, "")])
def test_three_digits(value, shown):
    assert figure(value) == shown


def test_limits_are_measured():
    found = {row["name"]: row for row in limits.table(FAST, quick=True)}
    assert all(row["per_second"] > 0 for row in found.values())
    assert found["copy of 1 MiB"]["unit"] == "B"


def test_the_loop_of_multiply_adds_counts_what_it_does():
    extension = pytest.importorskip("gensys.native").extension
    if extension is None:
        pytest.skip("no compiled kernels")
    one = extension.multiply_adds(1)
    assert one > 0
    assert extension.multiply_adds(1000) == 1000 * one
    assert extension.dot_products(10) == 10 * extension.dot_products(1)
