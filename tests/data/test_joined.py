import numpy as np
import pytest
import torch
from PIL import Image

from gensys.data.images import Images
from gensys.data.joined import LEAST, by_aspect, visits
from gensys.data.sources import open_source, split
from gensys.errors import DataError
from gensys.noise import Noise


@pytest.fixture
def folder(tmp_path):
    """80 wide, 70 square and 3 tall images in two classes, one photograph turned by its EXIF, one damaged."""
    generator = np.random.default_rng(0)
    kinds = [(40, 20)] * 80 + [(24, 24)] * 70 + [(20, 40)] * 3
    for k, (width, height) in enumerate(kinds):
        place = tmp_path / "ab"[k % 2]
        place.mkdir(exist_ok=True)
        image = Image.fromarray(generator.integers(0, 255, (height, width, 3), np.uint8))
        image.save(place / f"{k:03d}.png")
        (place / f"{k:03d}.txt").write_text(f"picture {k}")
    turned = Image.new("RGB", (20, 40), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter: it is wide
    turned.save(tmp_path / "a" / "turned.jpg", exif=exif)
    (tmp_path / "b" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path


def test_every_image_is_in_one_bucket(folder):
    squares = open_source(folder, 16)
    joined = by_aspect(squares, 4, 2.0)
    assert [part.shape for part in joined.parts] == [(3, 16, 16), (3, 12, 20)], "the few tall ones go with the squares"
    assert sorted(joined.origin(torch.arange(len(joined))).tolist()) == list(range(len(squares)))
    assert len(joined) == len(squares) == 155
    assert all(len(part) >= LEAST for part in joined.parts)
    wide = next(part for part in joined.parts if part.shape[2] > part.shape[1])
    assert any("turned" in name for name in wide.named(torch.arange(len(wide))))
    assert "of the area cropped" in joined.about
    assert list(joined.quarantine()) == [row for row in range(155) if "damaged" in joined.named(torch.tensor([row]))[0]]


def test_rows_are_those_of_the_parts(folder):
    squares = open_source(folder, 16)
    joined = by_aspect(squares, 4, 2.0)
    rows = torch.arange(len(joined))
    origin = joined.origin(rows)
    assert joined.named(rows) == squares.named(origin)
    assert joined.texts(rows) == squares.texts(origin)
    assert joined.classes == squares.classes
    assert np.array_equal(joined.digests(), squares.digests()[origin.numpy()])
    train, test = split(joined)
    assert sorted(joined.origin(test).tolist()) == split(squares)[1].tolist(), "the same images are held out"
    for k, group in enumerate(joined.groups(train)):
        chosen = group[:5]
        batch = joined.batch(chosen, Noise(0, chosen))
        assert batch.x.shape == (5, *joined.parts[k].shape)
        assert torch.equal(batch.ids, chosen)
        alone = joined.parts[k].batch(chosen - joined.starts[k], Noise(0, chosen))
        assert torch.equal(batch.x, alone.x)
        assert torch.equal(batch.cond["label"], squares.batch(joined.origin(chosen), Noise(0, chosen)).cond["label"])


def test_a_batch_of_two_shapes_is_refused(folder):
    joined = by_aspect(open_source(folder, 16), 4, 2.0)
    rows = torch.tensor([0, len(joined) - 1])
    with pytest.raises(DataError, match="a batch holds rows of one shape"):
        joined.batch(rows, Noise(0, rows))


def test_content_and_buckets_are_in_the_fingerprint(folder):
    squares = open_source(folder, 16)
    first = by_aspect(squares, 4, 2.0).fingerprint()
    assert by_aspect(open_source(folder, 16), 4, 2.0).fingerprint() == first
    assert by_aspect(squares, 4, 1.0).fingerprint() != first
    (folder / "a" / "000.txt").write_text("another caption")
    assert by_aspect(open_source(folder, 16), 4, 2.0).fingerprint() != first


def test_what_has_no_aspect_ratio_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match="only files of images"):
        by_aspect(open_source("mnist"), 4, 2.0)
    with pytest.raises(DataError, match="'side' must be a positive multiple"):
        by_aspect(open_source(folder, 16), 5, 2.0)


def test_one_ratio_is_the_square_source(folder):
    squares = open_source(folder, 16)
    joined = by_aspect(squares, 4, 1.0)
    (part,) = joined.parts
    assert isinstance(part, Images)
    rows = torch.arange(20)
    assert torch.equal(part.batch(rows, Noise(0, rows)).x, squares.batch(rows, Noise(0, rows)).x)


def test_every_step_has_rows_of_one_shape_that_are_trained_on(folder):
    joined = by_aspect(open_source(folder, 16), 4, 2.0)
    train, _ = split(joined)
    at = visits(joined, train, 3, 8)
    kept, seen = set(train.tolist()), set()
    for step in range(80):
        rows = at(step)
        assert set(rows.tolist()) <= kept
        assert len({len(joined.parts[0]) <= row for row in rows.tolist()}) == 1
        seen |= set(rows.tolist())
    assert seen == kept
    squares = open_source(folder, 16)
    plain = visits(squares, torch.arange(50), 3, 8)
    assert sorted(torch.cat([plain(step) for step in range(25)]).tolist()) == sorted(list(range(50)) * 4)
