"""What holds of every bijection: the determinant is that of the Jacobian, the inverse undoes, all of it learns."""

import pytest
import torch
from every import CASES, make

EVERY = pytest.mark.parametrize("name", CASES)


@EVERY
def test_logdet_is_that_of_the_jacobian(name):
    bijection, x, cond = make(name)
    _, logdet = bijection(x, cond)
    assert logdet.shape == (3,)
    for row in range(3):
        own = {key: value[row : row + 1] for key, value in cond.items()}
        jacobian = torch.autograd.functional.jacobian(lambda v, own=own: bijection(v[None], own)[0][0], x[row])
        expected = torch.linalg.slogdet(jacobian.view(x[row].numel(), -1)).logabsdet
        torch.testing.assert_close(logdet[row], expected, rtol=0, atol=1e-8)


@EVERY
def test_there_and_back(name):
    bijection, x, cond = make(name)
    with torch.no_grad():
        z, _ = bijection(x, cond)
        assert z.shape == x.shape
        assert not torch.equal(z, x)
        torch.testing.assert_close(bijection.inverse(z, cond), x, rtol=0, atol=1e-10)
        torch.testing.assert_close(bijection(bijection.inverse(x / 2, cond), cond)[0], x / 2, rtol=0, atol=1e-10)


@EVERY
def test_every_parameter_learns(name):
    bijection, x, cond = make(name)
    z, logdet = bijection(x.requires_grad_(), cond)
    (z.square().sum() - logdet.sum()).backward()
    idle = [n for n, p in bijection.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert idle == (["net.first.weight"] if name == "autoregressive of one" else [])  # it has nothing to go by


@EVERY
def test_in_float32_what_is_undone_is_near(name):
    bijection, x, cond = make(name)
    bijection, x = bijection.float(), x.float()
    cond = {**cond, "vector": cond["vector"].float()}
    with torch.no_grad():
        torch.testing.assert_close(bijection.inverse(bijection(x, cond)[0], cond), x, rtol=0, atol=2e-4)
