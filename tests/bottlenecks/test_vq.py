"""Vector quantisation against what the paper's formulas give by hand."""

import pytest
import torch

from gensys.bottlenecks.vq import VectorQuantiser


def quantiser(codes, dim):
    torch.manual_seed(0)
    made = VectorQuantiser(codes, dim)
    with torch.no_grad():
        made.codebook.normal_()
    return made


@pytest.mark.parametrize("shape", [(7, 5), (3, 5, 11), (2, 5, 4, 6), (2, 5, 2, 3, 4), (0, 5, 3)])
def test_every_latent_becomes_its_nearest_code(shape):
    made, z = quantiser(13, 5), torch.randn(shape)
    out = made(z)
    rows, codebook = z.movedim(1, -1).reshape(-1, 5), made.codebook.detach()
    expected = (rows[:, None] - codebook).square().sum(2).argmin(1)
    assert torch.equal(out.codes.flatten(), expected)
    assert out.codes.shape == shape[:1] + shape[2:]
    assert torch.equal(out.z.movedim(1, -1).reshape(-1, 5), codebook[expected])  # to the last bit
    assert torch.equal(made.lookup(out.codes), out.z)


def test_the_gradient_of_the_decoder_passes_straight_through():
    made, z = quantiser(13, 5), torch.randn(3, 5, 8, requires_grad=True)
    upstream = torch.randn(3, 5, 8)
    made(z).z.backward(upstream)
    assert torch.equal(z.grad, upstream)
    assert made.codebook.grad is None


def test_the_terms_by_hand():
    made = quantiser(2, 2)
    with torch.no_grad():
        made.codebook.copy_(torch.tensor([[0.0, 0.0], [4.0, 0.0]]))
    z = torch.tensor([[1.0, 0.0], [3.0, 2.0]], requires_grad=True)  # differences from the codes: (1, 0) and (-1, 2)
    out = made(z)
    assert out.codes.tolist() == [0, 1]
    assert out.codebook.item() == out.commitment.item() == (1 + 1 + 4) / 4
    assert out.loss().item() == 1.25 * 1.5
    out.loss(beta=0.5).backward()
    difference = torch.tensor([[1.0, 0.0], [-1.0, 2.0]])
    assert torch.equal(z.grad, 0.5 * 2 / 4 * difference)  # of the commitment alone
    assert torch.equal(made.codebook.grad, -2 / 4 * difference)  # of the codebook's term alone


def test_codes_that_are_not_chosen_get_no_gradient():
    made, z = quantiser(40, 3), torch.randn(2, 3, 6, requires_grad=True)
    out = made(z)
    out.loss().backward()
    used = torch.zeros(40, dtype=torch.bool)
    used[out.codes.flatten()] = True
    assert torch.equal(made.codebook.grad.abs().sum(1) > 0, used)


def test_the_minimum_of_the_codebook_term_is_the_mean():
    """The term is a parabola in every code: from any point one Newton step leads to the mean of the code's latents."""
    made, z = quantiser(4, 3), torch.randn(500, 3)
    out = made(z)
    out.codebook.backward()
    for k in range(4):
        own = z[out.codes == k]
        curvature = 2 * len(own) / z.numel()
        torch.testing.assert_close(made.codebook[k] - made.codebook.grad[k] / curvature, own.mean(0))


def test_a_new_codebook_is_used():
    torch.manual_seed(0)
    out = VectorQuantiser(64, 16)(torch.randn(4096, 16))
    assert len(out.codes.unique()) > 50


def test_codes_are_float32_under_autocast():
    made, z = quantiser(13, 5), torch.randn(3, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = made(z.bfloat16())
    assert out.z.dtype == out.codebook.dtype == torch.float32
    assert torch.equal(out.codes, made(z.bfloat16()).codes)
    assert torch.equal(out.z, made.lookup(out.codes))


@pytest.mark.parametrize("shape", [(7, 4), (2, 6, 5), (5,)])
def test_latents_of_another_width_are_refused(shape):
    with pytest.raises(ValueError, match=r"'z' must be \(B, 5, \.\.\.\).*got \("):
        quantiser(13, 5)(torch.randn(shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_quantiser_may_be_of_any_dtype(dtype):
    made = quantiser(13, 5)
    expected = made.to(torch.bfloat16).to(torch.float32)(torch.ones(4, 5))
    out = made.to(dtype)(torch.ones(4, 5))
    assert torch.equal(out.codes, expected.codes)
    assert torch.equal(out.z, expected.z)
    out.loss().backward()
    assert made.codebook.grad.dtype == dtype
