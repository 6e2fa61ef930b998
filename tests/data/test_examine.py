"""Decoders that die and hang, in children that this process outlives."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from imagery import encoded, everything

from gensys.data import examine as module
from gensys.data.decode import DamagedError, decode
from gensys.data.examine import examine
from gensys.data.sources import open_source
from gensys.errors import DataError

SHAPE = (3, 16, 16)
# A child whose decoder does what the bytes say, as a damaged file can make a decoder in C do.
MENACE = """
import os, signal, sys, time
from gensys.data import examine
real = examine.decode
def decode(data, shape):
    if data == b"hang":
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        time.sleep(600)
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"leave":
        os._exit(3)
    if data == b"memory":
        raise MemoryError
    if data == b"noise":
        os.write(1, b"libpng warning")
    if data.startswith(b"once:"):
        name = data.removeprefix(b"once:")
        if not os.path.exists(name):
            open(name, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
    return real(data if data.startswith(b"\\x89PNG") else PNG, shape)
PNG = bytes.fromhex("%s")
examine.decode = decode
examine.serve()
"""


@pytest.fixture
def menace(monkeypatch):
    monkeypatch.setattr(module, "_CHILD", MENACE % encoded(99).hex())


def look(items, keep=None):
    return examine(len(items), lambda row: items[row], lambda row: b"", SHAPE, keep)


def test_pixels_and_digests_are_those_of_this_process():
    items = [encoded(k) for k in range(200)]
    kept = np.zeros((200, *SHAPE), np.uint8)
    found = look(items, lambda row, pixels: kept.__setitem__(row, pixels))
    assert np.array_equal(kept, [decode(data, SHAPE) for data in items])
    assert found.quarantine == {}
    assert len(np.unique(found.digests, axis=0)) == 200
    assert np.array_equal(look(items).digests, found.digests)


@pytest.mark.usefixtures("menace")
def test_what_kills_a_decoder_costs_one_item(monkeypatch, tmp_path):
    before = set(threading.enumerate())
    monkeypatch.setattr(module, "DEADLINE", 3.0)
    monkeypatch.setattr(module, "_ITEMS", 40)  # two children
    items = [encoded(k) for k in range(160)]
    bad = {3: b"crash", 4: b"leave", 70: b"hang", 71: b"memory", 159: b"crash"}
    for row, data in bad.items():
        items[row] = data
    items[90], items[91] = b"noise", b"once:" + os.fsencode(tmp_path / "died")
    kept = {}
    found = look(items, lambda row, pixels: kept.__setitem__(row, pixels.copy()))
    assert found.quarantine == {
        3: "its decoder died, twice (SIGSEGV)",
        4: "its decoder died, twice (exit status 3)",
        70: "decoding took longer than 3 s",
        71: "it needs more memory than there is",
        159: "its decoder died, twice (SIGSEGV)",
    }
    assert sorted(kept) == [row for row in range(160) if row not in bad]
    assert all(np.array_equal(kept[row], decode(items[row], SHAPE)) for row in (0, 2, 5, 72, 158))
    assert set(threading.enumerate()) <= before


def test_blocks_are_cut_by_their_bytes(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 1)
    assert look([encoded(0), b"", encoded(1)]).quarantine == {1: "it is empty"}


def test_what_cannot_be_read_has_a_digest_too():
    def read(row):
        if row == 1:
            raise DamagedError("gone")
        return encoded(0)

    found = examine(3, read, lambda row: b"", SHAPE)
    assert found.quarantine == {1: "gone"}
    assert np.array_equal(found.digests[0], found.digests[2])
    assert not np.array_equal(found.digests[0], found.digests[1])


def test_children_that_cannot_start_are_no_damage(monkeypatch):
    monkeypatch.setattr(module, "_CHILD", "import no_such_module")
    with pytest.raises(DataError, match=r"no process that decodes images can be started: .*no_such_module"):
        look([encoded(0)])


def test_errors_of_this_process_end_the_examination(monkeypatch):
    before = set(threading.enumerate())
    monkeypatch.setattr(module, "_ITEMS", 10)

    def read(row):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        examine(1000, read, lambda row: b"", SHAPE)
    assert set(threading.enumerate()) <= before


def test_no_child_outlives_a_parent_that_was_killed(tmp_path):
    """Killed while the child waits for work: the child reads the end of its input."""
    program = (
        "import os, signal\nfrom gensys.data.examine import _Child\n"
        "child = _Child((1, 8, 8))\nprint(child._process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    child = int(done.stdout)
    for _ in range(200):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        threading.Event().wait(0.05)
    raise AssertionError("the child is still there")


def test_modules_beside_the_data_are_not_executed(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('executed')")
    (tmp_path / "a.png").write_bytes(encoded(0))
    monkeypatch.chdir(tmp_path)
    assert open_source(tmp_path).quarantine() == {}


def test_decoded_once(tmp_path, monkeypatch):
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(encoded(k))
    source, fresh = open_source(tmp_path), open_source(tmp_path)
    source.fingerprint()
    wanted = everything(fresh).x
    monkeypatch.setattr("gensys.data.images.decode", None)
    assert torch.equal(everything(source).x, wanted)


def test_two_processes_give_one_fingerprint(folder):
    program = "import sys; from gensys.data.sources import open_source; print(open_source(sys.argv[1]).fingerprint())"
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == open_source(folder).fingerprint()
