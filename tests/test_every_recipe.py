"""Every built-in recipe keeps its promises: a plan writes nothing, two steps train, what is saved is what is loaded."""

import copy
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from gensys.pipelines.encode import encode
from gensys.pipelines.train import plan, train
from PIL import Image
from safetensors.torch import load_file

from gensys.catalogue import describe
from gensys.core import Codec, is_codec
from gensys.data.latents import columns
from gensys.engine.checkpoint import newest
from gensys.engine.log import read
from gensys.engine.parallel import World
from gensys.engine.sharding import shard_weights
from gensys.errors import ConfigError
from gensys.noise import Noise
from gensys.preview import conditions, labels_for
from gensys.progress import Screen
from gensys.run import recipes, resolve
from gensys.run_folder import RunFolder

SCREEN = Screen(quiet=True)
SMALL = {
    **{"data": "images", "size": "16", "net": "dit", "patch": "4", "width": "16", "depth": "2", "heads": "2"},
    **{"batch": "8", "precision": "fp32", "steps": "2"},
}
STYLES = {"data": "images", "size": "16", "width": "4", "most": "8", "mapping": "2", "latent": "8", "batch": "8"}
PACE = "200"  # a slow critic's scores stay within +-1 for a while, where hinge has no gradient for an offset of all
TINY = {
    "dit": {"data": "latents", "patch": "4", "batch": "8", "steps": "2", "precision": "fp32", "guidance": "2.0"},
    "edm": {
        "data": "images",
        "net": "unet",
        "size": "8",
        "width": "8",
        "levels": "2",
        "batch": "8",
        "steps": "2",
        "precision": "fp32",
    },
    "ddpm": SMALL,
    "iddpm": SMALL,
    "consistency": {
        **{"data": "images", "size": "16", "width": "8", "depth": "1", "levels": "2"},
        **{"batch": "8", "last": "20", "doubling": "0"},
    },
    "kl_autoencoder": {
        "data": "images",
        "size": "16",
        "channels": "2",
        "width": "8",
        "batch": "8",
        "precision": "fp32",
    },
    "kl_gan": {
        **{"data": "images", "size": "16", "channels": "2", "width": "8", "critic_width": "4", "critic_halvings": "1"},
        **{"start": "0", "pace": PACE, "batch": "8", "precision": "fp32"},
    },
    **dict.fromkeys(
        ("flow_matching", "ot_cfm", "rectified_flow"),
        {"data": "images", "size": "16", "net": "dit", "width": "16", "heads": "2", "patch": "4", "batch": "8"}
        | {"steps": "2", "precision": "fp32"},
    ),
    "latent_diffusion": {
        **{"data": "latents", "width": "16", "levels": "2", "batch": "8", "steps": "2"},
        **{"precision": "fp32", "guidance": "2.0"},
    },
    "latent_dit": {
        **{"data": "latents", "width": "16", "depth": "2", "heads": "2", "batch": "8", "steps": "2"},
        **{"precision": "fp32", "guidance": "2.0"},
    },
    "score_sde": {
        **{"data": "images", "size": "8", "width": "8", "depth": "1", "batch": "8", "steps": "2"},
        **{"precision": "fp32", "sde": "ve"},
    },
    "lcm": {"data": "latents", "teacher": "teacher", "batch": "8"},
    "vae": {"data": "images", "size": "16", "width": "8", "latent": "4", "batch": "8", "precision": "fp32"},
    "vq_vae": {
        **{"data": "images", "size": "16", "width": "8", "codes": "8", "dim": "4", "batch": "8", "precision": "fp32"},
    },
    "vq_vae_2": {
        **{"data": "images", "size": "16", "width": "8", "codes": "8", "dim": "4", "batch": "8", "precision": "fp32"},
    },
    "vqgan": {
        **{"data": "images", "size": "16", "width": "8", "codes": "8", "dim": "4", "batch": "8", "precision": "fp32"},
        **{"critic_width": "4", "critic_halvings": "1", "start": "0", "pace": PACE},
    },
    "vq_prior": {"data": "codes", "width": "16", "depth": "2", "heads": "2", "batch": "8", "precision": "fp32"},
    "glow": {"data": "images", "size": "8", "width": "8", "levels": "2", "steps": "1", "batch": "8"},
    "iaf": {"data": "images", "size": "4", "width": "8", "depth": "1", "steps": "1", "batch": "8"},
    "maf": {"data": "images", "size": "4", "width": "8", "depth": "1", "steps": "2", "batch": "8"},
    "nsf": {"data": "images", "size": "4", "width": "8", "depth": "1", "steps": "1", "bins": "3", "batch": "8"},
    "stylegan": STYLES,
    "stylegan2": STYLES,
    "stylegan3": STYLES | {"critic": "residual"},
    **dict.fromkeys(
        ("gan", "wgan", "wgan_gp"),
        {"data": "images", "size": "16", "width": "8", "depth": "2", "latent": "4", "turns": "1", "batch": "8"}
        | {"precision": "fp32"},
    ),
    "cgan": {
        **{"data": "images", "size": "16", "width": "8", "depth": "2", "latent": "4", "batch": "8"},
        **{"game": "non_saturating", "precision": "fp32"},
    },
    "cyclegan": {
        **{"data": "images", "other": "images", "size": "8", "width": "4", "halvings": "1", "blocks": "1"},
        **{"critic_width": "4", "history": "2", "batch": "8", "precision": "fp32"},
    },
    "realnvp": {"data": "images", "size": "8", "width": "8", "batch": "8"},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder of small images in two classes, and a latent store of it."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / "images" / name).mkdir(parents=True)
        for k in range(20):
            Image.fromarray(generator.integers(0, 256, (16, 16), np.uint8)).save(root / "images" / name / f"{k}.png")
    codec = RunFolder(root / "codec")
    knobs = TINY["kl_autoencoder"] | {"data": str(root / "images"), "budget": "8"}
    train(codec, resolve("kl_autoencoder", knobs), workers=0, fresh=False, screen=SCREEN)
    encode(codec, root / "latents.zarr", data=None, shard=64, workers=0, screen=SCREEN)
    teacher = RunFolder(root / "teacher")
    knobs = TINY["latent_dit"] | {"data": str(root / "latents.zarr"), "budget": "8"}
    train(teacher, resolve("latent_dit", knobs), workers=0, fresh=False, screen=SCREEN)
    codec = RunFolder(root / "quantising")
    knobs = TINY["vq_vae_2"] | {"data": str(root / "images"), "budget": "8"}
    train(codec, resolve("vq_vae_2", knobs), workers=0, fresh=False, screen=SCREEN)
    encode(codec, root / "codes.zarr", data=None, shard=64, workers=0, screen=SCREEN)
    return {
        "codes": str(root / "codes.zarr"),
        "images": str(root / "images"),
        "latents": str(root / "latents.zarr"),
        "teacher": str(teacher.path),
    }


@pytest.fixture(params=sorted(recipes()))
def tiny(request, places):
    """(recipe, budget) -> its Spec with the smallest sensible knobs."""
    knobs = TINY[request.param]  # a new recipe needs a line up there
    found = {name: places[knobs[name]] for name in ("data", "other", "teacher") if name in knobs}
    return lambda budget="16": resolve(request.param, knobs | found | {"budget": budget})


def everything(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


def outputs(model, run):
    """What the model is for, on fixed inputs."""
    ids = torch.arange(5)
    torch.manual_seed(0)
    if isinstance(model, Codec):
        found = model.encode(run.source.batch(ids, Noise(0, ids)).x)
        return [*columns(found).values(), model.decode(found.mode)]
    return [model.sample(conditions(run.source, ids), Noise(0, ids))]


def test_a_plan_writes_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = plan(tiny(), 0)
    assert everything(tmp_path) == []
    assert told["steps"] == 2
    assert told["rows"] > 0
    assert told["parameters"] == sum(p.numel() for p in tiny().model().parameters())


def test_a_plan_tells_the_steps_that_are_taken(tiny, tmp_path):
    state = train(RunFolder(tmp_path / "run"), tiny("17"), workers=0, fresh=False, screen=SCREEN)
    assert plan(tiny("17"), 0)["steps"] == state.step


def test_a_plan_of_a_game_has_a_batch_for_every_turn_of_the_busiest_player(places, tmp_path):
    knobs = TINY["wgan"] | {"data": places["images"], "budget": "64", "turns": "3"}
    spec = resolve("wgan", knobs)
    state = train(RunFolder(tmp_path / "run"), spec, workers=0, fresh=False, screen=SCREEN)
    assert (state.step, state.images) == (3, 72)
    assert plan(spec, 0)["steps"] == 3


def test_two_steps_then_the_same_model_from_the_disk(tiny, tmp_path):
    folder = RunFolder(tmp_path / "run")
    state = train(folder, tiny(), workers=0, fresh=False, screen=SCREEN)
    assert (state.step, state.images, state.finished) == (2, 16, True)
    assert [line["step"] for line in read(folder.path) if "val_loss" not in line] == [1, 2]
    written = {path.name for path in folder.path.iterdir()}
    assert {"run.json", "env.json", "metrics.jsonl", "checkpoints", "samples"} <= written

    saved = load_file(newest(folder.path / "checkpoints") / "average.safetensors")
    model, run = folder.model(), folder.spec().load()
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    for first, second in zip(outputs(model, run), outputs(folder.model(), run), strict=True):
        assert torch.equal(first, second)
        assert first.isfinite().all()


def test_what_is_there_for_its_latents_is_told_from_what_draws_data(tiny):
    """A VAE encodes as well, and is looked at by its samples."""
    spec = tiny()
    assert is_codec(spec.model()) == (spec.recipe in {"kl_autoencoder", "kl_gan", "vq_vae", "vq_vae_2", "vqgan"})


def test_training_moves_every_weight_of_the_players(tiny, tmp_path):
    folder = RunFolder(tmp_path / "run")
    train(folder, tiny("48"), workers=0, fresh=False, screen=SCREEN)
    at = newest(folder.path / "checkpoints")
    trained = load_file(at / "model.safetensors")
    torch.manual_seed(folder.spec().load().settings.seed)
    before = folder.spec().model().state_dict()
    same = [name for name, value in trained.items() if torch.equal(value, before[name])]
    assert same == []


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A process group of this process alone."""
    wires = tmp_path_factory.mktemp("group") / "wires"
    dist.init_process_group("gloo", init_method=f"file://{wires}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module:UserWarning")  # nothing here adds to an output in place
def test_its_weights_may_be_sharded(tiny, group):
    """Each player's gradients are then what they are otherwise, and weights may be gathered in bfloat16."""
    torch.manual_seed(0)
    model, source, device = tiny().model(), tiny().load().source, torch.device("cpu")
    whole, narrow = copy.deepcopy(model), copy.deepcopy(model)
    if model.second_order:
        with pytest.raises(ConfigError, match="cannot be sharded: this model's loss has a penalty on gradients"):
            shard_weights(model, World(), device, bf16=True)
        return
    shard_weights(model, World(), device, bf16=False)
    shard_weights(narrow, World(), device, bf16=True)
    rows = torch.arange(8)
    batch = source.batch(rows, Noise(0, rows))
    for player in dict.fromkeys(model.players):
        gradients = []
        for copied in (model, whole):
            torch.manual_seed(0)  # of dropout
            named = {id(p): name for name, p in copied.named_parameters()}
            parameters = copied.parameters_of(player)  # also of one that others have just drawn samples of
            copied.loss(batch, Noise(0, rows), player).total.backward()
            found = {named[id(p)]: p.grad for p in parameters if p.grad is not None}
            gradients.append({name: getattr(g, "full_tensor", lambda g=g: g)() for name, g in found.items()})
            copied.zero_grad()
        assert gradients[0].keys() == gradients[1].keys() != set()
        for name, value in gradients[1].items():
            torch.testing.assert_close(gradients[0][name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: n + m)
        with torch.autocast("cpu", torch.bfloat16):
            total = narrow.loss(batch, Noise(0, rows), player).total
        total.backward()
        assert total.isfinite()
    assert {p.dtype for p in narrow.parameters()} == {torch.float32}


def test_it_is_the_same_run_again(tiny, tmp_path):
    for name in ("a", "b"):
        train(RunFolder(tmp_path / name), tiny(), workers=0, fresh=False, screen=SCREEN)
    for file in newest(tmp_path / "a" / "checkpoints").glob("*.safetensors"):
        assert file.read_bytes() == (newest(tmp_path / "b" / "checkpoints") / file.name).read_bytes()
    assert (tmp_path / "a" / "run.json").read_bytes() == (tmp_path / "b" / "run.json").read_bytes()
    pictures = everything(tmp_path / "a" / "samples")
    assert pictures == everything(tmp_path / "b" / "samples") != []
    for name in pictures:
        assert (tmp_path / "a" / "samples" / name).read_bytes() == (tmp_path / "b" / "samples" / name).read_bytes()


def test_another_seed_is_another_model(tiny, tmp_path):
    for seed in (0, 1):
        train(RunFolder(tmp_path / str(seed)), tiny().with_knobs({"seed": seed}), workers=0, fresh=False, screen=SCREEN)
    one, other = (load_file(RunFolder(tmp_path / str(seed)).weights()) for seed in (0, 1))
    same = [name for name, value in one.items() if torch.equal(value, other[name])]
    assert len(same) < len(one) / 2  # what begins at zero has hardly moved


def test_the_recipe_in_the_readme(places, tmp_path):
    (code,) = re.findall("```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    folder = RunFolder(tmp_path / "run")
    spec = resolve(f"{tmp_path}/mine.py:pixels", {"data": places["images"], "budget": "128", "depth": "1"})
    assert train(folder, spec, workers=0, fresh=False, screen=SCREEN).finished
    ids = torch.arange(2)
    assert folder.model().sample(labels_for(ids, 2), Noise(0, ids)).shape == (2, 1, 32, 32)


def test_every_knob_says_what_it_is(tiny):
    helps = {knob.name: knob.help for knob in describe(tiny().recipe).knobs}
    assert [name for name, text in helps.items() if len(text) < 6] == []


def test_without_classes_there_is_nothing_to_guide(places, tmp_path):
    shutil.copytree(f"{places['images']}/cat", tmp_path / "images")
    codec, latents = RunFolder(tmp_path / "codec"), tmp_path / "latents.zarr"
    knobs = TINY["kl_autoencoder"] | {"data": str(tmp_path / "images"), "budget": "8"}
    train(codec, resolve("kl_autoencoder", knobs), workers=0, fresh=False, screen=SCREEN)
    encode(codec, latents, data=None, shard=64, workers=0, screen=SCREEN)
    knobs = TINY["latent_dit"] | {"guidance": "2.0"}
    assert resolve("latent_dit", knobs | {"data": places["latents"]}).model().prior.sampler.guidance.scale == 2.0
    with pytest.raises(ConfigError, match=r"knob 'guidance' is 3.0, and has no effect here: it needs data with labels"):
        resolve("latent_dit", knobs | {"data": str(latents), "guidance": "3"}).model()
    model = resolve("latent_dit", knobs | {"data": str(latents)}).model()  # 2 is the recipe's own: it waits for labels
    assert model.prior.sampler.guidance.scale == 1.0


def test_another_run_is_guided_away_from(places, tmp_path):
    """Autoguidance by its knob, against the sum of two networks; and a run that does not fit is refused."""
    folder = RunFolder(tmp_path / "run")
    knobs = TINY["latent_dit"] | {"data": places["latents"], "budget": "16", "seed": "1"}
    train(folder, resolve("latent_dit", knobs), workers=0, fresh=False, screen=SCREEN)
    spec = folder.retuned({"weaker": places["teacher"], "guidance": "3"})
    strong, weak = folder.model(spec).prior, RunFolder(Path(places["teacher"])).model().prior
    assert strong.sampler.open_reference is not None
    ids = torch.arange(3)
    x, t, cond = torch.randn(3, *strong.shape), torch.full((3,), 0.5), {"label": ids % 2}
    guided = strong.network(cond)(torch.cat([x, x]), 0.5, True)
    assert torch.equal(guided[3:], weak.denoiser(x, t, cond))
    assert torch.equal(guided[:3], strong.denoiser(x, t, cond))
    other = resolve(
        "ddpm", TINY["ddpm"] | {"data": places["images"], "weaker": places["teacher"], "guidance": "3"}
    ).model()
    with pytest.raises(ConfigError, match=r"the weaker '.*' was trained on latents of the codec"):
        other.sample({}, Noise(0, ids))


def test_what_may_be_retuned_is_a_knob(tiny):
    spec = tiny()
    assert spec.load().retune <= set(spec.knobs)


def test_every_budget_and_seed_reach_the_settings(tiny):
    spec = tiny("12").with_knobs({"seed": 5, "batch": 4})
    settings = spec.load().settings
    assert (settings.budget.images, settings.seed, settings.batch) == (12, 5, 4)
