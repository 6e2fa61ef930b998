"""docs/performance.md is written from the documents of runs."""

import copy
import importlib.util
from pathlib import Path

import pytest

from gensys.bench.marks import MARKS, Mark, found, met

LINE = {
    "name": "combine ddim", "shape": "16x4x32x32", "dtype": "float32", "ours": "out=", "ours_ms": 0.0142,
    "ours_error": 0.0, "ours_peak_bytes": None, "limit": "copy", "limit_fraction": 0.34, "peer_peak_bytes": None,
    "peer": "diffusers DDIMScheduler.step", "peer_ms": 0.1, "peer_error": 0.0, "ratio": 6.9,
}  # fmt: skip
RUN = {
    "suite": "kernels",
    "machine": {
        "architecture": "x86_64", "features": ["avx2"], "cores": 2, "caches": {"L1": "48K"}, "memory_bytes": 2**34,
        "torch": "2.13.0", "blas": "mkl", "onednn": "3.12.0", "native_isa": "avx2", "huge_pages": "madvise",
        "environment": {}, "load": 0.1, "load_after": 1.0,
    },
    "protocol": {"threads": 1, "timed": "cpu", "quick": False, "rounds": 15, "fewest": 3},
    "limits": [{"name": "copy of 16 MiB", "per_second": 3e10, "unit": "B"}],
    "rows": [LINE, {**LINE, "peer": "eager", "ratio": 3.7}],
    "failures": [],
}  # fmt: skip


@pytest.fixture
def page():
    file = Path(__file__).parents[2] / "docs" / "performance.py"
    spec = importlib.util.spec_from_file_location("performance", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page


def other(**changes):
    run = copy.deepcopy(RUN)
    for line in run["rows"]:
        line.update(changes)
    return run


def test_runs_stand_side_by_side(page):
    text = page([RUN, other(ratio=7.5, limit_fraction=0.41, ours_ms=0.013)])
    row = "| combine ddim | 16x4x32x32 | float32 | out= | 0.0142 0.013 | 34% 41% copy |"
    assert f"{row} diffusers DDIMScheduler.step 6.9 7.5, eager 3.7 7.5 |" in text
    assert "from 2 runs of `gensys bench`" in text
    assert "x86_64 with avx2; 2 cores; L1 48K; 16 GiB" in text
    assert "copy of 16 MiB 30 GB/s" in text


def test_marks_are_met_by_the_median_of_the_runs(page):
    mark = "| combine ddim float32 out= | time of diffusers DDIMScheduler.step / ours | at least 6 |"
    assert f"{mark} 6.9 | met |" in page([RUN])
    assert f"{mark} 6.9 5.9 5.8 | **not met**: " in page([RUN, other(ratio=5.9), other(ratio=5.8)])
    assert f"{mark} 6.9 7 5.8 | met |" in page([RUN, other(ratio=7.0), other(ratio=5.8)])
    assert "at least 95% |  | not measured |" in page([RUN])


def test_several_threads_have_a_table_of_their_own(page):
    several = other(peer="one thread", ratio=1.8)
    several["protocol"]["threads"] = 2
    text = page([RUN, several])
    assert "## Kernels, several threads" in text
    assert "| out= | 0.0142 | 34% copy | one thread 1.8 |" in text


def test_the_worst_line_counts():
    mark = Mark("job", 2.0, peer="eager")
    line = {**LINE, "name": "job", "peer": "eager"}
    assert found(mark, [line | {"ratio": 3.0}, line | {"ratio": 2.5}, line | {"peer": "other", "ratio": 1.0}]) == 2.5
    assert found(mark, [LINE]) is None
    assert met(mark, 2.0)
    assert not met(mark, 1.99)
    wrong = Mark("job", 0.0, what="ours_error")
    assert found(wrong, [line | {"ours_error": 0.0}, line | {"ours_error": 3.0}]) == 3.0
    assert met(wrong, 0.0)
    assert not met(wrong, 3.0)
    memory = Mark("job", 1.0, peer="eager", what="memory")
    assert found(memory, [line, line | {"ours_peak_bytes": 100, "peer_peak_bytes": 150}]) == 1.5


@pytest.mark.parametrize(
    "mark", MARKS, ids=lambda mark: f"{mark.row} {mark.shape} {mark.dtype} {mark.what} {mark.peer}"
)
def test_every_mark_is_about_a_row(mark):
    """A name that was changed in one place only would be "not measured" for ever."""
    from gensys.bench import SUITES
    from gensys.bench.row import Scope
    from gensys.bench.suite import rows_of

    rows = [row for suite in SUITES for row in rows_of(suite, Scope())]
    assert [row for row in rows if row.name == mark.row and mark.shape in ("", row.shape) and mark.dtype == row.dtype]
