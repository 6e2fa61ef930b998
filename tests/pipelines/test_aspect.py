"""Images of many aspect ratios, from the folder to samples, as the command line does it."""

import json

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner
from PIL import Image, ImageOps

from gensys.cli import cli
from gensys.data.joined import Joined
from gensys.data.joined_latents import open_latents
from gensys.data.sources import open_source, split
from gensys.data.store import Store
from gensys.errors import StoreError
from gensys.noise import Noise
from gensys.run_folder import RunFolder


def gensys(*words, code=0):
    result = CliRunner().invoke(cli, [str(w) for w in words])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A codec of 16 x 16 images, and the latents of 80 wide and 70 square ones."""
    root = tmp_path_factory.mktemp("aspect")
    generator = np.random.default_rng(0)
    for k, (width, height) in enumerate([(40, 24)] * 80 + [(24, 24)] * 70):
        folder = root / "data" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (height, width, 3), np.uint8)).save(folder / f"{k:03d}.png")
    codec = ("kl_autoencoder", f"data={root / 'data'}", "size=16", "width=8", "levels=1", "budget=64", "precision=fp32")
    gensys("train", *codec, "--run", root / "codec", "-q")
    gensys("encode", root / "codec", "--aspect", 2, "--out", root / "z.zarr", "-q")
    return root


def test_every_shape_has_a_store_and_together_they_are_a_source(place):
    source = open_latents(place / "z.zarr")
    assert isinstance(source, Joined)
    assert [part.shape for part in source.parts] == [(4, 8, 8), (4, 6, 10)]
    assert [len(part) for part in source.parts] == [70, 80]
    squares = open_source(place / "data", 16)
    test = split(source)[1]
    assert sorted(source.origin(test).tolist()) == split(squares)[1].tolist(), "what the codec held out is held out"
    rows = torch.arange(len(source))
    assert source.named(rows) == squares.named(source.origin(rows))
    group = zarr.open(place / "z.zarr", mode="r")
    assert group["12x20/mean"].shape == (80, 4, 6, 10)


def test_one_normalisation_holds_for_all(place):
    source = open_latents(place / "z.zarr")
    first, second = (part.normalisation for part in source.parts)
    assert first == second
    draws = []
    for part in source.parts:
        rows = torch.arange(len(part))
        z = part.latents(rows).sample(Noise(5, rows).normal(part.shape, 5)).double()
        draws.append(z.transpose(0, 1).flatten(1))
    z = torch.cat(draws, 1)
    assert np.allclose(first.mean, z.mean(1), atol=0.05)
    assert np.allclose(first.std, z.std(1), rtol=0.05)


def test_a_latent_is_that_of_the_image_alone(place):
    """The store of a shape holds what the codec makes of the image, cropped to that shape."""
    source, codec = open_latents(place / "z.zarr"), RunFolder(place / "codec").model()
    (row,) = [r for r, name in enumerate(source.named(torch.arange(len(source)))) if name.endswith("a/004.png")]
    latent = source.parts[1].latents(torch.tensor([row - source.starts[1]])).mean
    image = Image.open(place / "data" / "a" / "004.png")
    image = ImageOps.fit(image, (20, 12), Image.Resampling.BICUBIC)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1.0
    torch.testing.assert_close(latent, codec.encode(x).mean, atol=2e-3, rtol=2e-3)


def test_the_prior_trains_on_all_of_them_and_samples_any(place):
    knobs = ("width=16", "depth=1", "heads=2", "batch=16", "budget=320", "steps=2", "precision=fp32")
    gensys("train", "latent_dit", f"data={place / 'z.zarr'}", *knobs, "--run", place / "prior", "-q")
    lines = [json.loads(line) for line in (place / "prior" / "metrics.jsonl").read_text().splitlines()]
    losses = [value for line in lines for name, value in line.items() if name in ("loss", "val_loss")]
    assert len(losses) > 2
    assert np.isfinite(losses).all()
    gensys("sample", place / "prior", "--seeds", "0:8", "--out", place / "square.zarr", "-q")
    gensys("sample", place / "prior", "aspect=1.6", "--seeds", "0:8", "--out", place / "wide.zarr", "-q")
    assert Store.open(place / "square.zarr").read("x", range(8)).shape == (8, 3, 16, 16)
    assert Store.open(place / "wide.zarr").read("x", range(8)).shape == (8, 3, 12, 20)


def test_a_network_that_does_not_suit_all_of_them_is_refused_at_once(place):
    said = gensys("train", "flow_matching", f"data={place / 'z.zarr'}", "--run", place / "none", "-q", code=2)
    assert "the sides are 6, 8 and 10, over 'fold', got 3 levels" in " ".join(said.split())
    assert not (place / "none" / "run.json").exists()


def test_again_it_is_left_as_it_is(place):
    before = {path: path.stat().st_mtime_ns for path in (place / "z.zarr").rglob("c.*")}
    gensys("encode", place / "codec", "--aspect", 2, "--out", place / "z.zarr", "-q")
    assert {path: path.stat().st_mtime_ns for path in (place / "z.zarr").rglob("c.*")} == before


def test_an_edited_normalisation_is_refused(place, tmp_path):
    document = json.loads((place / "z.zarr" / "zarr.json").read_text())
    document["attributes"]["gensys_joined"]["normalisation"]["std"][0] *= 2
    copy = tmp_path / "z.zarr"
    copy.mkdir()
    for name in ("16x16", "12x20"):
        (copy / name).symlink_to(place / "z.zarr" / name)
    (copy / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match="was edited: its digest is"):
        open_latents(copy)


def test_what_does_not_go_together_is_refused(place):
    assert "neither with --update" in gensys("encode", place / "codec", "--aspect", 2, "--update", code=2)
    said = gensys("encode", place / "codec", "--data", "mnist", "--aspect", 2, "--out", place / "m.zarr", code=1)
    assert "shape" in said or "aspect" in said


def test_verify_and_info_look_at_every_store(place):
    said = gensys("verify", place / "z.zarr")
    assert said.count("all well (sealed)") == 2
    told = gensys("data", "info", place / "z.zarr")
    assert "4x8x8" in told
    assert "4x6x10" in told
