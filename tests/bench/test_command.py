"""gensys bench, as it is typed."""

import json

import pytest
from click.testing import CliRunner

from gensys.bench import limits
from gensys.cli import cli


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(limits, "table", lambda protocol, quick: [])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the command sets them for its process, which is ours here


def bench(*words, code=0):
    result = CliRunner().invoke(cli, ["bench", *words], prog_name="gensys")
    assert result.exit_code == code, result.output
    return result


QUICK = ("kernels", "--quick", "--rounds", "1", "--rows", "philox*")


def test_a_table_for_people():
    output = bench(*QUICK).stdout
    assert "QUICK: tiny shapes, these figures mean nothing; 1 thread" in output
    assert "philox_normal  2x4x8x8  fp32   out=" in output
    assert "torch.randn out=" in output


def test_json_into_a_file_and_the_table_beside_it(tmp_path):
    file = tmp_path / "figures.json"
    assert "philox_normal" in bench(*QUICK, "--json", str(file)).stdout
    document = json.loads(file.read_text())
    assert document["suite"] == "kernels"
    assert {row["peer"] for row in document["rows"]} == {"torch.randn out=", "torch.randn"}
    assert document["protocol"]["rounds"] == 1


def test_json_without_a_file_is_the_answer():
    assert json.loads(bench(*QUICK, "--json").stdout)["rows"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("kernel",), "'kernel' is not one of 'kernels', 'sampling', 'training', 'encode', 'io'"),
        ((), "Missing argument"),
        (("kernels", "--rows", "nothing"), "no row of kernels matches 'nothing': its rows are "),
        (("kernels", "--threads", "0"), "0 is not in the range x>=1"),
    ],
)
def test_what_is_not_understood_is_told_in_one_line(words, text):
    result = bench(*words, code=2)
    (line,) = result.stderr.splitlines()
    assert line.startswith("gensys: ")
    assert text in line
    assert result.stdout == ""


def test_a_disagreement_is_a_failure(monkeypatch):
    from gensys.bench import steps

    monkeypatch.setattr(steps, "_moments", lambda z: 2.0)
    result = bench(*QUICK, code=1)
    assert "these disagree or fail, and were not timed:" in result.stdout
    assert "philox_normal  2x4x8x8  float32  ours out=              off by 2, 1 allowed" in result.stdout
