"""Training, encoding and reporting with data of which some rows cannot be read, in this process."""

import json
from dataclasses import replace

import numpy as np
import pytest
from gensys.pipelines.encode import encode
from gensys.pipelines.train import plan, train
from PIL import Image

from gensys.durable import without_digest
from gensys.errors import DataError, RunError
from gensys.progress import Screen
from gensys.report.page import write_report
from gensys.run import resolve
from gensys.run_folder import RunFolder

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # importing ray.train warns of ray.data's own options
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
DAMAGED = (0, 7, 20)
RECIPE = '''
from gensys.data.sources import image_shape, open_source, split
from gensys.engine.loop import Settings
from gensys.run import Run, budget_of
from gensys.systems.kl_autoencoder import kl_autoencoder

def mine(data: str, budget: str = "96") -> Run:
    """A small codec."""
    source = open_source(data, 8)
    build = lambda: kl_autoencoder(image_shape(source), channels=2, widths=(8,))
    return Run(source, split(source)[0], build, Settings(16, budget_of(budget), precision="fp32", seed=0))
'''


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Forty images, of which three cannot be read, and a recipe."""
    root, draw = tmp_path_factory.mktemp("damaged"), np.random.default_rng(0)
    (root / "data").mkdir()
    for k in range(40):
        Image.fromarray(draw.integers(0, 256, (8, 8), np.uint8)).save(root / "data" / f"{k:02}.png")
    for k in DAMAGED:
        (root / "data" / f"{k:02}.png").write_bytes(b"no image")
    (root / "mine.py").write_text(RECIPE)
    return root


def spec_of(here, damaged=None):
    return replace(resolve(f"{here / 'mine.py'}:mine", {"data": str(here / "data")}), damaged=damaged)


def trained(here, name, spec):
    folder = RunFolder(here / name)
    train(folder, spec, workers=0, fresh=False, screen=Screen(quiet=True))
    return folder


@pytest.fixture(scope="module")
def folder(here):
    """A run of 96 images: every row that can be read is seen, and one that cannot would have ended it."""
    return trained(here, "run", spec_of(here, 0.1))


def test_too_many_are_refused_before_anything_is_written(here):
    with pytest.raises(DataError, match=r"3 of 40 .*'00\.png' \(no image that Pillow knows\).*7\.50%.*--allow-damaged"):
        trained(here, "refused", spec_of(here))
    assert not (here / "refused" / "run.json").exists()


def test_training_goes_round_them_and_the_run_says_so(here, folder):
    document, spec = folder.document(), spec_of(here, 0.1)
    assert document["damaged"] == 0.1
    assert [(e["row"], e["item"]) for e in document["data"]["quarantined"]] == [(k, f"{k:02}.png") for k in DAMAGED]
    rows = [row for row in spec.load().rows.tolist() if row not in DAMAGED]
    assert document["train_rows"] == len(rows) < len(spec.load().rows)
    planned = plan(spec, 0)
    assert (planned["rows"], planned["damaged"]) == (len(rows), 3)
    assert "3 rows that cannot be read are left out" in write_report(folder.path).read_text()
    trained(here, "run", spec_of(here))  # the share is that of the run


def test_a_run_does_not_go_on_with_other_rows(here, folder):
    whole = (folder.path / "run.json").read_text()
    document = without_digest(json.loads(whole))
    dropped = document["data"]["quarantined"].pop()
    for entries, reason in [
        ([], "rows that cannot be read: 2 -> 3"),
        ([{"row": str(dropped["row"])}], r"run\.json.* is damaged .*'quarantined'"),
    ]:
        document["data"]["quarantined"] += entries
        (folder.path / "run.json").write_text(json.dumps(document))
        with pytest.raises(RunError, match=reason):
            trained(here, "run", spec_of(here))
    (folder.path / "run.json").write_text(whole)


def test_a_repaired_image_is_other_content(here, folder):
    (here / "data" / "07.png").write_bytes((here / "data" / "08.png").read_bytes())
    with pytest.raises(RunError, match="the content of the data"):
        trained(here, "run", spec_of(here))
    (here / "data" / "07.png").write_bytes(b"no image")


def test_encode_has_a_share_of_its_own(here, folder):
    with pytest.raises(DataError, match="3 of 40 rows cannot be read"):
        encode(folder, here / "z.zarr", data=None, shard=None, workers=0, screen=Screen(quiet=True), damaged=0.01)
    assert not (here / "z.zarr").exists()
