"""metrics.jsonl: what a kill tears is left out, and resuming cuts what came after the checkpoint."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gensys.engine.log import Log, last, read

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")


def write(folder, steps, start=0):
    folder.mkdir(exist_ok=True)
    log = Log(folder, start)
    for step in steps:
        log.write(step, {"loss": 1.0 / step, "lr": 0.1})
    log.close()


def test_what_is_written_is_read(tmp_path):
    assert read(tmp_path) == []
    write(tmp_path, [1, 2, 3])
    assert [line["step"] for line in read(tmp_path)] == [1, 2, 3]
    assert read(tmp_path)[1] == {"step": 2, "loss": 0.5, "lr": 0.1}


def test_every_line_is_on_the_disk_at_once(tmp_path):
    log = Log(tmp_path, 0)
    log.write(1, {"loss": 0.5})
    assert read(tmp_path) == [{"step": 1, "loss": 0.5}]
    log.close()


def test_resuming_cuts_what_came_after_the_checkpoint(tmp_path):
    write(tmp_path, [10, 20, 30])
    write(tmp_path, [30, 40], start=20)
    write(tmp_path / "quiet", [10, 20, 30, 40])
    assert (tmp_path / "metrics.jsonl").read_bytes() == (tmp_path / "quiet" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("torn", ["{", '{"step": 3', '{"step": 3, "loss": 0.1}'])
def test_a_torn_last_line_is_left_out_and_written_over(tmp_path, torn):
    write(tmp_path, [1, 2])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(torn)
    assert [line["step"] for line in read(tmp_path)] == [1, 2]
    write(tmp_path, [3], start=2)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_a_fresh_start_keeps_no_line(tmp_path):
    write(tmp_path, [1, 2])
    write(tmp_path, [1], start=0)
    assert [line["step"] for line in read(tmp_path)] == [1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


@pytest.mark.parametrize("damage", [b"{\xff", b"[]", b"", b'{"loss": 1.0}'])
def test_a_damaged_line_is_left_out(tmp_path, damage):
    write(tmp_path, [1, 2, 3])
    lines = (tmp_path / "metrics.jsonl").read_bytes().split(b"\n")
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([lines[0], damage, *lines[2:]]))
    assert [line["step"] for line in read(tmp_path)] == [1, 3]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([lines[0], damage, b""]))
    assert last(tmp_path) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_tensorboard_is_given_curves_and_pictures(tmp_path, channels):
    picture = torch.arange(channels * 20, dtype=torch.uint8).reshape(channels, 4, 5)
    log = Log(tmp_path, 0)
    log.write(1, {"loss": 0.5})
    log.picture(1, picture)
    log.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(1, 0.5)]
    (event,) = board.Images("samples")
    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        shown = np.asarray(image.convert("RGB"))
    assert event.step == 1
    assert (shown == picture.expand(3, 4, 5).permute(1, 2, 0).numpy()).all()
