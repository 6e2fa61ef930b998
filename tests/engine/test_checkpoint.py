"""Checkpoints: bit-exact, committed last, and whole or passed over whatever happens to them."""

import errno
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch import nn

from gensys import durable
from gensys.engine.checkpoint import (
    Saver,
    State,
    best,
    checkpoint_tensors,
    fault,
    load_optimizer,
    load_weights,
    newest,
    read_state,
    save_checkpoint,
)
from gensys.engine.optim import Optim, adamw
from gensys.errors import CheckpointError, GensysError


def make(seed=0, width=5):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def stepped(model, steps=3):
    parts = {"a": model[0], "b": model[2]}
    optimizers = {name: adamw(list(part.parameters()), Optim()) for name, part in parts.items()}
    for k in range(steps):
        model(torch.full((4, 3), float(k)) + torch.eye(4, 3)).square().sum().backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
    return optimizers


def save(root, step, model=None, keep=2, **state):
    model = model or make(step)
    tensors = checkpoint_tensors(model, model, stepped(make(step)))
    return save_checkpoint(root, tensors, State(step, step * 10, **state), keep)


def flat(optimizer):
    state = optimizer.state_dict()["state"]
    return [(index, name, value) for index, entry in state.items() for name, value in sorted(entry.items())]


def test_a_round_trip_is_bit_exact(tmp_path):
    model, average = make(1), make(2)
    optimizers = stepped(model)
    state = State(7, 70, 0.1 + 0.2, True)
    made = save_checkpoint(tmp_path, checkpoint_tensors(model, average, optimizers), state, 2)
    assert newest(tmp_path) == made
    assert read_state(made) == state

    model_2, average_2 = make(3), make(4)
    optimizers_2 = stepped(model_2, 1)
    load_weights(model_2, made / "model.safetensors")
    load_weights(average_2, made / "average.safetensors")
    load_optimizer(optimizers_2, made)
    for before, after in ((model, model_2), (average, average_2)):
        for name, value in before.state_dict().items():
            assert torch.equal(value, after.state_dict()[name]), name
    for player in optimizers:
        pairs = zip(flat(optimizers[player]), flat(optimizers_2[player]), strict=True)
        for (index, name, value), (index_2, name_2, value_2) in pairs:
            assert (index, name, value.dtype) == (index_2, name_2, value_2.dtype)
            assert torch.equal(value, value_2)
    again = save_checkpoint(tmp_path / "again", checkpoint_tensors(model_2, average_2, optimizers_2), state, 2)
    for file in sorted(made.iterdir()):
        assert file.read_bytes() == (again / file.name).read_bytes()


def test_an_optimizer_before_its_first_step_is_kept_too(tmp_path):
    model = make()
    made = save_checkpoint(tmp_path, checkpoint_tensors(model, model, stepped(model, 0)), State(), 2)
    optimizers = stepped(make(1), 2)
    load_optimizer(optimizers, made)
    assert all(flat(optimizer) == [] for optimizer in optimizers.values())


def test_nowhere_and_nothing_is_none(tmp_path):
    assert newest(tmp_path / "nothing") is None
    assert newest(tmp_path) is None
    (tmp_path / "00000009").mkdir()
    assert newest(tmp_path) is None


def unreadable(directory):
    (directory / "optim.safetensors").unlink()
    (directory / "optim.safetensors").mkdir()  # what a disk that failed would be told with another number


def without_marker(directory):
    (directory / "COMMITTED").unlink()


def flipped(directory):
    file = directory / "average.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def truncated(directory):
    with open(directory / "optim.safetensors", "r+b") as file:
        file.truncate(100)


def missing(directory):
    (directory / "model.safetensors").unlink()


def torn_marker(directory):
    file = directory / "COMMITTED"
    file.write_bytes(file.read_bytes()[:20])


def empty_marker(directory):
    (directory / "COMMITTED").write_bytes(b"")


def binary_marker(directory):
    (directory / "COMMITTED").write_bytes(b"\xff\xfe\x00")


def marker_of_nothing(directory):
    (directory / "COMMITTED").write_bytes(b"{}")


def marker_of_another_kind(directory):
    (directory / "COMMITTED").write_bytes(b"[1]")


