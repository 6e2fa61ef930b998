"""Captions of image folders; the images themselves are in test_images.py."""

import shutil

import numpy as np
import pytest
import torch
from imagery import encoded, everything, jsonl

from gensys.data.sources import open_source
from gensys.errors import DataError


def listed(folder, items, root):
    """A folder with metadata.jsonl instead of the texts."""
    shutil.copytree(folder, root)
    for text in root.rglob("*.txt"):
        text.unlink()
    names = open_source(folder).named(torch.arange(12))
    jsonl(root / "metadata.jsonl", [{"file_name": n, "text": i.caption} for n, i in zip(names, items, strict=True)])
    return root


def test_texts_beside_images(folder, items):
    source = open_source(folder)
    assert source.texts(torch.tensor([3, 0])) == [items[3].caption, items[0].caption]
    assert "12 RGB images" in source.about
    assert "with captions" in source.about


def test_metadata_of_hugging_face(folder, items, tmp_path):
    source, other = open_source(listed(folder, items, tmp_path / "a")), open_source(folder)
    assert source.texts(torch.arange(12)) == other.texts(torch.arange(12))
    assert np.array_equal(source.digests(), other.digests())
    assert source.fingerprint() == other.fingerprint()
    assert torch.equal(everything(source).x, everything(other).x)


def test_metadata_in_a_folder_below(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "a.png").write_bytes(encoded(0))
    (tmp_path / "b.png").write_bytes(encoded(1))
    jsonl(tmp_path / "cats" / "metadata.jsonl", [{"file_name": "./a.png", "text": "a cat"}])
    source = open_source(tmp_path)
    assert source.named(torch.arange(2)) == ["b.png", "cats/a.png"]
    assert source.texts(torch.arange(2)) == ["", "a cat"]


def test_a_caption_is_content(folder, items, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(folder, root)
    before = open_source(root)
    (root / "dog" / "004.txt").write_text("another")
    after = open_source(root)
    assert before.fingerprint() == open_source(folder).fingerprint() != after.fingerprint()
    assert (before.digests() != after.digests()).any(1).nonzero()[0].tolist() == [4]
    for text in root.rglob("*.txt"):
        text.unlink()
    assert open_source(root).texts(torch.arange(2)) is None


def test_texts_that_belong_to_no_image_are_no_captions(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(0))
    (tmp_path / "LICENSE.txt").write_text("free")
    assert open_source(tmp_path).texts(torch.arange(1)) is None


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (
            {"a.txt": b"x", "metadata.jsonl": b'{"file_name": "a.png", "text": "x"}'},
            "captions twice, in 'a.txt' and in",
        ),
        ({"a.txt": b"\xff"}, "cannot be read .*save them as UTF-8"),
        ({"a.txt": b"x", "a.jpg": b"y"}, "stands beside 'a.jpg' and 'a.png'"),
        ({"metadata.jsonl": b'\n{"file_name": "a.png"}'}, "line 2 .*must be"),
        ({"metadata.jsonl": b"[1]"}, "line 1 .*must be"),
        ({"metadata.jsonl": b'{"file_name": "a.png", "text": 3}'}, "file_name or text is no text"),
        ({"metadata.jsonl": b"file_name,text"}, "line 1 .*must be"),
        ({"metadata.jsonl": b'{"file_name": "c.png", "text": "x"}'}, "names 'c.png', and no image of that name"),
        ({"metadata.jsonl": b'{"file_name": "../a.png", "text": "x"}'}, "names '../a.png', and no image"),
        ({"metadata.jsonl": b'{"file_name": "a.png", "text": "x"}\n' * 2}, "a second caption"),
    ],
)
def test_captions_that_contradict_themselves(tmp_path, files, reason):
    (tmp_path / "a.png").write_bytes(encoded(0))
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=reason):
        open_source(tmp_path)


def test_other_kinds_below_are_told_of(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds 'data/a\.parquet': give that"):
        open_source(tmp_path)


def test_a_renamed_image_has_the_same_digest(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.png").write_bytes(encoded(0))
    first, second = (open_source(tmp_path / name) for name in ("a", "b"))
    assert np.array_equal(first.digests(), second.digests())
    assert first.fingerprint() == second.fingerprint()
