import zipfile

import numpy as np
import pytest
import torch
from imagery import encoded, everything
from PIL import Image

from gensys.data.sources import image_shape, open_source, split
from gensys.errors import DataError

DRAW = np.random.default_rng(0)
PIXELS = DRAW.integers(0, 256, (6, 16, 16, 3), np.uint8)
LABELS = np.array([2, 0, 1, 2, 0, 1])


@pytest.fixture
def folder(tmp_path):
    """The same images as PNG, by class."""
    root = tmp_path / "folder"
    for k, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / str(label) / f"{k}.png")
    return open_source(root, 16)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_equals_the_folder(tmp_path, folder, layout, save):
    order = np.argsort(LABELS, kind="stable")  # the folder's: by class, then by name
    x = PIXELS[order] if layout == "nhwc" else PIXELS[order].transpose(0, 3, 1, 2)
    save(tmp_path / "a.npz", x=x, y=LABELS[order])
    source = open_source(tmp_path / "a.npz", 99)  # the size is the array's own
    assert torch.equal(everything(source).x, everything(folder).x)
    assert torch.equal(everything(source).cond["label"], everything(folder).cond["label"])
    assert (source.shape, source.classes, source.texts(torch.arange(6))) == ((3, 16, 16), ("0", "1", "2"), None)
    assert "6 RGB images of the array" in source.about
    assert source.quarantine() == {}


def test_npy_is_mapped(tmp_path):
    np.save(tmp_path / "a.npy", PIXELS[..., 0])
    source = open_source(tmp_path / "a.npy")
    assert isinstance(source.x.base, np.memmap)
    assert not source.x.flags.writeable
    assert torch.equal(everything(source).x, torch.from_numpy(PIXELS[..., 0].astype(np.float32))[:, None] / 127.5 - 1)
    assert (source.shape, source.classes) == ((1, 16, 16), ())
    assert source.named(torch.tensor([3])) == ["a.npy:3"]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_vectors_are_taken_as_they_are(tmp_path, dtype):
    values = (100 * DRAW.standard_normal((5, 7))).astype(dtype)
    np.savez(tmp_path / "a.npz", x=values, y=np.array(["b", "a", "b", "c", "a"]))
    source = open_source(tmp_path / "a.npz")
    assert torch.equal(everything(source).x, torch.from_numpy(values.astype(np.float32)))
    assert everything(source).cond["label"].tolist() == [1, 0, 1, 2, 0]
    assert (source.shape, source.classes) == ((7,), ("a", "b", "c"))
    with pytest.raises(DataError, match=r"images are wanted.*'a' holds rows of shape \(7,\)"):
        image_shape(source)


def test_numbers_that_are_not_finite(tmp_path):
    values = DRAW.standard_normal((9, 3))
    values[2, 1], values[5, 0], values[7, 0] = np.nan, -np.inf, 1e300
    np.save(tmp_path / "a.npy", values)
    source = open_source(tmp_path / "a.npy")
    assert list(source.quarantine()) == [2, 5, 7]
    with pytest.raises(DataError, match=r"'a\.npy:5' cannot be used: it holds a number that is not finite"):
        source.batch(torch.tensor([0, 5]), None)
    source.batch(torch.tensor([0, 1, 8]), None)


def test_fingerprint(tmp_path):
    np.savez(tmp_path / "a.npz", x=PIXELS, y=LABELS)
    np.savez_compressed(tmp_path / "b.npz", x=PIXELS.transpose(0, 3, 1, 2), y=LABELS)
    first = open_source(tmp_path / "a.npz").fingerprint()
    assert open_source(tmp_path / "b.npz").fingerprint() == first
    changed = PIXELS.copy()
    changed[3, 0, 0, 0] ^= 1
    for x, y in ((changed, LABELS), (PIXELS, LABELS[::-1]), (PIXELS, np.full(6, 2))):
        np.savez(tmp_path / "c.npz", x=x, y=y)
        assert open_source(tmp_path / "c.npz").fingerprint() != first
    digests = [open_source(tmp_path / "a.npz").digests(), open_source(tmp_path / "b.npz").digests()]
    assert np.array_equal(*digests)
    assert digests[0].shape == (6, 16)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"z": PIXELS}, "holds the arrays z, and the data are to be called 'x'"),
        ({}, r"holds the arrays \(none\)"),
        ({"x": PIXELS[:0]}, "images are uint8"),
        ({"x": PIXELS.astype(np.float32)}, "is float32 of shape .*images are uint8"),
        ({"x": PIXELS[..., :2]}, "neither 1 nor 3 channels"),
        ({"x": np.zeros((4, 3, 5, 3), np.uint8)}, "second axis or its last"),
        ({"x": np.zeros(4)}, "images are uint8"),
        ({"x": np.zeros((4, 2), complex)}, "is complex128"),
        ({"x": np.array([["a"]])}, "is <U1"),
        ({"x": np.array([[{}]])}, "cannot be read .*allow_pickle=False"),
        ({"x": PIXELS, "y": LABELS[:3]}, "6 whole numbers or words are wanted"),
        ({"x": PIXELS, "y": LABELS.astype(float)}, "whole numbers or words"),
        ({"x": PIXELS, "y": LABELS - 3}, "numbers from 0"),
        ({"x": PIXELS, "y": LABELS + 10**9}, "number them anew"),
        ({"x": PIXELS, "y": np.array([None] * 6)}, "allow_pickle=False"),
    ],
)
def test_arrays_of_something_else(tmp_path, arrays, reason):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=reason):
        open_source(tmp_path / "a.npz")


def test_damaged_files(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=PIXELS)
    np.save(tmp_path / "b.npy", PIXELS)
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as file:
        file.writestr("x.npy", b"no array")
    flipped = bytearray((tmp_path / "a.npz").read_bytes())
    flipped[300:310] = bytes(10)
    for name, data in [
        ("a.npz", (tmp_path / "a.npz").read_bytes()[:-40]),
        ("a.npz", bytes(flipped)),
        ("b.npy", (tmp_path / "b.npy").read_bytes()[:-1]),
        ("b.npy", b""),
        ("b.npy", encoded(0)),
        ("a.npz", b""),
        ("c.npz", (tmp_path / "c.npz").read_bytes()),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name}.* cannot be read"):
            open_source(tmp_path / name)


def test_a_split_needs_no_look_at_the_data(tmp_path):
    np.save(tmp_path / "a.npy", DRAW.standard_normal((200, 2)))
    train, test = split(open_source(tmp_path / "a.npy"))
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(200))
