"""Two domains as one source: splits, partners that belong to no one, and what is known of the other domain."""

import numpy as np
import pytest
import torch
from PIL import Image

from gensys.data.edges import edges
from gensys.data.sources import open_source, split
from gensys.data.unpaired import open_unpaired
from gensys.errors import DataError
from gensys.noise import Noise


def save(path, values, side=8):
    """Images of one shade each."""
    np.save(path, np.broadcast_to(np.asarray(values, np.uint8)[:, None, None], (len(values), side, side)))
    return str(path)


@pytest.fixture
def two(tmp_path):
    """100 dark images, whose shade is their number, and 30 bright ones."""
    return save(tmp_path / "dark.npy", range(100)), save(tmp_path / "bright.npy", range(200, 230))


def shades(x):
    return ((x[:, 0, 0, 0] + 1) * 127.5).round().long()


def test_rows_are_split_as_their_data_are(two):
    source = open_unpaired(*two)
    assert source.classes == ("dark", "bright")
    train, test = split(source)
    assert len(train) + len(test) == len(source) == 130
    for rows, which in ((train, 0), (test, 1)):
        batch = source.batch(rows, Noise(0, rows))
        wanted = [split(open_source(path))[which] + first for path, first in zip(two, (0, 200), strict=True)]
        assert torch.equal(shades(batch.x), torch.cat(wanted))
        assert torch.equal(batch.cond["label"], torch.cat([torch.full_like(w, k) for k, w in enumerate(wanted)]))
        assert torch.equal(batch.ids, rows)
    assert source.named(test[-1:]) == [
        f"bright.npy:{int(shades(source.batch(test[-1:], Noise(0, test[-1:])).x)) - 200}"
    ]
    assert len(source.digests()) == len(source)
    again = open_unpaired(*two)
    assert source.fingerprint() == again.fingerprint() != open_unpaired(*two[::-1]).fingerprint()


def test_a_partner_is_any_row_of_the_other_domain_and_of_the_same_split(two):
    source = open_unpaired(*two)
    for rows, which in zip(split(source), (0, 1), strict=True):
        allowed = {k: set((split(open_source(two[k]))[which] + 200 * k).tolist()) for k in (0, 1)}
        seen = {0: set(), 1: set()}
        for step in range(60):
            batch = source.batch(rows, Noise(3, rows, step))
            for label, partner in zip(batch.cond["label"].tolist(), shades(batch.cond["image"]).tolist(), strict=True):
                seen[1 - label].add(partner)
        assert seen == allowed, "all of them, and no others"


def test_a_partner_is_a_function_of_seed_row_and_step(two):
    source, rows = open_unpaired(*two), torch.tensor([5, 90, 93, 5])
    image = source.batch(rows, Noise(1, rows, 7)).cond["image"]
    alone = rows[1:2]
    assert torch.equal(source.batch(alone, Noise(1, alone, 7)).cond["image"], image[1:2])
    assert torch.equal(image[0], image[3])
    many = torch.arange(60)
    now = source.batch(many, Noise(1, many, 7)).cond["image"]
    for other in (Noise(2, many, 7), Noise(1, many, 8)):
        assert not torch.equal(source.batch(many, other).cond["image"], now)


