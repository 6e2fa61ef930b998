"""Signals to a training: it ends with the step, saved, and says so, be it the last step."""

import os
import signal
import subprocess
import sys

import pytest
from gensys.pipelines import train as training

from gensys.engine.checkpoint import newest, read_state
from gensys.progress import Screen
from gensys.run import resolve
from gensys.run_folder import RunFolder

# a turn takes half a second and a step one, in many short calls as a network's does; the run would take an hour
RECIPE = """
import time
from dataclasses import replace
from pathlib import Path
from gensys.knobs import Training
from gensys.recipes.gan import gan

def slow(data: str = "25gaussians"):
    run = gan(data, training=Training(batch=8, budget="1h", precision="fp32"))

    def build():
        model = run.build()
        loss = model.loss

        def slowly(*given):
            print("turn", flush=True)
            for _ in range(50):
                time.sleep(0.01)
            return loss(*given)

        model.loss = slowly
        return model

    return replace(run, build=build)
"""


@pytest.mark.slow
def test_a_slow_step_is_ended_and_saved(tmp_path):
    (tmp_path / "slow.py").write_text(RECIPE)
    command = [sys.executable, "-m", "gensys", "train", "./slow.py:slow", "--run", "run", "--quiet"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as process:
        for _ in range(3):  # the third turn is the first of the second step
            assert process.stdout.readline() == "turn\n", process.stderr.read()
        process.send_signal(signal.SIGTERM)
        rest, said = process.communicate(timeout=120)
    assert process.returncode == signal.SIGTERM + 128
    assert said.startswith("gensys: terminated. The checkpoints in run are kept;")
    at = newest(tmp_path / "run" / "checkpoints")
    assert at is not None
    assert read_state(at).step == 2
    assert rest == "turn\n"  # the other half of that step, and nothing more


def test_in_its_last_step_it_is_heard_too(tmp_path, monkeypatch):
    """What follows the training, as in the demo, is not begun: the run itself is finished, as the folder says."""
    show = training.show

    def shown(*given):
        os.kill(os.getpid(), signal.SIGINT)
        show(*given)

    monkeypatch.setattr(training, "show", shown)
    folder = RunFolder(tmp_path / "run")
    spec = resolve("gan", {"data": "25gaussians", "batch": "8", "budget": "8", "precision": "fp32"})
    with pytest.raises(KeyboardInterrupt):
        training.train(folder, spec, workers=0, fresh=False, screen=Screen(quiet=True))
    assert read_state(newest(folder.path / "checkpoints")).finished
