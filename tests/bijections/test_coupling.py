"""Couplings: what they leave alone, the kernel's gradients, where they begin, what they refuse."""

import pytest
import torch
from every import TRANSFORMS, convolutional, coupling, make
from torch import nn

from gensys import native
from gensys.bijections.coupling import Coupling, MaskedCoupling, checkerboard
from gensys.kernels.dispatch import force


@pytest.mark.parametrize("flip", [False, True])
def test_one_half_is_left_as_it_is(flip):
    bijection, x, cond = make("coupling flipped, affine" if flip else "coupling, affine")
    z, _ = bijection(x, cond)
    same = slice(2, None) if flip else slice(2)
    assert torch.equal(z[:, same], x[:, same])
    assert not torch.isclose(z, x)[:, slice(2) if flip else slice(2, None)].any()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_checkerboard_is_left_as_it_is(name):
    bijection, x, cond = make(f"checkerboard, {name}")
    z, _ = bijection(x, cond)
    assert torch.equal((z == x).all(0), bijection.mask)
    assert torch.equal(bijection.mask, ~checkerboard((2, 3, 4), flip=True))
    assert bijection.mask[0].tolist() == [[True, False] * 2, [False, True] * 2, [True, False] * 2]


@pytest.mark.skipif(native.extension is None, reason=f"no compiled kernels: {native.why_missing}")
@pytest.mark.parametrize("name", ["coupling, affine", "coupling of images"])
def test_kernels_give_the_gradients_of_the_definition(name):
    gradients = []
    for implementation, dtype in (("native", torch.float32), ("reference", torch.float64)):
        bijection, x, _ = make(name)
        bijection, x = bijection.to(dtype), x.to(dtype).requires_grad_()
        with force(implementation):
            z, logdet = bijection(x, {})
            back = bijection.inverse(x, {})
            (z.square().sum() + back.square().sum() - logdet.sum()).backward()
        gradients.append([x.grad, *(p.grad for p in bijection.parameters())])
    for got, expected in zip(*gradients, strict=True):
        assert expected.abs().max() > 0  # every parameter has its part
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_an_untrained_one_is_the_identity(name):
    bijection, x = coupling(TRANSFORMS[name]).double(), torch.randn(4, 5, dtype=torch.float64)
    z, logdet = bijection(x, {})
    torch.testing.assert_close(z, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(logdet, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)


def test_autocast():
    torch.manual_seed(0)
    bijection = convolutional()
    for p in bijection.parameters():
        nn.init.normal_(p, std=0.3)
    x = torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        z, logdet = bijection(x, {})
        back = bijection.inverse(z, {})
    assert z.dtype == logdet.dtype == torch.float32
    assert (back - x).abs().max() < 1e-5
    (z.sum() + logdet.sum()).backward()
    gradients = [p.grad for p in bijection.parameters()]
    assert all(g is not None and g.dtype == torch.float32 and g.abs().max() > 0 for g in gradients)


def test_bad_arguments():
    for x in (torch.zeros(3), torch.zeros(3, 1)):
        with pytest.raises(ValueError, match="two channels at least, got"):
            coupling(TRANSFORMS["affine"], 2)(x, {})

    class Same(nn.Module):
        def forward(self, x, cond):
            return x

    with pytest.raises(ValueError, match=r"'net' must make \(3, 4, 2\), 2 parameters an element, got \(3, 2, 2\)"):
        Coupling(Same())(torch.zeros(3, 4, 2), {})
    for mask in (torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool), torch.ones(2)):
        with pytest.raises(ValueError, match="'mask' must be bool, true somewhere and false somewhere"):
            MaskedCoupling(Same(), mask)
    with pytest.raises(ValueError, match=r"'x' must be \(B, \*\(1, 2, 2\)\), the mask's shape, got \(3, 1, 2, 4\)"):
        MaskedCoupling(Same(), checkerboard((1, 2, 2)))(torch.zeros(3, 1, 2, 4), {})
