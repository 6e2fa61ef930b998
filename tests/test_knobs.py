"""Groups of knobs: what each makes, for every solver and grid; and the domain that a model is trained on."""

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from gensys import targets
from gensys.catalogue import describe
from gensys.denoiser import Denoiser
from gensys.domain import open_domain
from gensys.errors import ConfigError, DataError
from gensys.families.diffusion import Diffusion
from gensys.knobs import (
    SAMPLING,
    SOLVERS,
    TARGETS,
    GridName,
    Network,
    Sampling,
    SolverName,
    TargetName,
    Training,
)
from gensys.nn.dit import DiT
from gensys.nn.mlp import MLP
from gensys.nn.unet import UNet
from gensys.noise import Noise
from gensys.paths import VP, Discrete, Linear, cosine_schedule
from gensys.recipes.consistency import consistency
from gensys.recipes.lcm import lcm

PLAIN = SimpleNamespace(conditional=False, bounds=None)  # of a domain, what a sampler asks for
LABELLED = SimpleNamespace(conditional=True, bounds=(-1.0, 1.0))


def of(*shape, classes=0):
    """Of a domain, what a network asks for."""
    return SimpleNamespace(shape=shape, shapes={shape}, classes=classes, vector=0)


class Half(nn.Module):
    def forward(self, x_t, t, cond):
        return 0.5 * x_t


def test_networks_of_noise_schedules_predict_v():
    """The noise tells little of the data where they have vanished."""
    assert get_args(TargetName) == tuple(TARGETS)
    for recipe in ("ddpm", "iddpm", "dit", "latent_diffusion"):
        assert {knob.name: knob.default for knob in describe(recipe).knobs}["target"] == "v"


def test_every_solver_has_a_name():
    assert list(SOLVERS) == list(get_args(SolverName))
    assert {field.name for field in fields(Sampling)} == SAMPLING


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("path", [VP(), Discrete(cosine_schedule(1000))], ids=["vp", "discrete"])
def test_every_solver_draws_on_its_default_grid(solver, path):
    sampling = Sampling(solver=solver, steps=4)
    model = Diffusion(Denoiser(Half(), path, targets.v), (3,), sampler=sampling.sampler(path, PLAIN))
    assert model.sample({}, Noise(0, torch.arange(2))).isfinite().all()


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        (Sampling(solver="dopri5", steps=1), "give two steps or more"),
        (Sampling(solver="predictor_corrector"), "no drift at alpha = 0"),
        (Sampling(solver="euler_maruyama"), "no drift at alpha = 0"),
    ],
)
def test_a_grid_that_a_solver_cannot_walk_is_refused_as_the_model_is_built(sampling, said):
    with pytest.raises(ValueError, match=said):
        Diffusion(Denoiser(Half(), Linear(), targets.velocity), (3,), sampler=sampling.sampler(Linear(), PLAIN))


@pytest.mark.parametrize("grid", get_args(GridName))
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_every_grid_falls_from_noise_to_data(grid, shift):
    times = Sampling(grid=grid, steps=7, shift=shift).fractions(VP())
    assert len(times) == 8
    assert times[-1] == 0.0
    assert times == sorted(times, reverse=True)


def test_what_the_sampler_is_told():
    sampling = Sampling(guidance=3.0, guide_from=0.8, guide_to=0.1, clip=True)
    made = sampling.sampler(Linear(), LABELLED)
    assert (made.guidance.scale, made.guidance.interval, made.clip) == (3.0, (0.1, 0.8), (-1.0, 1.0))
    assert sampling.sampler(Linear(), PLAIN).guidance.scale == 1.0
    assert replace(sampling, clip=False).sampler(Linear(), LABELLED).clip is None


@pytest.mark.parametrize(
    ("shape", "net", "kind"), [((5,), "dit", MLP), ((1, 16, 16), "dit", DiT), ((1, 16, 16), "unet", UNet)]
)
def test_the_network_suits_the_data(shape, net, kind):
    made = Network(net=net, width=32, depth=1).build(of(*shape, classes=2))
    assert isinstance(made, kind)
    x = torch.zeros(2, *shape)
    assert made(x, torch.tensor([0.1, 0.9]), {"label": torch.tensor([0, -1])}).shape == x.shape


def test_data_that_no_network_takes():
    with pytest.raises(
        ConfigError, match=r"images \(C, H, W\) or vectors \(D,\) are wanted, and the data are \(2, 3\)"
    ):
        Network().build(of(2, 3))


@pytest.mark.parametrize(("levels", "fold"), [(4, 1), (4, 0), (3, 2), (1, 5)])
def test_a_unet_whose_levels_do_not_halve_the_data_is_refused_before_it_is_trained(levels, fold):
    with pytest.raises(ConfigError, match=f"sides are 12, over 'fold', got {levels} levels and a fold of {fold or 1}"):
        Network(net="unet", levels=levels, fold=fold).build(of(1, 12, 12))


@pytest.mark.parametrize("knob", ["width", "depth", "patch", "fold", "levels"])
def test_sizes_below_the_least_are_refused(knob):
    with pytest.raises(ConfigError, match=f"'{knob}'.* must be at least|'{knob}' at least 1"):
        replace(Network(), **{knob: -1}).build(of(1, 12, 12))


@pytest.mark.parametrize(("recipe", "said"), [(lcm, "its scale is the knob 'w'"), (consistency, "the knob 'scale'")])
def test_a_student_is_not_guided_away_from_what_it_never_learned(recipe, said):
    with pytest.raises(ConfigError, match=f"'guidance' is 3, .* leave it 1.*{said}"):
        recipe(data="moons", teacher="runs/edm", sampling=Sampling(guidance=3.0))


def test_the_steps_of_a_budget():
    assert Training(batch=64, budget="130").steps() == 3
    assert Training(budget="90s").steps() is None


def test_a_domain_of_vectors_and_of_images(tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((20, 3), np.float32))
    vectors, images = open_domain(str(tmp_path / "rows.npy")), open_domain("mnist")
    assert (vectors.shape, vectors.classes, vectors.bounds) == ((3,), 0, None)
    assert (images.shape, images.classes, images.bounds) == ((1, 32, 32), 10, (-1.0, 1.0))
    with pytest.raises(DataError, match=r"images \(C, H, W\) are wanted, and 'rows' holds rows of shape \(3,\)"):
        _ = vectors.image
    prior = Diffusion(Denoiser(Half(), Linear(), targets.velocity), (3,))
    assert vectors.model(prior) is prior
