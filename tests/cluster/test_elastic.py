"""A group of training workers that shrinks and grows with the cluster, over several raylets on this machine."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import ray
from gensys.pipelines import crew
from gensys.pipelines.train import train
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.cluster_utils import Cluster

from gensys.engine.checkpoint import newest
from gensys.engine.log import read
from gensys.progress import Screen
from gensys.run import resolve
from gensys.run_folder import RunFolder

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore"),  # of Ray's: sockets, deprecated options, processes that were killed
]
SCREEN = Screen(quiet=True)
QUICK = {  # a host that is gone is given up after seconds instead of a quarter of a minute
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
SMALL = {"object_store_memory": 80 << 20}
RECIPE = '''
import time
from pathlib import Path

from gensys.core import Batch
from gensys.engine.loop import Settings
from gensys.engine.optim import Optim
from gensys.noise import Stream
from gensys.run import Run, budget_of
from gensys.systems.kl_autoencoder import kl_autoencoder
import torch

class Held:
    """Noise as images, and no step before the file `go` allows it: the test says how far training goes."""

    name, about, shape, classes, first_test = "held", "noise", (1, 16, 16), (), None

    def __init__(self, go):
        self.go = Path(go)

    def __len__(self):
        return 100

    def fingerprint(self):
        return "0" * 32

    def quarantine(self):
        return {}

    def batch(self, rows, noise):
        while noise.step >= int(self.go.read_text() or 0):
            time.sleep(0.02)
        return Batch(noise.at(0).normal(self.shape, Stream.EPS).clamp(-1, 1), {}, rows)

    def origin(self, rows):
        return rows

def mine(go: str, seed: int = 0) -> Run:
    """A codec that saves when it is told to leave, and at the end."""
    source = Held(go)
    return Run(
        source=source,
        rows=torch.arange(100),
        build=lambda: kl_autoencoder(source.shape, channels=2, widths=(8, 16)),
        settings=Settings(16, budget_of("960"), Optim(warmup=10), precision="fp32", seed=seed, save_every=1e9,
                          log_every=1, previews=1),
    )
'''


@pytest.fixture
def cluster(monkeypatch):
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "_system_config": QUICK, "include_dashboard": False} | SMALL,
    )
    nodes = [made.add_node(num_cpus=1, **SMALL) for _ in range(2)]
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made, nodes
    ray.shutdown()
    made.shutdown()


def tensors(folder):
    at = newest(folder.path / "checkpoints")
    return {file.name: file.read_bytes() for file in at.glob("*.safetensors")}


def test_a_group_shrinks_and_grows_and_no_bit_changes(tmp_path, cluster, monkeypatch):
    made, nodes = cluster
    monkeypatch.setattr(crew, "_MONITOR", 3.0)
    (tmp_path / "mine.py").write_text(RECIPE)
    go = tmp_path / "go"
    go.write_text("10")
    spec = replace(resolve(f"{tmp_path / 'mine.py'}:mine", {"go": str(go)}), parts=4)
    folder = RunFolder(tmp_path / "run")
    begun = time.monotonic()
    happened = []

    def said(what):
        happened.append((what, round(time.monotonic() - begun, 1)))
        print(f"{happened[-1][1]:6.1f} s  {what}", flush=True)

    def at(step, workers):
        lines = read(folder.path)
        return lines and lines[-1]["step"] >= step and lines[-1]["workers"] == workers

    with ThreadPoolExecutor(1) as thread:  # Ray starts nodes in the main thread only
        training = thread.submit(train, folder, spec, workers=2, least=1, fresh=False, screen=SCREEN)

        def until(what, then, seconds=180):
            end = time.monotonic() + seconds
            while not then():
                if training.done():
                    training.result()
                assert time.monotonic() < end, f"{what} took more than {seconds} s"
                time.sleep(0.05)

        try:
            until("the first steps", lambda: at(10, 2))
            said("two workers train")
            os.kill(nodes[1].all_processes[PROCESS_TYPE_RAYLET][0].process.pid, signal.SIGKILL)
            said("a raylet is killed")
            until("going on with one", lambda: at(10, 1))
            said("one worker has done the same steps")
            go.write_text("20")
            until("ten steps more", lambda: at(20, 1))
            made.add_node(num_cpus=1, **SMALL)
            said("a host has come")
            until("the word to save", lambda: (folder.path / "PAUSE").exists())
            said("the worker is told to save")
            go.write_text("1000")
            until("two again", lambda: read(folder.path)[-1]["workers"] == 2)
            said("two workers train")
            state = training.result()
            said("done")
        finally:
            go.write_text("1000")
            (folder.path / "STOP").touch()
    assert (state.step, state.finished) == (60, True)

    lines = read(folder.path)
    assert [line["step"] for line in lines] == list(range(1, 61))
    crews = [(line["workers"], line["restarts"]) for line in lines]
    alone = crews.count((1, 1))
    assert 20 <= alone <= 22  # no step that one worker did was done again by two: they were saved before
    assert crews == [(1, 1)] * alone + [(2, 1)] * (60 - alone)  # growing is no restart

    quiet = RunFolder(tmp_path / "quiet")
    train(quiet, spec, workers=0, fresh=False, screen=SCREEN)
    assert tensors(folder) == tensors(quiet)
