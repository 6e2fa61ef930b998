import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gensys.data.folder import open_folder
from gensys.data.sources import open_source
from gensys.errors import DataError
from gensys.noise import Noise

NO_NOISE = Noise(0, torch.arange(0))


def save(path, mode="RGB", size=(40, 40), colour=(255, 0, 0), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", size, colour).convert(mode).save(path, **options)


def noisy(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)


def fetch(folder, size=32):
    source = open_source(folder, size)
    return source.batch(torch.arange(len(source)), NO_NOISE)


def names(source):
    return source.named(torch.arange(len(source)))


def test_classes_are_folders(tmp_path):
    save(tmp_path / "cats" / "b.PNG")
    save(tmp_path / "cats" / "a.jpeg")
    save(tmp_path / "dogs" / "small" / "c.webp")
    save(tmp_path / "dogs" / "d.jpg")
    save(tmp_path / ".hidden" / "e.png")
    (tmp_path / "dogs" / "notes.txt").write_text("no image")
    source = open_source(tmp_path)
    assert source.classes == ("cats", "dogs", "dogs/small")
    assert names(source) == ["cats/a.jpeg", "cats/b.PNG", "dogs/d.jpg", "dogs/small/c.webp"]
    assert source.batch(torch.tensor([3, 0, 2]), NO_NOISE).cond["label"].tolist() == [2, 0, 1]
    assert (source.name, source.shape, len(source)) == (tmp_path.name, (3, 32, 32), 4)
    assert "4 RGB images" in source.about


def test_images_in_the_root_have_no_label(tmp_path):
    save(tmp_path / "a.png")
    assert open_source(tmp_path).classes == ()
    assert fetch(tmp_path).cond == {}
    save(tmp_path / "cats" / "b.png")
    assert fetch(tmp_path).cond["label"].tolist() == [-1, 0]


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_folders_have_one_channel(tmp_path, mode):
    save(tmp_path / "a.png", mode, colour=(255, 255, 255))
    assert fetch(tmp_path, 16).x.unique().tolist() == [1]
    assert open_source(tmp_path, 16).shape == (1, 16, 16)
    save(tmp_path / "b.png")
    assert fetch(tmp_path).x.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_colour_modes(tmp_path, mode):
    save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"), mode)
    red = fetch(tmp_path).x.mean((0, 2, 3))
    assert red.tolist() == pytest.approx([1, -1, -1], abs=0.02)


def test_transparent_pixels_are_white(tmp_path):
    save(tmp_path / "a.png", "RGBA", colour=(0, 0, 0, 0))
    save(tmp_path / "b.png", "RGBA", colour=(0, 0, 0, 51))
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 0])
    image.save(tmp_path / "c.png", transparency=0)
    assert fetch(tmp_path).x.mean((1, 2, 3)).tolist() == pytest.approx([1, 0.6, 1], abs=1e-6)


def test_sixteen_bits(tmp_path):
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(np.full((8, 8), 32896, np.uint16)).save(tmp_path / "b.png")
    assert fetch(tmp_path).x.mean((1, 2, 3)).tolist() == pytest.approx([1, 128 / 127.5 - 1], abs=1e-6)


def test_centre_crop_and_antialiasing(tmp_path):
    """A wide image keeps its middle; a fine chequerboard becomes grey, not a pattern."""
    pixels = np.zeros((32, 96), np.uint8)
    pixels[:, 32:64] = np.indices((32, 32)).sum(0) % 2 * 255
    pixels[:, :32] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    x = fetch(tmp_path, 8).x
    assert x[..., 1:-1, 1:-1].abs().max() < 0.05
    assert x.shape == (1, 1, 8, 8)


def test_photographs_are_turned_upright(tmp_path):
    pixels = np.zeros((40, 40), np.uint8)
    pixels[:20] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=100)
    x = fetch(tmp_path).x[0, 0]
    assert x[4].mean() < -0.9 < 0.9 < x[-4].mean()


def test_nothing_to_see(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="holds no image"):
        open_source(tmp_path)


@pytest.mark.parametrize("size", [0, -1, 10_000])
def test_bad_sizes(tmp_path, size):
    save(tmp_path / "a.png")
    with pytest.raises(DataError, match="'size' must lie"):
        open_source(tmp_path, size)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_damaged_images_are_named(tmp_path, suffix):
    save(tmp_path / "a.png")
    noisy(tmp_path / f"b.{suffix}")
    whole = (tmp_path / f"b.{suffix}").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no image"):
        (tmp_path / f"b.{suffix}").write_bytes(damaged)
        source = open_source(tmp_path)
        assert len(source) == 2  # it is never left out
        source.batch(torch.tensor([0]), NO_NOISE)
        with pytest.raises(DataError, match=rf"b\.{suffix}.*repair or remove it"):
            source.batch(torch.tensor([1]), NO_NOISE)
        assert list(source.quarantine()) == [1]
        source.fingerprint()


def test_a_damaged_header_has_no_say_in_the_channels(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    save(tmp_path / "b.png", "L")
    assert open_source(tmp_path).shape == (1, 32, 32)
    save(tmp_path / "c.png")
    assert open_source(tmp_path).shape == (3, 32, 32)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for suffix in ("png", "jpg", "webp"):
        noisy(folder / suffix / f"a.{suffix}")
    return folder


def test_metadata_that_make_pillow_stumble(tmp_path):
    """A header chunk of the wrong length is a ValueError in Pillow, not the OSError of its documentation."""
    noisy(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[11] = 5
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png"):
        fetch(tmp_path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore::UserWarning")
@given(suffix=st.sampled_from(["png", "jpg", "webp"]), at=st.floats(0, 1), value=st.integers(0, 255), cut=st.booleans())
def test_any_damage_is_a_data_error_or_an_image(originals, suffix, at, value, cut):
    data = bytearray((originals / suffix / f"a.{suffix}").read_bytes())
    place = int(at * (len(data) - 1))
    data[place] = value
    folder = originals / "damaged" / suffix
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"a.{suffix}").write_bytes(data[:place] if cut else data)
    try:
        found = fetch(folder).x.shape[2:]
    except DataError as error:
        found = str(error)
    assert found == (32, 32) or f"a.{suffix}" in found


def test_fingerprint(tmp_path):
    save(tmp_path / "a" / "1.png")
    save(tmp_path / "b" / "2.png")
    first = open_source(tmp_path).fingerprint()
    assert open_source(tmp_path).fingerprint() == first
    assert open_source(tmp_path, 16).fingerprint() != first
    os.rename(tmp_path / "b", tmp_path / "c")  # another label
    renamed = open_source(tmp_path).fingerprint()
    save(tmp_path / "c" / "2.png", colour=(254, 0, 0))
    assert len({first, renamed, open_source(tmp_path).fingerprint()}) == 3


def test_large_folders_are_not_kept(tmp_path, monkeypatch):
    noisy(tmp_path / "a.png")
    kept = fetch(tmp_path).x
    monkeypatch.setattr("gensys.data.images._KEPT_BYTES", 0)
    assert torch.equal(fetch(tmp_path).x, kept)


def test_linked_folders(tmp_path):
    save(tmp_path / "data" / "cats" / "a.png")
    os.symlink(tmp_path / "data", tmp_path / "data" / "cats" / "loop")
    save(tmp_path / "elsewhere" / "b.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "dogs")
    assert names(open_folder(tmp_path / "data")) == ["cats/a.png", "dogs/b.png"]
