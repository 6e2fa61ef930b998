"""The network that suits data of a shape, and the squares of pixels that it takes together."""

import pytest
import torch

from gensys.errors import ConfigError
from gensys.nn.backbone import backbone, squares
from gensys.nn.dit import DiT
from gensys.nn.mlp import MLP
from gensys.nn.unet import UNet


@pytest.mark.parametrize(
    ("sides", "places", "multiple", "square"),
    [
        ((32, 32), 16, 4, 2),
        ((64, 64), 16, 4, 4),
        ((256, 256), 16, 4, 4),  # never more
        ((64, 32), 16, 4, 2),  # the shorter side has 16 places too
        ((28, 28), 8, 2, 2),  # 7 places of 4 would be too few, and are odd
        ((28, 28), 16, 4, 1),  # 14 places cannot be halved twice
        ((8, 8), 8, 2, 1),
        ((7, 7), 16, 4, 1),
    ],
)
def test_squares_leave_places_that_can_be_halved(sides, places, multiple, square):
    assert squares(sides, places, multiple) == square


def test_what_is_not_given_goes_by_the_data():
    vectors, unet, dit = backbone((5,), "dit"), backbone((1, 32, 32), "unet"), backbone((1, 32, 32), "dit")
    assert isinstance(vectors, MLP)
    assert isinstance(unet, UNet)
    assert unet.fold == 2
    assert isinstance(dit, DiT)
    assert dit.patch == 4
    assert backbone((4, 8, 8), "unet").fold == backbone((4, 8, 8), "dit").patch == 1  # latents


def test_what_is_given_is_taken():
    net = backbone((1, 32, 32), "unet", width=8, depth=2, levels=2, fold=1, outputs=2, classes=3)
    assert isinstance(net, UNet)
    assert (net.fold, net.levels) == (1, 2)
    assert net(torch.zeros(2, 1, 32, 32), torch.rand(2), {"label": torch.tensor([0, -1])}).shape == (2, 2, 32, 32)
    assert backbone((1, 32, 32), "dit", patch=8, width=8, heads=2).patch == 8


def test_images_of_many_shapes_fit_or_are_refused():
    """What is chosen unasked suits them all, and what is given is held against all."""
    assert squares((32, 48, 36), 8, 4) == 1
    assert backbone((1, 32, 32), "unet", others={(1, 32, 32), (1, 16, 48)}).fold == 1
    assert backbone((1, 32, 32), "dit", others={(1, 16, 64)}).patch == 2
    with pytest.raises(ConfigError, match="half the sides, and the sides are 6, 8 and 10, over 'fold'"):
        backbone((4, 8, 8), "unet", others={(4, 8, 8), (4, 6, 10)})
    with pytest.raises(ConfigError, match="'patch' must divide all sides, which are 8 and 9, got 2"):
        backbone((4, 8, 8), "dit", patch=2, others=[(4, 9, 8)])
