"""A codec with whole numbers for latents, from training to a store of codes and back."""

import numpy as np
import pytest
import torch
from gensys.pipelines.encode import encode
from gensys.pipelines.train import train

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
    sizes = {"codes": "16", "dim": "4", "width": "8", "batch": "8", "budget": "16", "precision": "fp32"}
    levels = {"levels": "20,20"} if "fsq" in knobs.values() else {}
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
    with pytest.raises(DataError, match="holds codes"):
        open_domain(str(out))
