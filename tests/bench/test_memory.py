"""Peak memory, as another process measures it."""

import sys
import textwrap

import pytest

from gensys.bench import memory

MODULE = """
    def builders(quick, dtype):
        n = 1 if quick else int(dtype)

        def build():
            held = b"1" * (n << 20)

            def call():
                return len(held + b"1")  # and as much again, for a moment

            return call

        def fail():
            raise RuntimeError("no such luck")

        return {"mine": build, "broken": fail}
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads Linux's /proc")


@pytest.fixture
def candidates(tmp_path, monkeypatch):
    (tmp_path / "candidates.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:.")


def test_what_is_held_and_what_is_needed_for_a_moment(candidates):
    small, large = (memory.peak("candidates", False, size, "mine") for size in ("32", "128"))
    assert 62 << 20 < small < 71 << 20, "what Python itself takes, some 10 MiB, is not counted"
    assert 254 << 20 < large < 263 << 20


def test_a_process_that_fails_says_why(candidates):
    with pytest.raises(RuntimeError, match=r"(?s)memory of 'broken' failed: .*no such luck"):
        memory.peak("candidates", False, "1", "broken")


def test_systems_that_do_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "nowhere")
    assert memory.peak("candidates", False, "1", "mine") is None
