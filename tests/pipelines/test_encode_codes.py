"""A codec with whole numbers for latents, from training to a store of codes and back."""

import numpy as np
import pytest
import torch
from gensys.pipelines.decode import decode
from gensys.pipelines.encode import encode
from gensys.pipelines.sample import sample
from gensys.pipelines.train import train
from PIL import Image

from gensys.data.latents import LatentSource
from gensys.data.sources import open_source
from gensys.domain import open_domain
from gensys.errors import DataError
from gensys.noise import Noise
from gensys.progress import Screen
from gensys.run import resolve
from gensys.run_folder import RunFolder, open_codec

SCREEN = Screen(quiet=True)


@pytest.mark.parametrize("knobs", [{}, {"quantiser": "residual", "books": "2"}, {"quantiser": "fsq"}], ids=str)
def test_a_store_of_codes_holds_what_its_codec_says(tmp_path, knobs):
    table = np.random.default_rng(0).normal(size=(40, 3)).round(4)
    np.savetxt(tmp_path / "t.csv", table, delimiter=",", header="a,b,c", comments="")
    sizes = {"width": "8", "batch": "8", "budget": "16", "precision": "fp32"}
    levels = {"levels": "20,20"} if "fsq" in knobs.values() else {}
    sizes |= {} if levels else {"codes": "16", "dim": "4"}
    folder, out = RunFolder(tmp_path / "run"), tmp_path / "z.zarr"
    spec = resolve("vq_vae", {"data": str(tmp_path / "t.csv"), **sizes, **knobs, **levels})
    train(folder, spec, workers=0, fresh=False, screen=SCREEN)
    encode(folder, out, data=None, shard=64, workers=0, screen=SCREEN)

    source, model = open_source(str(out)), folder.model()
    assert isinstance(source, LatentSource)
    rows = torch.arange(40)
    stored = source.batch(rows, Noise(0, rows)).x
    found = model.encode(torch.from_numpy(table).float())
    assert torch.equal(stored, found.indices)
    assert source.codebook == found.size == (400 if levels else 16)
    assert source.store.config.arrays["codes"].dtype == ("uint16" if levels else "uint8")
    assert torch.equal(open_codec(source).decode(stored), model.decode(found.mode))
    assert source.grids == found.grids == source.latents(rows).grids == (((4,),) * (2 if "books" in knobs else 1))
    with pytest.raises(DataError, match=r"holds codes.* train vq_prior"):
        open_domain(str(out))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for k in range(20):
            Image.fromarray(generator.integers(0, 256, (16, 16), np.uint8)).save(root / name / f"{k}.png")
    return root


@pytest.mark.parametrize(
    ("recipe", "knobs", "shape", "grids"),
    [
        ("vq_vae", {}, (4, 4), [(4, 4)]),
        ("vq_vae", {"quantiser": "residual", "books": "2"}, (2, 4, 4), [(4, 4)] * 2),
        ("vq_vae", {"quantiser": "fsq", "levels": "20,20"}, (4, 4), [(4, 4)]),
        ("vq_vae_2", {}, (20,), [(2, 2), (4, 4)]),
        ("vqgan", {"critic_halvings": "1", "critic_width": "4", "start": "1"}, (4, 4), [(4, 4)]),
    ],
    ids=["codes", "residual", "scalar", "two grids", "game"],
)
def test_a_prior_of_codes_draws_what_its_codec_decodes(tmp_path, images, recipe, knobs, shape, grids):
    """From training to decoded samples; in other shards, and by way of stored codes, to the same bytes."""
    tiny = {"width": "8", "codes": "16", "dim": "4"} if "fsq" not in knobs.values() else {"width": "8"}
    small = {"batch": "8", "budget": "16", "precision": "fp32"}
    codec, out = RunFolder(tmp_path / "codec"), tmp_path / "codes.zarr"
    spec = resolve(recipe, {"data": str(images), "size": "16", **tiny, **small, **knobs})
    train(codec, spec, workers=0, fresh=False, screen=SCREEN)
    encode(codec, out, data=None, shard=64, workers=0, screen=SCREEN)
    source = LatentSource.open(out)
    assert (source.shape, source.grids) == (shape, tuple(grids))

    prior = RunFolder(tmp_path / "prior")
    spec = resolve("vq_prior", {"data": str(out), "width": "16", "depth": "1", "heads": "2", **small})
    train(prior, spec, workers=0, fresh=False, screen=SCREEN)
    options = {"seed": 0, "label": None, "overrides": {"guidance": "2", "top_p": "0.9"}, "workers": 0, "screen": SCREEN}
    whole = sample(prior, tmp_path / "s.zarr", ids=range(130), shard=192, **options)
    parts = sample(prior, tmp_path / "p.zarr", ids=range(130), shard=64, **options)
    drawn = sample(prior, tmp_path / "z.zarr", ids=range(130), shard=64, latents=True, **options)
    assert drawn.config.arrays["z"].shape == shape
    assert drawn.read("z", range(130)).max() < source.codebook
    decoded = decode(tmp_path / "z.zarr", tmp_path / "d.zarr", workers=0, screen=SCREEN)
    x = whole.read("x", range(130))
    assert x.shape == (130, 1, 16, 16)
    for other in (parts, decoded):
        np.testing.assert_array_equal(other.read("x", range(130)), x)


def test_what_holds_no_codes_is_refused(images):
    with pytest.raises(DataError, match=r"codes are modelled here: `gensys encode` makes them"):
        resolve("vq_prior", {"data": str(images)}).load()
