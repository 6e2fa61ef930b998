"""`gensys edit`: known pixels stay, partial times and inversion do what the functions do, again the same bits."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gensys.pipelines.edit import Edit, EditJob
from gensys.pipelines.encode import encode
from gensys.pipelines.train import _clear, train
from PIL import Image

from gensys.cli import cli
from gensys.data.sources import open_source
from gensys.data.store import Store
from gensys.editing import from_partial
from gensys.errors import DataError
from gensys.noise import Noise
from gensys.pictures import to_uint8
from gensys.progress import Screen
from gensys.run import resolve
from gensys.run_folder import RunFolder

SCREEN = Screen(quiet=True)
TINY = {"width": "16", "depth": "1", "heads": "2", "batch": "8", "budget": "16", "precision": "fp32"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Models of pixels and of latents, and a GAN, all hardly trained; and what is to be edited."""
    root = tmp_path_factory.mktemp("edit")
    generator = np.random.default_rng(0)
    for k in range(70):
        folder = root / "images" / ("ant", "bee")[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16), np.uint8)).save(folder / f"{k:03d}.png")
    Image.fromarray(generator.integers(0, 256, (40, 30, 3), np.uint8)).save(root / "photo.png")
    for name, size in (("mask", 16), ("small", 8)):
        mask = np.zeros((size, size), np.uint8)
        mask[: size // 2] = 255
        Image.fromarray(mask).save(root / f"{name}.png")
    np.save(root / "colour.npy", np.zeros((3, 3, 16, 16), np.uint8))

    def made(name, recipe, **knobs):
        train(RunFolder(root / name), resolve(recipe, knobs), workers=0, fresh=False, screen=SCREEN)

    images = {"data": str(root / "images"), "size": "16"}
    made("flow", "flow_matching", **images, **TINY, net="dit", patch="4", solver="ddim", steps="3", guidance="2")
    made("silent", "flow_matching", **images, **TINY, net="dit", patch="4", solver="ddim", steps="3", dropout="0")
    np.save(root / "plane.npy", generator.standard_normal((80, 2)).astype(np.float32))
    vectors = {"width": "8", "depth": "1", "batch": "8", "budget": "16", "precision": "fp32"}
    made("vectors", "flow_matching", data=str(root / "plane.npy"), **vectors, steps="2")
    made("gan", "gan", **images, width="8", depth="2", latent="4", batch="8", budget="16")
    codec = {"width": "8", "channels": "2", "batch": "8", "budget": "16", "precision": "fp32"}
    made("codec", "kl_autoencoder", **images, **codec)
    encode(RunFolder(root / "codec"), root / "latents.zarr", data=None, shard=64, workers=0, screen=SCREEN)
    made("latent", "latent_dit", data=str(root / "latents.zarr"), **TINY, steps="3")
    return root


def edit(root, run, *words):
    return CliRunner().invoke(cli, ["edit", str(root / run), "--json", *map(str, words)], prog_name="gensys")


def edited(root, run, out, *words):
    result = edit(root, run, "--out", out, *words)
    assert result.exit_code == 0, result.output
    store = Store.open(json.loads(result.stdout)["store"])
    return torch.from_numpy(store.read("x", range(len(store)))), store


def original(root):
    source = open_source(str(root / "images"), 16)
    rows = torch.arange(len(source))
    return to_uint8(source.batch(rows, Noise(0, rows)).x)


@pytest.mark.parametrize("run", ["flow", "latent"])
def test_what_is_black_in_the_mask_stays_and_the_rest_is_drawn(root, run, tmp_path):
    words = ("--images", root / "images", "--mask", root / "mask.png")
    made, store = edited(root, run, tmp_path / "a.zarr", *words)
    before = original(root)
    assert torch.equal(made[:, :, 8:], before[:, :, 8:])
    assert (made[:, :, :8] != before[:, :, :8]).float().mean() > 0.5
    assert store.attributes["kind"] == "edits"
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (10 * 17 * 2 + 2, 10 * 17 * 2 + 2)  # 50, each above its own
    assert store.read("label", range(4)).tolist() == open_source(str(root / "images"), 16).batch(
        torch.arange(4), Noise(0, torch.arange(4))
    ).cond["label"].tolist()  # fmt: skip

    again, _ = edited(root, run, tmp_path / "b.zarr", *words)
    assert torch.equal(again, made)
    other, _ = edited(root, run, tmp_path / "c.zarr", *words, "--seed", 1)
    assert not torch.equal(other, made)
    twice, _ = edited(root, run, tmp_path / "d.zarr", *words, "--resamplings", 2)
    assert not torch.equal(twice, made)
    assert torch.equal(twice[:, :, 8:], before[:, :, 8:])


def test_a_partial_time_is_what_the_function_does_for_every_image(root, tmp_path):
    made, store = edited(root, "flow", tmp_path / "a.zarr", "--images", root / "images", "--from", 0.6, "--seed", 3)
    assert store.attributes["edit"] == {"mask": "", "from": 0.6, "resamplings": 1}
    ids = torch.arange(64)
    source = open_source(str(root / "images"), 16)
    batch = source.batch(ids, Noise(0, ids))
    wanted = from_partial(RunFolder(root / "flow").model(), batch.x, batch.cond, Noise(3, ids), 0.6)
    assert torch.equal(made[:64], to_uint8(wanted))
    words = ("--images", root / "images", "--from", 0.6, "guidance=1e4")  # which a hardly trained model follows
    own, _ = edited(root, "flow", tmp_path / "b.zarr", *words)
    labelled, store = edited(root, "flow", tmp_path / "c.zarr", *words, "--label", "bee")
    assert store.read("label", range(70)).tolist() == [1] * 70
    same = batch.cond["label"] == 1
    assert torch.equal(labelled[:64][same], own[:64][same])
    assert not torch.equal(labelled[:64][~same], own[:64][~same])


@pytest.mark.parametrize("run", ["flow", "latent"])
def test_inversion_leads_back_by_fine_steps_and_elsewhere_with_another_label(root, run, tmp_path):
    words = ("--images", root / "images", "--invert", "guidance=1", "steps=60", "solver=ddim")
    made, _ = edited(root, run, tmp_path / "a.zarr", *words)
    before = original(root)
    if run == "latent":  # as the codec has them
        codec = RunFolder(root / "codec").model()
        before = to_uint8(codec.decode(codec.encode(before.float() / 127.5 - 1.0).mode))
    assert (made.int() - before.int()).abs().float().mean() < 2.0


def test_a_single_file_is_cropped_and_has_no_label_of_its_own(root, tmp_path):
    made, store = edited(root, "flow", tmp_path / "a.zarr", "--images", root / "photo.png", "--from", 0.5)
    assert (tuple(made.shape), store.read("label", [0]).tolist()) == ((1, 1, 16, 16), [-1])
    assert (tmp_path / "a.png").exists()
    result = edit(root, "silent", "--images", root / "photo.png", "--from", 0.5, "--out", tmp_path / "b.zarr")
    assert result.exit_code == 2
    assert "was never trained without its condition" in result.output
    edited(root, "silent", tmp_path / "b.zarr", "--images", root / "photo.png", "--from", 0.5, "--label", 1)


@pytest.mark.parametrize(
    ("run", "words", "told"),
    [
        ("flow", "--images images", "Give one of --mask FILE, --from T and --invert"),
        ("flow", "--images images --invert --from 0.5", "Give one of --mask FILE, --from T and --invert"),
        ("flow", "--images images --from 0", "0.0 is not in the range 0<x<=1"),
        ("flow", "--images images --from 1.5", "1.5 is not in the range 0<x<=1"),
        ("flow", "--images images --from nan", "'strength' must lie in (0, 1]"),
        ("flow", "--images images --from 0.5 --resamplings 3", "--resamplings is for --mask"),
        ("flow", "--images images --mask small.png", "is 8 x 8, and images are 16 x 16"),
        ("flow", "--images images --mask colour.npy", "cannot be read as an image"),
        ("flow", "--images colour.npy --from 0.5", "have the shape (3, 16, 16) (channels, height, width), and the run"),
        ("flow", "--images images --from 0.5 --label 2", "'label': a label lies in 0..1, got 2"),
        ("flow", "--images images --from 0.5 --label beee", "'label': there is no class 'beee'. Did you mean 'bee'?"),
        ("flow", "--images nowhere --from 0.5", "nowhere"),
        ("flow", "--images images --invert eta=0.5", "'solver' ddim adds noise as it goes"),
        ("flow", "--images images --invert eta=0.5 solver=heun", "knob 'eta' is 0.5, and has no effect here"),
        ("flow", "--images images --mask mask.png solver=dopri5", "samples with dopri5, which chooses its own steps"),
        ("vectors", "--images plane.npy --mask mask.png", "and this run draws rows of shape (2,): no images"),
        ("gan", "--images images --from 0.5", "'model' must be a Diffusion, or one behind a codec, got Adversarial"),
        ("codec", "--images images --from 0.5", "'model' must be a Diffusion, or one behind a codec"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(root, run, words, told, tmp_path):
    words = [str(root / word) if (root / word).exists() else word for word in words.split()]
    result = edit(root, run, *words, "--out", tmp_path / "out.zarr")
    assert result.exit_code in (1, 2)
    assert told in " ".join(result.output.replace("\\n", " ").split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["images", "mask"])
def test_a_worker_refuses_images_or_a_mask_other_than_those_that_the_store_names(root, what, tmp_path):
    images, mask = tmp_path / "images.npy", tmp_path / "mask.png"
    np.save(images, np.zeros((3, 1, 16, 16), np.uint8))
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(mask)
    _, store = edited(root, "flow", tmp_path / "a.zarr", "--images", images, "--mask", mask)
    folder = RunFolder(root / "flow")
    about = store.attributes
    how = Edit(mask=str(mask))
    job = EditJob(
        str(folder.path), str(store.path), str(images), folder.retuned({}), about["weights"], how, about["seed"], None
    )
    job.load()  # nothing has changed yet
    if what == "images":
        np.save(images, np.full((3, 1, 16, 16), 9, np.uint8))
    else:
        Image.fromarray(np.full((16, 16), 255, np.uint8)).save(mask)
    with pytest.raises(DataError, match="have changed since editing began"):
        job.load()


def test_a_fresh_start_takes_away_what_was_made_from_old_weights(tmp_path):
    for name in ("edited.zarr", "samples.zarr"):
        (tmp_path / name).mkdir()
    for name in ("edited.png", "samples.png", "samples.csv", "mine.txt"):
        (tmp_path / name).touch()
    _clear(RunFolder(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
