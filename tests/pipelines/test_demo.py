"""The main job by one command, as a user gives it."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow
WORDS = ("demo", "--budget", "30", "--samples", "128", "--workers", "2", "--run", "demo")
MADE = ("run.json", "stages.json", "evaluation.json", "report.html", "samples.png", "trajectory.png", "metrics.jsonl",
        "trajectory.json",
        "codec/run.json", "latents.zarr/zarr.json", "samples.zarr/zarr.json")  # fmt: skip


def demo(cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "gensys", *WORDS], cwd=cwd, env=environment, **pipes)


def finish(cwd):
    begun = time.monotonic()
    with demo(cwd) as process:
        out, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    return out, said, time.monotonic() - begun


def check(folder):
    assert [name for name in MADE if not (folder / name).is_file()] == []
    page = (folder / "report.html").read_text()
    assert re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:|#)[^"'\s>]+""", page) == []
    assert not re.search(r"@import|url\((?!['\"]?data:)", page)
    scores = json.loads((folder / "evaluation.json").read_text())
    assert {"metrics", "protocol"} <= set(scores)
    assert all({"value", "low", "high", "floor", "better", "n", "about"} <= set(m) for m in scores["metrics"].values())
    return scores


def stamps(folder):
    kept = [*folder.glob("**/COMMITTED"), *folder.glob("*.zarr/**/*.json"), *folder.glob("**/run.json")]
    return {str(path): path.stat().st_mtime_ns for path in kept}


def test_interrupted_it_goes_on_and_finished_it_is_left_alone(tmp_path):
    with demo(tmp_path) as process:
        assert any("train codec" in line for line in process.stderr)  # it is at work, and far from its end
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command goes on" in said

    _, _, first = finish(tmp_path)
    scores = check(tmp_path / "demo")
    assert len(scores["metrics"]) >= 4
    before = stamps(tmp_path / "demo")

    out, said, second = finish(tmp_path)
    assert stamps(tmp_path / "demo") == before  # nothing was trained, encoded or drawn again
    assert said.count(" is finished: ") == 2
    assert second < first
    assert check(tmp_path / "demo")["metrics"] == scores["metrics"]
    assert "report.html" in out