DAMAGES = [
    without_marker,
    flipped,
    truncated,
    missing,
    torn_marker,
    empty_marker,
    binary_marker,
    marker_of_nothing,
    marker_of_another_kind,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_passed_over(tmp_path, damage):
    one, two = save(tmp_path, 1), save(tmp_path, 2)
    assert newest(tmp_path) == two
    damage(two)
    assert fault(two)
    assert newest(tmp_path) == one


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_made_again_at_its_step(tmp_path, damage):
    save(tmp_path, 1)
    damage(save(tmp_path, 2))
    made = save(tmp_path, 2)
    assert newest(tmp_path) == made
    assert read_state(newest(tmp_path)).step == 2


def test_the_newest_ones_are_kept(tmp_path):
    for step in (1, 2, 3, 10, 100):
        save(tmp_path, step, keep=3)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["00000003", "00000010", "00000100"]


def test_what_a_killed_save_left_is_swept(tmp_path):
    save(tmp_path, 1)
    without_marker(save(tmp_path, 2))
    save(tmp_path, 3)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["00000001", "00000003"]


def test_the_same_step_is_not_written_twice(tmp_path):
    made = save(tmp_path, 4)
    before = {file.name: file.stat().st_mtime_ns for file in made.iterdir()}
    assert save(tmp_path, 4) == made
    assert {file.name: file.stat().st_mtime_ns for file in made.iterdir()} == before


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".pkl"])
def test_a_pickle_is_never_opened(tmp_path, suffix):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="never loads pickles"):
        load_weights(make(), path)
    path = path.rename(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_weights(make(), path)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_recipe_is_named_with_its_differences(tmp_path):
    made = save(tmp_path, 1, make(width=5))
    with pytest.raises(CheckpointError) as caught:
        load_weights(make(width=6), made / "model.safetensors")
    said = str(caught.value)
    assert str(made / "model.safetensors") in said
    assert "0.weight (5, 3) here, (6, 3) in the model" in said
    assert "more" in said
    with pytest.raises(CheckpointError, match=r"0\.weight is not in the model.*weight is missing"):
        load_weights(nn.Linear(3, 5, bias=False), _only(tmp_path, made, "0.weight"))


def _only(tmp_path, made, name):
    from safetensors.torch import load_file, save_file

    save_file({name: load_file(made / "model.safetensors")[name]}, tmp_path / "one.safetensors")
    return tmp_path / "one.safetensors"


def test_a_mismatch_changes_no_weight(tmp_path):
    made, model = save(tmp_path, 1, make(width=5)), make(width=6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError):
        load_weights(model, made / "model.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("fail_at", [0, 1, 3, 4])
def test_a_refusing_disk_leaves_the_old_one_whole(tmp_path, monkeypatch, code, fail_at):
    one, calls, real = save(tmp_path, 1), [], durable.write

    def write(path, data):
        calls.append(path)
        if len(calls) > fail_at:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(code, os.strerror(code), str(path))
        real(path, data)

    monkeypatch.setattr(durable, "write", write)
    with pytest.raises(GensysError, match="saving a checkpoint"):
        save(tmp_path, 2)
    assert newest(tmp_path) == one
    monkeypatch.undo()
    two = save(tmp_path, 2)
    assert newest(tmp_path) == two


def test_a_read_only_folder_is_an_error_of_gensys(tmp_path):
    save(tmp_path / "c", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(GensysError):
        save(tmp_path / "file", 2)  # also root, whom no permission stops, cannot make a directory in a file
    if os.geteuid():
        (tmp_path / "c").chmod(0o555)
        with pytest.raises(GensysError, match="permission"):
            save(tmp_path / "c", 2)
        (tmp_path / "c").chmod(0o755)
        assert newest(tmp_path / "c").name == "00000001"


SAVER = """
import sys
from pathlib import Path
import torch
from gensys.engine.checkpoint import Saver, State, checkpoint_tensors
root, step = Path(sys.argv[1]), int(sys.argv[2])
model = torch.nn.Linear(200, 200)
with Saver(root, 2) as saver:
    while True:
        step += 1
        with torch.no_grad():
            model.weight.fill_(step)
        saver.save(checkpoint_tensors(model, model, {}), State(step))
        with torch.no_grad():
            model.weight.fill_(-1)  # training goes on at once: what is written is a copy
        print(step - 1, flush=True)  # which has been waited for
"""


def test_killed_while_saving_the_newest_always_loads(tmp_path):
    """A process that saves in a loop is killed at random moments and started again where it was."""
    generator, step, model = random.Random(0), 0, nn.Linear(200, 200)
    for _ in range(4):
        command = [sys.executable, "-c", SAVER, str(tmp_path), str(step)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            said = [process.stdout.readline() for _ in range(2)]
            time.sleep(generator.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            said += process.stdout.read().splitlines()
        found = newest(tmp_path)
        state = read_state(found)
        assert state.step >= int(said[-1])  # what was reported as saved is there
        load_weights(model, found / "average.safetensors")
        load_weights(model, found / "model.safetensors")
        assert (model.weight == state.step).all()
        assert len([d for d in tmp_path.iterdir() if fault(d) is None]) <= 3
        step = state.step


def test_nothing_of_a_checkpoint_is_a_pickle(tmp_path):
    made = save(tmp_path, 1)
    assert sorted(file.name for file in made.iterdir()) == [
        "COMMITTED",
        "average.safetensors",
        "model.safetensors",
        "optim.safetensors",
        "state.json",
    ]
    assert set(json.loads((made / "COMMITTED").read_text())) == {file.name for file in made.iterdir()} - {"COMMITTED"}
    shutil.rmtree(made)
    assert newest(tmp_path) is None


# -------------------------------------------------------------------------------------------------- in the background


def plain(value):
    model = nn.Linear(3, 3)
    with torch.no_grad():
        model.weight.fill_(value)
    return model


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """What is written is what was there when it was asked for, and it is committed when the block has ended."""
    gate, real = threading.Event(), durable.write

    def write(path, data):
        assert gate.wait(60)
        real(path, data)

    monkeypatch.setattr(durable, "write", write)
    model = plain(1.0)
    with Saver(tmp_path, 2) as saver:
        saver.save(checkpoint_tensors(model, model, {}), State(1))
        with torch.no_grad():
            model.weight.fill_(2.0)
        saver.check()
        assert saver.busy
        assert newest(tmp_path) is None
        gate.set()
    load_weights(model, newest(tmp_path) / "model.safetensors")
    assert (model.weight == 1.0).all()


def test_the_memory_of_a_copy_is_used_again(tmp_path):
    model = plain(0.0)
    with Saver(tmp_path, 9) as saver:
        places = []
        for step in (1, 2, 3):
            with torch.no_grad():
                model.weight.fill_(step)
            saver.save(checkpoint_tensors(model, model, {}), State(step))
            places.append({key: value.data_ptr() for key, value in saver._memory.items()})
    assert places[0] == places[1] == places[2]
    for directory in tmp_path.iterdir():
        load_weights(model, directory / "average.safetensors")
        assert (model.weight == int(directory.name)).all()


def test_what_goes_wrong_in_the_background_is_raised(tmp_path, monkeypatch):
    model = plain(0.0)
    tensors = checkpoint_tensors(model, model, {})
    with Saver(tmp_path, 2) as saver:
        saver.save(tensors, State(1))

    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(durable, "write", full)
    with Saver(tmp_path, 2) as saver:
        saver.save(tensors, State(2))
        while saver.busy:
            time.sleep(0.01)
        with pytest.raises(GensysError, match="the disk is full"):
            saver.check()
    with pytest.raises(GensysError, match="the disk is full"), Saver(tmp_path, 2) as saver:
        saver.save(tensors, State(2))

    def both():
        with Saver(tmp_path, 2) as saver:
            saver.save(tensors, State(2))
            raise KeyError("something else")

    with pytest.raises(KeyError) as caught:
        both()
    assert "the disk is full" in caught.value.__notes__[0]
    assert newest(tmp_path).name == "00000001"


# ------------------------------------------------------------------------------------------- the best, and what is told


def test_the_best_one_is_kept_beside_the_newest(tmp_path):
    for step, score in enumerate([5.0, 3.0, 4.0, None, 3.0, 6.0, 7.0, 8.0], start=1):
        save(tmp_path, step, score=score)
    assert sorted(int(d.name) for d in tmp_path.iterdir()) == [5, 7, 8]  # of two that are as good, the newer
    assert best(tmp_path).name == "00000005"
    assert newest(tmp_path).name == "00000008"
    save(tmp_path, 9, score=1.0)
    assert sorted(int(d.name) for d in tmp_path.iterdir()) == [8, 9]
    assert best(tmp_path).name == "00000009"


def test_without_scores_there_is_no_best(tmp_path):
    save(tmp_path, 1)
    assert best(tmp_path) is None
    assert best(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (flipped, "average.safetensors is damaged"),
        (missing, "model.safetensors is missing"),
        (unreadable, "optim.safetensors cannot be read (Is a directory)"),
        (torn_marker, "COMMITTED is damaged"),
        (without_marker, "its saving did not end"),
    ],
)
def test_damage_is_told_with_what_is_used_instead(tmp_path, damage, why):
    save(tmp_path, 1, score=2.0)
    two = save(tmp_path, 2, score=1.0)
    damage(two)
    for choose in (newest, best):
        said = []
        assert choose(tmp_path, said.append).name == "00000001"
        assert said == [f"the checkpoint {str(two)!r} is passed over, as {why}: that of step 1 is used instead"]
    damage(tmp_path / "00000001")
    said = []
    assert newest(tmp_path, said.append) is None
    assert len(said) == 2
    assert said[0].endswith("there is no other to use instead")


def test_a_damaged_best_does_not_displace_a_whole_one(tmp_path):
    save(tmp_path, 1, score=2.0)
    flipped(save(tmp_path, 2, score=1.0))
    for step in (3, 4, 5):
        save(tmp_path, step, score=9.0)
    assert best(tmp_path).name == "00000001"
