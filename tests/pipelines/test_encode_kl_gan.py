"""A codec that is trained in a game, from training to a model of its latents, as any other codec."""

import numpy as np
import pytest
import torch
from gensys.pipelines.decode import decode
from gensys.pipelines.encode import encode
from gensys.pipelines.evaluate import evaluate
from gensys.pipelines.sample import sample
from gensys.pipelines.train import train
from gensys.pipelines.work import work
from PIL import Image
from safetensors.torch import load_file, save_file

from gensys.engine.checkpoint import newest
from gensys.engine.log import read
from gensys.engine.parallel import World
from gensys.errors import ConfigError
from gensys.nn.lenet import LeNet
from gensys.progress import Screen
from gensys.run import resolve
from gensys.run_folder import RunFolder

SCREEN = Screen(quiet=True)
SMALL = {"batch": "8", "precision": "fp32"}
PLAIN = {"size": "32", "channels": "2", "width": "8", **SMALL}
GAME = PLAIN | {"critic_width": "4", "critic_halvings": "1"}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for k in range(20):
            Image.fromarray(generator.integers(0, 256, (32, 32), np.uint8)).save(root / name / f"{k}.png")
    return root


def trained(folder, images, knobs):
    run = RunFolder(folder)
    train(run, resolve("kl_gan", {"data": str(images), **knobs}), workers=0, fresh=False, screen=SCREEN)
    return run


def test_a_model_of_its_latents_draws_what_it_decodes(tmp_path, images):
    codec, out = trained(tmp_path / "codec", images, GAME | {"budget": "32", "start": "2"}), tmp_path / "latents.zarr"
    logged = [line for line in read(codec.path) if "codec/loss" in line]
    assert ["codec/lambda" in line for line in logged] == [False, True]  # steps 1 and 4: the game begins at the third
    assert not any("val_loss" in line for line in read(codec.path))
    assert set(evaluate(codec.path, screen=SCREEN)["metrics"]) >= {"reconstruction_mse", "reconstruction_psnr"}
    encode(codec, out, data=None, shard=64, workers=0, screen=SCREEN)
    prior = RunFolder(tmp_path / "prior")
    knobs = {"data": str(out), "width": "16", "depth": "1", "heads": "2", "budget": "16", "steps": "2", **SMALL}
    train(prior, resolve("latent_dit", knobs), workers=0, fresh=False, screen=SCREEN)
    options = {"seed": 0, "label": None, "overrides": {}, "workers": 0, "screen": SCREEN, "shard": 64}
    whole = sample(prior, tmp_path / "s.zarr", ids=range(70), **options)
    sample(prior, tmp_path / "z.zarr", ids=range(70), latents=True, **options)
    decoded = decode(tmp_path / "z.zarr", tmp_path / "d.zarr", workers=0, screen=SCREEN)
    np.testing.assert_array_equal(decoded.read("x", range(70)), whole.read("x", range(70)))


def test_an_interrupted_game_goes_on_as_if_it_had_not_been(tmp_path, images):
    """What is kept between two steps, the gradients that lambda is found from, is in the checkpoint."""
    knobs = GAME | {"budget": "48", "start": "1"}
    whole = trained(tmp_path / "whole", images, knobs)
    calls = iter([False] * 3 + [True] * 10)
    parts = RunFolder(tmp_path / "parts")
    spec = resolve("kl_gan", {"data": str(images), **knobs})
    parts.create(spec, {})
    state = work(parts, spec, World(), None, lambda: next(calls))
    assert 0 < state.step < 6
    assert work(parts, spec, World(), None, lambda: False).finished
    one, two = (load_file(newest(run.path / "checkpoints") / "model.safetensors") for run in (whole, parts))
    assert one["critic_slope"].any()
    assert [name for name, value in one.items() if not torch.equal(value, two[name])] == []


def test_a_trained_extractor_is_compared_by_and_kept(tmp_path, images):
    torch.manual_seed(7)
    save_file(LeNet(1, 2).state_dict(), tmp_path / "lenet.safetensors")
    knobs = PLAIN | {"adversarial": "0", "extractor": str(tmp_path / "lenet.safetensors")}
    run = trained(tmp_path / "run", images, knobs | {"budget": "16"})
    kept = load_file(newest(run.path / "checkpoints") / "average.safetensors")
    for name, value in load_file(tmp_path / "lenet.safetensors").items():
        torch.testing.assert_close(kept[f"features.net.{name}"], value)
    assert run.weights("best")  # no game: it has a loss to be the best by
    for wrong in ("missing.safetensors", "cat/0.png"):
        spec = resolve("kl_gan", {"data": str(images), **knobs, "extractor": str(images / wrong)})
        with pytest.raises(
            ConfigError, match=r"'extractor' is a file of the weights of a LeNet for images \(1, 32, 32\)"
        ):
            spec.model()


@pytest.mark.parametrize(
    ("knobs", "needed"),
    [
        ({"adversarial": "0", "start": "5"}, "adversarial above 0"),
        ({"perceptual": "0", "extractor": "x"}, "perceptual"),
    ],
)
def test_a_knob_without_its_term_is_refused(images, knobs, needed):
    with pytest.raises(ConfigError, match=f"has no effect here: it needs {needed}"):
        resolve("kl_gan", {"data": str(images), **PLAIN, **knobs}).load()
