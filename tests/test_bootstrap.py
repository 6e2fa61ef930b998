"""The set-up's decisions and messages; that it really installs is what every run of `make test` shows."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "bootstrap.py")
bootstrap = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bootstrap)


@pytest.fixture
def as_user(monkeypatch):
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 1000)


def test_parses_on_old_pythons():
    ast.parse((ROOT / "bootstrap.py").read_text(), feature_version=(3, 6))


def test_too_old_names_both_versions_and_the_remedy(as_user):
    text = bootstrap.too_old((3, 9, 2), debian=True)
    assert "python >= 3.11 needed, but this is 3.9.2" in text
    assert "sudo apt-get install -y python3.11 python3.11-venv\n" in text
    assert "apt-get" not in bootstrap.too_old((3, 9, 2), debian=False)


def test_no_venv_names_the_package(as_user):
    assert "sudo apt-get install -y python3.12-venv" in bootstrap.no_venv((3, 12, 1), debian=True)
    assert "apt-get" not in bootstrap.no_venv((3, 12, 1), debian=False)


def test_root_needs_no_sudo(monkeypatch):
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 0)
    assert bootstrap.apt_line("g++") == "apt-get install -y g++"


@pytest.mark.parametrize(
    ("compiler", "header", "packages"),
    [(None, True, "g++"), ("/usr/bin/c++", False, "python3.11-dev"), (None, False, "g++ python3.11-dev")],
)
def test_no_compiler_is_a_notice(as_user, compiler, header, packages):
    text = bootstrap.no_kernels(compiler, header, (3, 11, 2), debian=True)
    assert f"sudo apt-get install -y {packages};" in text
    assert "native kernels are left out and torch does the work" in text


def test_nothing_to_notice_with_a_compiler():
    assert bootstrap.no_kernels("/usr/bin/c++", True, (3, 11, 2), debian=True) == ""


def test_compiler_is_looked_for_on_path(tmp_path):
    assert bootstrap.find_compiler({"PATH": str(tmp_path)}) is None
    (tmp_path / "g++").touch(mode=0o755)
    assert bootstrap.find_compiler({"PATH": str(tmp_path)}) == str(tmp_path / "g++")
    assert bootstrap.find_compiler({"PATH": str(tmp_path), "CXX": "icpx -g"}) is None


def test_fingerprint_tells_requirements_from_kernels(tmp_path):
    (tmp_path / "csrc" / "cuda").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("a")
    (tmp_path / "csrc" / "cuda" / "k.cu").write_text("a")
    needs, build = bootstrap.fingerprint(str(tmp_path), ["3.11"])
    assert bootstrap.fingerprint(str(tmp_path), ["3.11"]) == (needs, build)

    (tmp_path / "csrc" / "cuda" / "k.cu").write_text("b")
    same, changed = bootstrap.fingerprint(str(tmp_path), ["3.11"])
    assert same == needs
    assert changed != build

    (tmp_path / "pyproject.toml").write_text("b")
    assert bootstrap.fingerprint(str(tmp_path), ["3.11"])[0] != needs
    assert bootstrap.fingerprint(str(tmp_path), ["3.12"])[1] != changed


def test_stamp_of_test_serves_run(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, "VENV", str(tmp_path))
    monkeypatch.setattr(bootstrap, "PYTHON", str(tmp_path / "python"))
    (tmp_path / ".gensys-test").write_text("a\nb\n")
    assert not bootstrap.ready("run", ("a", "b"))  # a stamp without an interpreter
    (tmp_path / "python").touch()
    assert bootstrap.ready("run", ("a", "b"))
    assert bootstrap.ready("test", ("a", "b"))
    assert not bootstrap.ready("run", ("a", "c"))


def test_torch_keeps_the_triton_that_it_brought():
    text = bootstrap.pins(
        "numpy==2.4.6\ntorch==2.13.0\ntriton==3.9.0\n", {"torch": "2.14.0", "triton": "4.0", "numpy": "1"}
    )
    assert text == "numpy==2.4.6\ntorch==2.14.0\ntriton==4.0\n"


def test_advice_knows_the_network_from_the_disk():
    assert "PIP_INDEX_URL" in bootstrap.advice("torch", "ERROR: No matching distribution found for torch")
    assert "disk is full" in bootstrap.advice("torch", "OSError: [Errno 28] No space left on device")


def test_calls_are_checked(capsys):
    assert bootstrap.main(["demo"]) == 2
    assert "usage: bootstrap.py [run | test]" in capsys.readouterr().err
