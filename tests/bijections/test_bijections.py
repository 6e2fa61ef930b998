"""Affine couplings: the log-determinant is that of the Jacobian, the inverse is the inverse."""

import pytest
import torch
from torch import nn

from gensys import native
from gensys.bijections.coupling import AffineCoupling
from gensys.kernels.dispatch import force

CASES = [((2,), False), ((5,), False), ((5,), True), ((4, 3, 2), False), ((3, 2, 2), True)]
BOTH = pytest.mark.parametrize(("shape", "flip"), CASES)


def coupling(shape, flip, dtype=torch.float64):
    """With a network of one hidden layer, on vectors or on images; all its weights at random."""
    torch.manual_seed(0)
    half = shape[0] // 2
    a, b = (shape[0] - half, half) if flip else (half, shape[0] - half)
    layer = nn.Linear if len(shape) == 1 else lambda i, o: nn.Conv2d(i, o, 3, padding=1)
    return AffineCoupling(nn.Sequential(layer(a, 8), nn.Tanh(), layer(8, 2 * b)), bound=1.5, flip=flip).to(dtype)


@BOTH
def test_logdet_is_that_of_the_jacobian(shape, flip):
    layer = coupling(shape, flip)
    x = torch.randn(3, *shape, dtype=torch.float64)
    for direction in (layer.forward, layer.inverse):
        _, logdet = direction(x)
        for row in range(3):
            jacobian = torch.autograd.functional.jacobian(lambda v, f=direction: f(v[None])[0][0], x[row])
            sign, expected = torch.linalg.slogdet(jacobian.view(x[row].numel(), -1))
            assert sign == 1
            torch.testing.assert_close(logdet[row], expected, rtol=0, atol=1e-8)


@BOTH
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_there_and_back(shape, flip, dtype, tolerance):
    layer = coupling(shape, flip, dtype)
    x = torch.randn(7, *shape, dtype=dtype)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            y, logdet = layer(x)
            back, undone = layer.inverse(y)
        assert (back - x).abs().max() < tolerance
        assert torch.equal(undone, -logdet)
        unchanged = slice(shape[0] // 2, None) if flip else slice(shape[0] // 2)
        assert torch.equal(y[:, unchanged], x[:, unchanged])
        assert not torch.isclose(y, x).all()


@BOTH
@pytest.mark.skipif(native.extension is None, reason=f"no compiled kernels: {native.why_missing}")
def test_kernels_give_the_gradients_of_the_definition(shape, flip):
    gradients = []
    for implementation, dtype in (("native", torch.float32), ("reference", torch.float64)):
        layer = coupling(shape, flip, dtype)
        x = torch.linspace(-2, 2, 6 * shape[0] * 4).view(-1, shape[0], *[2] * (len(shape) - 1)).to(dtype)
        x.requires_grad_()
        with force(implementation):
            for direction in (layer.forward, layer.inverse):
                y, logdet = direction(x)
                (y.square().sum() - logdet.sum()).backward()
        gradients.append([x.grad, *(p.grad for p in layer.parameters())])
    for got, expected in zip(*gradients, strict=True):
        assert expected.abs().max() > 0  # every parameter has its part
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


def test_a_network_that_answers_zero_makes_the_identity():
    layer = coupling((4,), False)
    nn.init.zeros_(layer.net[2].weight)
    nn.init.zeros_(layer.net[2].bias)
    x = torch.randn(3, 4, dtype=torch.float64)
    y, logdet = layer(x)
    assert torch.equal(y, x)
    assert torch.equal(logdet, torch.zeros(3, dtype=torch.float64))


def test_autocast():
    layer = coupling((4, 8, 8), False, torch.float32)
    x = torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y, logdet = layer(x)
        back, undone = layer.inverse(y)
    assert y.dtype == logdet.dtype == torch.float32
    assert (back - x).abs().max() < 1e-5
    assert torch.equal(undone, -logdet)
    (y.sum() + logdet.sum()).backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.abs().max() > 0 for p in layer.parameters())


def test_bad_arguments():
    for x in (torch.zeros(3), torch.zeros(3, 1)):
        with pytest.raises(ValueError, match="two channels at least, got"):
            coupling((2,), False)(x)
    with pytest.raises(ValueError, match=r"'net' must make \(3, 4, 2\), s and t, of \(3, 2, 2\), got \(3, 2, 2\)"):
        AffineCoupling(nn.Identity())(torch.zeros(3, 4, 2))
