"""Every bijection, small, in float64, with all its weights at random: (how it is made, shape of a row, conditions)."""

from functools import partial

import torch
from torch import nn

from gensys.bijections.actnorm import ActNorm
from gensys.bijections.autoregressive import Autoregressive
from gensys.bijections.bijection import Chain, Flattened, Inverse, OnHalf
from gensys.bijections.coupling import Coupling, MaskedCoupling, checkerboard
from gensys.bijections.logit import Logit
from gensys.bijections.mixing import Mixing
from gensys.bijections.permutation import reverse, shuffle
from gensys.bijections.spline import Spline
from gensys.bijections.squeeze import Squeezed
from gensys.bijections.transforms import Additive, Affine
from gensys.nn.conditioner import Convolutions, Perceptron
from gensys.nn.made import MADE

TRANSFORMS = {"additive": Additive(), "affine": Affine(1.5), "spline": Spline(5, 3.0)}


def coupling(transform, dim=5, flip=False, classes=0, vector=0):
    half = dim // 2
    a, b = (dim - half, half) if flip else (half, dim - half)
    net = Perceptron(a, transform.count * b, width=9, depth=2, classes=classes, vector=vector)
    return Coupling(net, transform, flip=flip)


def convolutional(transform=TRANSFORMS["affine"], channels=4, flip=False, **given):
    half = channels // 2
    net = Convolutions(half, transform.count * (channels - half), width=6, **given)
    return Coupling(net, transform, flip=flip)


def masked(transform, shape=(2, 3, 4), flip=False):
    net = Convolutions(shape[0], transform.count * shape[0], width=6, kernel=3)
    return MaskedCoupling(net, checkerboard(shape, flip=flip), transform)


def autoregressive(transform, dim=4, **given):
    return Autoregressive(MADE(dim, transform.count, width=11, **given), transform)


CASES = {
    **{f"coupling, {name}": (partial(coupling, one), (5,)) for name, one in TRANSFORMS.items()},
    **{f"coupling flipped, {name}": (partial(coupling, one, flip=True), (5,)) for name, one in TRANSFORMS.items()},
    **{f"checkerboard, {name}": (partial(masked, one), (2, 3, 4)) for name, one in TRANSFORMS.items()},
    **{f"autoregressive, {name}": (partial(autoregressive, one), (4,)) for name, one in TRANSFORMS.items()},
    "coupling of conditions": (partial(coupling, TRANSFORMS["affine"], classes=3, vector=2), (5,)),
    "coupling of images": (convolutional, (4, 3, 2)),
    "coupling of images with conditions": (partial(convolutional, flip=True, classes=3, vector=2), (4, 3, 2)),
    "other checkerboard": (partial(masked, TRANSFORMS["affine"], flip=True), (2, 3, 4)),
    "autoregressive of conditions": (partial(autoregressive, TRANSFORMS["affine"], classes=3, vector=2), (4,)),
    "autoregressive of one": (partial(autoregressive, TRANSFORMS["spline"], dim=1, classes=3), (1,)),
    "inverse": (lambda: Inverse(autoregressive(TRANSFORMS["affine"])), (4,)),
    "actnorm": (partial(ActNorm, 3), (3, 2, 2)),
    "mixing of vectors": (partial(Mixing, 5, seed=1), (5,)),
    "mixing of images": (partial(Mixing, 3, seed=2), (3, 2, 3)),
    "reverse": (partial(reverse, 5), (5,)),
    "shuffle": (partial(shuffle, 4, 1), (4, 2)),
    "logit": (partial(Logit, -4.0, 4.0), (3, 2)),
    "flattened": (lambda: Flattened(autoregressive(TRANSFORMS["affine"], dim=6)), (3, 2)),
    "squeezed": (lambda: Squeezed(convolutional()), (1, 4, 2)),
    "on half": (lambda: OnHalf(coupling(TRANSFORMS["spline"], 3)), (6,)),
    "a scale of glow": (
        lambda: Squeezed(Chain(ActNorm(4), Mixing(4), convolutional(), OnHalf(Squeezed(Mixing(8))))),
        (1, 4, 4),
    ),
}


def make(name):
    """The bijection with random weights, three rows of data and their conditions."""
    build, shape = CASES[name]
    torch.manual_seed(0)
    bijection = build().double().eval()
    with torch.no_grad():
        for p in bijection.parameters():
            nn.init.normal_(p, std=0.2)  # larger ones make slopes of 1e-6, which no inverse survives
    return bijection, 1.2 * torch.randn(3, *shape, dtype=torch.float64), conditions()


def conditions():
    """Labels, one of them missing, and vectors."""
    vector = torch.randn(3, 2, dtype=torch.float64)
    vector[1] = torch.nan
    return {"label": torch.tensor([0, -1, 2]), "vector": vector}