def test_both_domains_are_trained_on_equally_often(two):
    source = open_unpaired(*two)
    rows = source.balanced()
    label = source.batch(rows, Noise(0, rows)).cond["label"]
    most = len(split(open_source(two[0]))[0])
    assert label.bincount().tolist() == [most, most]
    assert torch.equal(rows.unique(), split(source)[0])
    times = rows.bincount()
    assert times[:most].max() == 1
    assert set(times[most : source.first_test].tolist()) == {most // 26, most // 26 + 1}


def test_samples_are_of_held_out_rows_each_as_often_as_the_others(two):
    source = open_unpaired(*two)
    held = split(source)[1]
    label = source.batch(held, Noise(0, held)).cond["label"]
    for target in (0, 1):
        theirs = held[label == 1 - target]
        rows, asked = source.shown(torch.arange(2 * len(theirs)), target)
        assert asked.unique().tolist() == [target]
        assert torch.equal(rows[: len(theirs)].sort().values, theirs)
        assert torch.equal(rows[len(theirs) :], rows[: len(theirs)])
    rows, asked = source.shown(torch.arange(10))
    assert asked.tolist() == [0, 1] * 5
    cond = source.given(torch.arange(10))
    batch = source.batch(rows, Noise(0, rows))
    assert torch.equal(cond["image"], batch.x)
    assert torch.equal(cond["label"], 1 - batch.cond["label"])
    assert source.truth(rows) is None


def test_edge_drawings_are_of_other_images_and_what_is_true_is_known(tmp_path):
    generator = np.random.default_rng(0)
    np.save(tmp_path / "photos.npy", generator.integers(0, 256, (90, 8, 8), np.uint8))
    data = open_source(tmp_path / "photos.npy")
    source = open_unpaired(str(tmp_path / "photos.npy"))
    assert source.classes == ("photos", "edges")
    assert "and edge drawings of" in source.about
    train, test = split(source)
    named = source.named(torch.cat([train, test]))
    assert sorted(named) == sorted(data.named(torch.arange(90))), "no image is in both domains"
    assert sorted(source.named(test)) == sorted(data.named(split(data)[1]))
    for rows in (train, test):
        batch = source.batch(rows, Noise(0, rows))
        assert abs(int(batch.cond["label"].sum()) * 2 - len(rows)) <= 1
        truth = source.truth(rows)
        assert truth is not None
        numbers = torch.tensor([int(name.partition(":")[2]) for name in source.named(rows)])
        original = data.batch(numbers, Noise(0, numbers)).x
        drawn = (batch.cond["label"] == 1).view(-1, 1, 1, 1)
        assert torch.equal(batch.x, torch.where(drawn, edges(original), original))
        assert torch.equal(truth, torch.where(drawn, original, edges(original)))


def test_an_edge_has_the_brightness_of_its_step():
    x = torch.full((1, 3, 8, 8), -1.0)
    x[..., 4:] = 1.0
    wanted = torch.full((1, 3, 8, 8), -1.0)
    wanted[..., 3:5] = 1.0
    torch.testing.assert_close(edges(x), wanted)
    torch.testing.assert_close(edges(0.5 * x), 0.5 * (wanted + 1.0) - 1.0)
    torch.testing.assert_close(edges(x.mT), wanted.mT)
    torch.testing.assert_close(edges(-x), wanted)
    noise = torch.rand(4, 1, 8, 8) * 2 - 1
    assert edges(noise).abs().max() <= 1.0
    torch.testing.assert_close(edges(noise.flip(3)), edges(noise).flip(3))


def test_what_cannot_be_read_is_nobodys_partner(tmp_path):
    for k in range(80):
        Image.new("L", (8, 8), k).save(tmp_path / f"{k:02d}.png")
    for k in (3, 21):  # one of them held out
        (tmp_path / f"{k:02d}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    source = open_unpaired(str(tmp_path), size=8)
    assert sorted(source.named(torch.tensor(list(source.quarantine())))) == ["03.png", "21.png"]
    good = torch.tensor([row for row in range(len(source)) if row not in source.quarantine()])
    for step in range(40):
        source.batch(good, Noise(0, good, step))
    assert source.given(torch.arange(64))["image"].isfinite().all()
    bad = torch.tensor(list(source.quarantine()))
    with pytest.raises(DataError, match="is damaged"):
        source.batch(bad, Noise(0, bad))


def test_what_does_not_fit_is_refused(tmp_path, two):
    save(tmp_path / "large.npy", range(60), side=12)
    with pytest.raises(DataError, match=r"'data' holds images of shape \(1, 8, 8\) and 'other' of \(1, 12, 12\)"):
        open_unpaired(two[0], str(tmp_path / "large.npy"))
    np.save(tmp_path / "vectors.npy", np.zeros((60, 5), np.float32))
    with pytest.raises(DataError, match=r"images are wanted"):
        open_unpaired(two[0], str(tmp_path / "vectors.npy"))
    few = save(tmp_path / "few.npy", range(3))
    with pytest.raises(DataError, match=r"'other' has 3 and 0 images to train on and held out, .* give more of 'few'"):
        open_unpaired(two[0], few)
    with pytest.raises(DataError, match=r"'other' has 1 and 0 images"):
        open_unpaired(few.replace("few", "dark"), save(tmp_path / "one.npy", [7]))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none"):
        open_unpaired(two[0], str(tmp_path / "none"))
    same = tmp_path / "deeper"
    same.mkdir()
    assert open_unpaired(two[0], save(same / "dark.npy", range(100))).classes == ("dark 0", "dark 1")
