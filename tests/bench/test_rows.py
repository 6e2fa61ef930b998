"""Every row of every suite runs, at tiny sizes, and its candidates agree."""

import importlib.util

import pytest
import torch

from gensys.bench import SUITES, limits, suite
from gensys.bench.peers import NEEDED
from gensys.bench.row import Scope
from gensys.bench.suite import rows_of
from gensys.bench.timing import Protocol
from gensys.progress import Screen

ONCE = Protocol(rounds=1, fewest=1, shortest=0.0, seconds=0.0, cool=0.0)


def run(name, scope):
    torch.set_grad_enabled(True)
    return suite.run(name, scope, ONCE, Screen(quiet=True))


@pytest.fixture(autouse=True)
def no_limits(monkeypatch):
    monkeypatch.setattr(limits, "table", lambda protocol, quick: [])


@pytest.mark.parametrize("name", SUITES)
def test_every_row_runs(name):
    document = run(name, Scope(quick=True))
    assert document["failures"] == []
    measured = {(row["name"], row["shape"], row["dtype"]) for row in document["rows"]}
    assert measured == {(row.name, row.shape, row.dtype) for row in rows_of(name, Scope(quick=True))}


@pytest.mark.filterwarnings("ignore")  # other people's
@pytest.mark.parametrize("name", [name for name in SUITES if NEEDED[name]])
def test_every_row_runs_against_other_libraries(name):
    for module in NEEDED[name]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    document = run(name, Scope(quick=True, peers=True))
    assert document["failures"] == []
    known = " ".join(row["peer"] for row in document["rows"])
    assert all(package.partition("-")[0] in known for package in NEEDED[name].values())


@pytest.mark.parametrize("name", SUITES)
def test_rows_have_names_of_their_own(name):
    for quick in (False, True):
        labels = [row.label for row in rows_of(name, Scope(quick=quick))]
        assert len(labels) == len(set(labels))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_a_row_against_the_compiler():
    (row,) = [row for row in rows_of("kernels", Scope(quick=True)) if row.name == "combine ddim"]
    candidates = row.prepare(Scope())
    compiled = candidates.peers["torch.compile"]()
    assert candidates.error(compiled) <= candidates.tolerance
