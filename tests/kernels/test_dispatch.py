"""The choice of an implementation: what is preferred, what is refused and why, and how a choice is forced."""

import os
import re
import subprocess
import sys

import pytest
import torch

from gensys import native
from gensys.kernels.dispatch import KERNELS, OPS, Unavailable, choose, force, table

needs_native = pytest.mark.skipif(native.extension is None, reason=f"no compiled kernels: {native.why_missing}")


@needs_native
def test_native_is_preferred_where_it_runs():
    implementation, why = choose("combine", "cpu", torch.float32)
    assert implementation == "native"
    assert why == f"compiled for {native.extension.isa()}"


def test_reference_runs_elsewhere_and_says_why():
    implementation, why = choose("combine", "cpu", torch.float64)
    assert implementation == "reference"
    assert why.startswith("native takes float32, not float64; cuda runs on cuda, not on cpu; triton runs on cuda, not")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    implementation, why = choose("combine", torch.device("cuda:1"), torch.float32)
    assert implementation == "reference"
    assert "native runs on cpu, not on cuda" in why
    assert "cuda is missing: " in why
    assert re.search("triton is missing: (there is no GPU|the package triton is not installed)", why)


def test_triton_interprets_on_a_cpu_only_when_forced(monkeypatch):
    pytest.importorskip("triton")
    assert "triton runs on a CPU when forced only" in choose("combine", "cpu", torch.bfloat16).why
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with force("triton"), pytest.raises(Unavailable, match="it needs its interpreter"):
        choose("vq_nearest", "cpu", torch.float32)


@pytest.mark.usefixtures("no_extension")
def test_a_missing_extension_is_told():
    implementation, why = choose("combine", "cpu", torch.float32)
    assert implementation == "reference"
    assert why.startswith("native is missing: no compiler; ")
    with force("native"), pytest.raises(Unavailable, match=r"combine was forced to 'native', but .*: no compiler"):
        choose("combine", "cpu", torch.float32)
    with pytest.raises(Unavailable, match="no compiler"), force("native", isa="avx2"):
        pass


def test_force():
    with force("reference"):
        assert choose("combine", "cpu", torch.float32) == ("reference", "forced")
        with force("native"), pytest.raises(Unavailable, match="native takes float32, not float64"):
            choose("combine", "cpu", torch.float64)
        assert choose("combine", "cpu", torch.float32) == ("reference", "forced")


@needs_native
def test_force_an_instruction_set_and_give_it_back():
    before = native.extension.isa()
    with force("native", isa="baseline"):
        assert choose("combine", "cpu", torch.float32) == ("native", "forced, compiled for baseline")
    assert native.extension.isa() == before
    with pytest.raises(Unavailable, match="'isa' must be one that this CPU has"), force("native", isa="sse9"):
        pass
    with pytest.raises(ValueError, match=r"'name' must be an instruction set of this CPU .*, got 'sse9'"):
        native.extension.use_isa("sse9")
    assert native.extension.isa() == before
    assert native.extension.isas()[-1] == "baseline"


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"'op' must be one of .*'combine'.*, got 'convolve'"):
        choose("convolve", "cpu", torch.float32)
    with pytest.raises(ValueError, match=r"'dtype' of combine must be one of float32.*, got int64"):
        choose("combine", "cpu", torch.int64)
    with pytest.raises(ValueError, match=r"'implementation' must be one of .*'reference'.*, got 'fast'"), force("fast"):
        pass


def test_the_table_lists_every_op_and_dtype():
    rows = table()
    assert {(row.op, row.dtype) for row in rows if row.device == "cpu"} == {
        (op, str(dtype).removeprefix("torch.")) for op, dtypes in OPS.items() for dtype in dtypes
    }
    assert all(row.why for row in rows)


def test_kernels_are_for_known_ops_and_dtypes():
    for kernel in KERNELS:
        assert set(kernel.dtypes) <= set(OPS[kernel.op])


def test_the_environment_switches_the_extension_off():
    code = "from gensys import native; print(native.extension, native.why_missing)"
    environment = {**os.environ, "GENSYS_NATIVE": "0"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "None switched off by GENSYS_NATIVE=0"
