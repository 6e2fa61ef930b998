"""Cycle consistency, with generators whose cycles are known."""

import pytest
import torch

from gensys.noise import Noise
from gensys.objectives.cycle import CycleConsistency

LABEL = torch.tensor([0, 1, 1])
IMAGE = torch.rand(3, 1, 4, 4)
NOISE = Noise(0, torch.arange(3))


def affine(scale, shift):
    """Into domain 1: scale x + shift; into domain 0: x."""

    def generator(z, cond, noise):
        into = cond["label"].view(-1, 1, 1, 1) == 1
        return torch.where(into, scale * cond["image"] + shift, cond["image"])

    return generator


def inverse(z, cond, noise):
    """x -> 2 x + 1 and back."""
    into = cond["label"].view(-1, 1, 1, 1) == 1
    return torch.where(into, 2.0 * cond["image"] + 1.0, (cond["image"] - 1.0) / 2.0)


def found(generator, **options):
    z, cond = torch.empty(3, 0), {"image": IMAGE, "label": LABEL}
    return CycleConsistency(**options)(generator, z, generator(z, cond, NOISE), cond, NOISE)


def test_generators_that_are_inverses_have_no_cycle_error():
    terms = found(inverse)
    assert terms["cycle"] < 1e-6
    assert terms["identity"] > 0.1


def test_the_terms_are_those_of_the_paper():
    """Images of domain 1 are moved by 0.5 on their way back into it; those of domain 0 on their way there."""
    terms = found(affine(1.0, 0.5), weight=3.0, identity=0.2)
    assert terms["cycle"].item() == pytest.approx(3.0 * 0.5)  # each way once through domain 1
    assert terms["identity"].item() == pytest.approx(3.0 * 0.2 * (0.5 + 0.0 + 0.0) / 3)  # one image is of domain 1
    doubled = found(affine(2.0, 0.0), weight=1.0, identity=1.0)
    torch.testing.assert_close(doubled["cycle"], IMAGE.abs().mean())
    torch.testing.assert_close(doubled["identity"], IMAGE[:1].abs().sum() / IMAGE.numel())
    assert found(affine(1.0, 0.5), identity=0.0).keys() == {"cycle"}


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"identity": -0.1}])
def test_weights_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="'weight' must be positive and 'identity' not negative"):
        CycleConsistency(**options)
