import os

import pytest
import torch
from imagery import encoded, everything

from gensys.data.quarantine import check_quarantine, readable, record, told, without
from gensys.data.sources import open_source, split
from gensys.errors import DataError


@pytest.fixture
def source(tmp_path):
    """A hundred images, of which three cannot be read."""
    for k in range(100):
        (tmp_path / f"{k:03}.png").write_bytes(encoded(k, size=(8, 8)))
    (tmp_path / "010.png").write_bytes(encoded(10)[:200])
    (tmp_path / "050.png").write_bytes(b"")
    (tmp_path / "051.png").unlink()
    os.mkfifo(tmp_path / "051.png")  # a reader of it would wait for ever
    return open_source(tmp_path, 8)


def test_a_share_is_allowed(source):
    found = check_quarantine(source, 0.03)
    assert dict(found) == {
        10: "image file is truncated",
        50: "it is empty",
        51: "not a file but a pipe, a device or a folder",
    }
    assert told(source, found) == (
        "3 of 100 rows cannot be read: '010.png' (image file is truncated); '050.png' (it is empty); '051.png' (not a "
        "file but a pipe, a device or a folder)"
    )
    assert record(source, found)[1] == {"row": 50, "item": "050.png", "why": "it is empty"}


@pytest.mark.parametrize("share", [None, 0.0, 0.029])
def test_more_are_an_error_that_says_what_to_do(source, share):
    with pytest.raises(DataError, match=r"3 of 100 .*'010\.png'.*3\.00% of .*at most \d.*--allow-damaged SHARE"):
        check_quarantine(source, share)


def test_nothing_left_is_an_error_at_any_share(tmp_path):
    for name in "abcdefg":
        (tmp_path / f"{name}.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"7 of 7.*'e\.png' \(no image that Pillow knows\); and 2 more"):
        check_quarantine(open_source(tmp_path), 1.0)


def test_healthy_data_have_nothing_to_tell(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(0))
    source = open_source(tmp_path)
    assert (check_quarantine(source, 0.0), told(source, {}), record(source, {})) == ({}, "", [])


def test_rows_in_quarantine_are_left_out_of_both_parts(source):
    whole, sound = split(source), readable(source)
    assert sorted(torch.cat(whole).tolist()) == list(range(100))
    assert sorted({*torch.cat(whole).tolist()} - {*torch.cat(sound).tolist()}) == [10, 50, 51]
    assert without(torch.tensor([51, 3, 10, 3]), {10, 51}).tolist() == [3, 3]
    for rows in sound:
        source.batch(rows, None)
    for row in (10, 50, 51):
        with pytest.raises(DataError, match=f"0{row}.png.* is damaged"):
            source.batch(torch.tensor([row]), None)
    with pytest.raises(DataError, match=r"010\.png"):
        everything(source)
