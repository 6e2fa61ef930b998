"""What nvcc made of csrc/cuda, read from the machine code in gensys._native: registers, spills, widths, rounding."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gensys import native

CEILINGS = {  # registers of a thread: at 64, a multiprocessor of 65,536 holds 1,024 threads, at 128 half of them
    "combine": 96,
    "philox_fill": 48,
    "forward": 64,
    "backward": 128,
    "add_strips": 40,
}
GPUS = {"sm_80", "sm_90", "sm_100"}

pytestmark = pytest.mark.skipif(
    not hasattr(native.extension, "cuda"), reason="gensys was built without nvcc: there is no machine code to read"
)


@pytest.fixture(scope="module")
def cuobjdump():
    """CUDA's reader of machine code, called with options: the one on PATH, of CUDA_HOME, or in Triton's wheel."""
    spec = importlib.util.find_spec("triton")
    triton = Path(spec.origin).parent / "backends/nvidia/bin" if spec and spec.origin else Path()
    places = [os.environ.get("PATH", ""), os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/bin", str(triton)]
    path = os.pathsep.join(places)  # nvdisasm, which it starts, is there too
    program = shutil.which("cuobjdump", path=path)
    if program is None:
        pytest.skip("no cuobjdump on PATH, in CUDA_HOME or in the package triton")

    def read(*options):
        command, environment = [program, *options, native.extension.__file__], {**os.environ, "PATH": path}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    return read


def kernel_of(name):
    """forward, of the mangled _ZN6gensys4cuda7forwardI..."""
    return re.match(r"_ZN6gensys4cuda\d+([a-z_]+)", name)[1]


def test_registers_and_spills(cuobjdump):
    kernels, usage = {}, re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+).* LOCAL:(\d+)")
    for part in cuobjdump("--dump-resource-usage").split("arch = ")[1:]:
        of_gpu = kernels.setdefault(part.split()[0], {})
        of_gpu.update((name, tuple(map(int, numbers))) for name, *numbers in usage.findall(part))
    assert kernels
    assert set(kernels) <= GPUS
    assert len({frozenset(of_gpu) for of_gpu in kernels.values()}) == 1, "a GPU lacks a kernel"
    found = {(gpu, name): used for gpu, of_gpu in kernels.items() for name, used in of_gpu.items()}
    assert {kernel_of(name) for _, name in found} == set(CEILINGS)
    for (gpu, name), (registers, stack, local) in found.items():
        assert (stack, local) == (0, 0), f"{name} spills on {gpu}"
        assert registers <= CEILINGS[kernel_of(name)], f"{name} on {gpu}: {registers} registers"


def test_accesses_are_wide(cuobjdump):
    """Kernels for tensors that begin at multiples of 128 bits use them, and none keeps numbers on its stack."""
    seen = set()
    for part in cuobjdump("-sass", "-arch", "sm_90").split("Function : ")[1:]:
        name = part.split()[0]
        assert not re.search(r"\b(LDL|STL)\b", part), f"{name} spills"
        if "Lb1EEEv" not in name:  # the last flag of a template: vector, or whole
            continue
        loads, stores = (re.findall(rf"\b{access}\.E(\.\w+)?", part) for access in ("LDG", "STG"))
        if kernel_of(name) in ("forward", "backward"):  # pairs of numbers and four bfloat16 take 64 bits
            assert set(loads + stores) <= {".128", ".64"}, name
            assert ".128" in loads, name
        elif count := re.search(r"combineILi(\d)", name):  # besides, the last quad of a row may be cut short
            assert loads.count(".128") >= int(count[1]), name
            assert ".128" in stores, name
        seen.add(kernel_of(name))
    assert {"forward", "backward", "combine"} <= seen


def test_every_operation_is_rounded_by_itself(cuobjdump):
    """The bits are those of the CPU: no fused multiply-add, and none that may be fused later (.rn forbids it)."""
    operations = "add|sub|mul|mad|fma|div|rcp|sqrt|rsqrt|ex2|lg2|sin|cos|tanh"
    found = set(re.findall(rf"\b(?:{operations})\b[.\w]*\.f32", cuobjdump("-ptx")))
    assert found == {f"{name}.rn.f32" for name in ("add", "sub", "mul", "div", "rcp", "sqrt")}
