"""The largest memory of a process: its own, and never less than before."""

import subprocess
import sys

import numpy as np

from gensys.engine.memory import peak_bytes

SIZE = 256 << 20
SLACK = 1 << 20  # the kernel counts pages in batches, one for each thread


def test_it_grows_with_what_is_used_and_does_not_shrink():
    before = peak_bytes()
    used = np.ones(SIZE + before, np.uint8)  # more than ever before, whatever ran in this process
    during = peak_bytes()
    assert during >= used.nbytes
    del used
    assert peak_bytes() > during - SLACK


def test_a_program_does_not_begin_with_the_memory_of_the_one_that_started_it():
    used = np.ones(SIZE, np.uint8)
    code = "from gensys.engine.memory import peak_bytes; print(peak_bytes())"
    found = int(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert 1 << 20 < found < used.nbytes
