"""Quantisers without a codebook of their own, and several in turn."""

import itertools

import pytest
import torch

from gensys.bottlenecks.ema import EmaQuantiser
from gensys.bottlenecks.fsq import ScalarQuantiser
from gensys.bottlenecks.residual import ResidualQuantiser
from gensys.bottlenecks.vq import VectorQuantiser, perplexity


@pytest.mark.parametrize("levels", [(3,), (2, 4), (8, 5, 5)])
def test_every_code_stands_for_a_latent_of_its_own_and_is_reached(levels):
    made = ScalarQuantiser(levels)
    codes = torch.arange(made.size)[:, None]
    z = made.lookup(codes)  # (size, D, 1)
    middle = torch.tensor(levels) // 2
    digits = [torch.arange(n) for n in levels]
    expected = {tuple(((torch.stack(d) - middle) / middle).tolist()) for d in itertools.product(*digits)}
    assert {tuple(row.flatten().tolist()) for row in z} == expected
    wanted = z * middle[:, None]  # whole numbers, the centre of every cell; what tanh has to be given for them:
    half = 0.5 * (torch.tensor(levels) - 1) * 1.001
    offset = torch.where(torch.tensor(levels) % 2 == 0, 0.5, 0.0)
    share = ((wanted.squeeze(-1) + offset) / half).clamp(-0.999, 0.999)
    out = made(torch.atanh(share) - torch.atanh(offset / half))
    assert torch.equal(out.codes, codes[:, 0])
    assert torch.equal(out.z, z.squeeze(-1))


def test_a_scalar_quantiser_by_hand():
    """Five levels: y = 2.002 tanh(z), three levels: 1.001 tanh(z)."""
    made = ScalarQuantiser((5, 3))
    z = torch.tensor([[0.0, 0.0], [0.3, -9.0], [9.0, 0.5]], requires_grad=True)
    out = made(z)
    assert out.z.tolist() == [[0.0, 0.0], [0.5, -1.0], [1.0, 0.0]]
    assert out.codes.tolist() == [2 + 5 * 1, 3 + 5 * 0, 4 + 5 * 1]
    out.z.sum().backward()
    slope = (1 - z.detach().tanh().square()) * torch.tensor([2.002 / 2, 1.001])
    torch.testing.assert_close(z.grad, slope)
    assert out.loss().item() == 0.0


@pytest.mark.parametrize(("levels", "message"), [((), "at least 2"), ((3, 1), "at least 2"), ((2,) * 32, "at most")])
def test_levels_without_sense_are_refused(levels, message):
    with pytest.raises(ValueError, match=message):
        ScalarQuantiser(levels)


def test_each_codebook_codes_what_those_before_it_left():
    torch.manual_seed(0)
    made = ResidualQuantiser([EmaQuantiser(16, 4) for _ in range(3)])
    z = torch.randn(50, 4, 6)
    made(z)
    made.eval()
    out = made(z)
    assert out.codes.shape == (50, 3, 6) == (50, *made.shape((6,)))
    rest, errors = z, []
    for k, quantiser in enumerate(made.quantisers):
        found = quantiser(rest)
        assert torch.equal(found.codes, out.codes[:, k])
        rest = rest - quantiser.lookup(found.codes)
        errors.append((z - made.lookup(out.codes[:, : k + 1])).square().mean().item())
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]
    torch.testing.assert_close(made.lookup(out.codes), out.z)
    torch.testing.assert_close(z - rest, out.z)


def test_the_gradient_passes_all_codebooks_at_once():
    made = ResidualQuantiser([VectorQuantiser(8, 4) for _ in range(2)])
    z, upstream = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4)
    out = made(z)
    out.z.backward(upstream, retain_graph=True)
    assert torch.equal(z.grad, upstream)
    out.loss().backward()
    assert all(quantiser.codebook.grad.abs().sum() > 0 for quantiser in made.quantisers)


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="'quantisers' must be at least one"):
        ResidualQuantiser([])
    with pytest.raises(ValueError, match="'quantisers' must be at least one"):
        ResidualQuantiser([VectorQuantiser(8, 4), VectorQuantiser(9, 4)])
    with pytest.raises(ValueError, match="'codes' must be"):
        ResidualQuantiser([VectorQuantiser(8, 4)]).lookup(torch.zeros(2, 2, 3, dtype=torch.int64))


def test_perplexity_by_hand():
    assert perplexity(torch.tensor([[0, 1], [2, 3]]), 10).item() == pytest.approx(4.0)
    assert perplexity(torch.zeros(7, dtype=torch.int64), 10).item() == 1.0
    share = torch.tensor([0.75, 0.25])
    assert perplexity(torch.tensor([0, 0, 0, 5]), 6).item() == pytest.approx(torch.special.entr(share).sum().exp())
