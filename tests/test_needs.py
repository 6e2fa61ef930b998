"""Knobs that were given and have no effect are refused; defaults, and what has one, are not."""

import numpy as np
import pytest

from gensys.errors import ConfigError
from gensys.run import resolve


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Small data of each kind: labelled images, images without labels, vectors."""
    root = tmp_path_factory.mktemp("data")
    images = np.zeros((40, 1, 8, 8), np.uint8)
    np.savez(root / "labelled.npz", x=images, y=np.arange(40) % 2)
    np.save(root / "plain.npy", images)
    np.save(root / "rows.npy", np.zeros((40, 3), np.float32))
    return root


IDLE = [
    ("ddpm", "labelled.npz", "eta=0.5", "solver=ddim"),
    ("ddpm", "labelled.npz", "variance=large solver=ddim", "solver=ancestral"),
    ("iddpm", "labelled.npz", "variance=small solver=heun", "solver=ancestral"),
    ("edm", "labelled.npz", "rescale=0.5", "guidance other than 1"),
    ("edm", "labelled.npz", "guide_from=0.9", "guidance other than 1"),
    ("edm", "labelled.npz", "guide_to=0.1", "guidance other than 1"),
    ("edm", "plain.npy", "rescale=0.5 guidance=2", "guidance other than 1, and what to follow"),
    ("edm", "labelled.npz", "weaker=runs/other", "guidance other than 1"),
    ("edm", "plain.npy", "guidance=2", "data with labels or vectors, or 'weaker'"),
    ("edm", "plain.npy", "dropout=0.2", "data with labels or vectors"),
    ("edm", "rows.npy", "clip=true", "images, whose bounds are known"),
    ("edm", "rows.npy", "net=dit", "a network of its own for images"),
    ("edm", "rows.npy", "levels=2", "net=unet, for images"),
    ("vq_vae", "labelled.npz", "quantiser=fsq codes=12", "quantiser=ema, gradient or residual"),
    ("vq_vae", "labelled.npz", "books=2", "quantiser=residual"),
    ("vq_vae", "labelled.npz", "levels=4,4", "quantiser=fsq"),
    ("vq_vae", "labelled.npz", "quantiser=gradient decay=0.9", "quantiser=ema or residual"),
    ("edm", "labelled.npz", "heads=2", "net=dit, for images"),
    ("flow_matching", "labelled.npz", "patch=2", "net=dit, for images"),
    ("flow_matching", "labelled.npz", "net=dit levels=2", "net=unet, for images"),
    ("dit", "labelled.npz", "aspect=2", "latents of several shapes"),
    ("score_sde", "labelled.npz", "sigma_max=20", "sde=ve"),
    ("score_sde", "labelled.npz", "sigma_min=0.1", "sde=ve"),
    ("score_sde", "labelled.npz", "sigma_data=1", "sde=ve"),
    ("consistency", "labelled.npz", "rungs=9", "a teacher"),
    ("consistency", "labelled.npz", "skip=9", "a teacher"),
    ("consistency", "labelled.npz", "step=heun", "a teacher"),
    ("consistency", "labelled.npz", "scale=2", "a teacher"),
    ("consistency", "labelled.npz", "teacher=runs/edm last=20", "teacher= to be empty"),
    ("consistency", "labelled.npz", "teacher=runs/edm doubling=20", "teacher= to be empty"),
    ("consistency", "labelled.npz", "teacher=runs/edm width=20", "teacher= to be empty"),
    ("consistency", "plain.npy", "teacher=runs/edm scale=2", "data with labels or vectors"),
    ("stylegan", "labelled.npz", "r1=0 every=8", "r1 above 0"),
    ("cgan", "labelled.npz", "every=8", "r1 above 0"),
    ("stylegan2", "labelled.npz", "path_every=8", "path above 0"),
    ("vae", "plain.npy", "period=20", "annealing=linear or cyclic"),
    ("vae", "plain.npy", "scale=0.2", "observation=fixed"),
]

HEARD = [
    ("ddpm", "labelled.npz", "solver=ddim eta=0.5"),
    ("ddpm", "labelled.npz", "variance=large"),
    ("ddpm", "labelled.npz", "eta=0 rescale=0 guide_from=1"),  # defaults, said aloud
    ("ddpm", "rows.npy", "clip=false"),
    ("edm", "labelled.npz", "guidance=2 guide_from=0.9 guide_to=0.1 rescale=0.5"),
    ("edm", "plain.npy", "weaker=runs/other guidance=2"),
    ("edm", "plain.npy", "guidance=1"),
    ("dit", "plain.npy", "guidance=1"),  # whose default is another
    ("edm", "rows.npy", "width=8 depth=1"),
    ("score_sde", "labelled.npz", "sde=ve sigma_max=20 sigma_min=0.1 sigma_data=1"),
    ("consistency", "labelled.npz", "first=5 last=20 doubling=100 sigma_data=1"),
    ("consistency", "labelled.npz", "teacher=runs/edm rungs=90 skip=9 step=heun scale=2"),
    ("flow_matching", "labelled.npz", "levels=2"),
]


def asked(recipe, data, knobs):
    return resolve(recipe, {"data": str(data), **dict(knob.split("=") for knob in knobs.split())})


@pytest.mark.parametrize(("recipe", "data", "knobs", "needs"), IDLE)
def test_a_knob_that_can_have_no_effect_is_refused_by_what_it_needs(places, recipe, data, knobs, needs):
    spec = asked(recipe, places / data, knobs)
    with pytest.raises(ConfigError, match=r"knob '\w+' is .*, and has no effect here: it needs (.*). Give that") as e:
        spec.load()
    assert needs in str(e.value)


@pytest.mark.parametrize(("recipe", "data", "knobs"), HEARD)
def test_a_knob_that_has_an_effect_is_not(places, recipe, data, knobs):
    asked(recipe, places / data, knobs).load()
