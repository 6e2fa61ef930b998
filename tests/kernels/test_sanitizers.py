"""The C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer: `make sanitize`."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CSRC, TESTS = ROOT / "csrc", ROOT / "tests/csrc"
SANITIZED = "-std=c++20 -g -fsanitize=address,undefined -fno-sanitize-recover=all -ffp-contract=off -w"
SHIPPED = "-O2 -fno-math-errno -fno-trapping-math -fopenmp-simd"  # as setup.py has them, where they decide on vectors
EMULATED = f"-O0 -fno-strict-aliasing {shlex.quote('-I' + str(TESTS / 'emulation'))}"

pytestmark = pytest.mark.sanitize


@pytest.fixture(scope="module")
def sanitized(build):
    """build, for programs under the sanitizers; skips where g++ comes without them."""
    empty = "int main() {}"
    probe = ["g++", *SANITIZED.split(), "-x", "c++", "-", "-o", os.devnull]
    if subprocess.run(probe, input=empty, capture_output=True, text=True).returncode:
        pytest.skip("this g++ has no sanitizers (libasan, libubsan)")
    return lambda sources: build("program", sources, SANITIZED)


def run(program):
    """Its output, if it ends well; what the sanitizers say, if not."""
    ran = subprocess.run([program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def test_cpu_kernels(sanitized):
    sources = [CSRC / "kernels.cpp", *(CSRC / "cpu").glob("*.cpp")]
    program = sanitized({TESTS / "cpu_kernels.cpp": "-O1"} | dict.fromkeys(sources, SHIPPED))
    assert run(program)[-1] == "baseline"


def test_emulated_cuda_kernels(sanitized):
    sources = [TESTS / "cuda_kernels.cpp", *(CSRC / "cuda").glob("*.cu")]
    program = sanitized(dict.fromkeys(sources, EMULATED))
    assert run(program) == ["order", "0", "order", "1"]
