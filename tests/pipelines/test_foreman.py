"""The foreman: when training on workers goes on, and when it ends. Ray Train's states are made by hand here."""

import json
import threading
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # importing ray.train warns of ray.data's own options
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def foreman(tmp_path, monkeypatch):
    """(foreman, hosts, checkpoints): the last two are what it sees, to be changed."""
    from gensys.pipelines import foreman as module

    hosts, checkpoints = ["a", "b"], [None]
    monkeypatch.setattr(module.ray, "nodes", lambda: [{"NodeID": h, "Alive": True} for h in hosts])
    monkeypatch.setattr(module, "newest", lambda root: checkpoints[-1])
    return module.Foreman(tmp_path), hosts, checkpoints


def restarting(*failures):
    from ray.train.v2._internal.execution.controller.state import RestartingState
    from ray.train.v2.api.exceptions import WorkerGroupError

    return RestartingState(WorkerGroupError("", dict(enumerate(failures))))


def restarts(folder):
    return json.loads((folder / "crew.json").read_text())["restarts"]


def test_the_same_failure_three_times_ends_the_run(foreman, tmp_path):
    from gensys.errors import TrainingError

    made, _, _ = foreman
    for _ in range(2):
        made.after_controller_state_update(None, restarting(RuntimeError("gone"), OSError("the disk is full")))
    made.on_controller_start_worker_group(scaling_config=None, num_workers=2)
    assert restarts(tmp_path) == 2
    with pytest.raises(TrainingError, match="failed 3 times without a newer checkpoint: OSError: the disk is full"):
        made.after_controller_state_update(None, restarting(RuntimeError("gone"), OSError("the disk is full")))


def test_a_newer_checkpoint_or_other_hosts_are_a_new_start(foreman, tmp_path):
    made, hosts, checkpoints = foreman
    for k in range(6):
        made.after_controller_state_update(None, restarting(RuntimeError("gone")))
        if k % 2:
            checkpoints.append(Path(f"checkpoints/{k}"))
        if k == 2:
            hosts.remove("b")
    made.on_controller_start_worker_group(scaling_config=None, num_workers=1)
    assert restarts(tmp_path) == 6


def test_what_a_person_has_to_mend_ends_the_run_at_once(foreman):
    from gensys.errors import DataError

    with pytest.raises(DataError, match="row 7"):
        foreman[0].after_controller_state_update(None, restarting(RuntimeError("gone"), DataError("row 7")))


def test_workers_save_before_a_planned_change_which_is_no_failure(foreman, tmp_path, monkeypatch):
    from gensys.pipelines import foreman as module
    from ray.train.v2._internal.execution.controller.state import ResizingState

    made, _, _ = foreman
    made.after_controller_state_update(None, ResizingState(None))
    assert not (tmp_path / "PAUSE").exists()  # they still wait for their order: nothing to save
    (tmp_path / "job.json").touch()

    def save():
        while not (tmp_path / "PAUSE").exists():
            pass
        (tmp_path / "PAUSED").touch()

    worker = threading.Thread(target=save)
    worker.start()
    made.after_controller_state_update(None, ResizingState(None))
    worker.join()
    made.after_controller_state_update(None, restarting(RuntimeError("paused")))
    made.on_controller_start_worker_group(scaling_config=None, num_workers=3)
    assert restarts(tmp_path) == 0
    assert not (tmp_path / "PAUSE").exists()
    assert not (tmp_path / "PAUSED").exists()

    monkeypatch.setattr(module, "_PAUSE", 0.1)  # workers that hang are not waited for
    made.after_controller_state_update(None, ResizingState(None))
    assert (tmp_path / "PAUSE").exists()


@pytest.mark.parametrize(("text", "size"), [("0", (0, 0)), ("3", (0, 3)), ("1:4", (1, 4)), ("2:2", (2, 2))])
def test_the_size_of_a_crew(text, size):
    from gensys.arguments import CrewSize

    assert CrewSize().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "two", "-1", "1:", ":2", "0:2", "4:1", "1:2:3", "1.5"])
def test_what_is_no_size_is_refused(text):
    import click

    from gensys.arguments import CrewSize

    with pytest.raises(click.BadParameter, match="is neither a number of workers"):
        CrewSize().convert(text, None, None)
