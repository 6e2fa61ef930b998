"""Codebooks that follow their latents, against the paper's formulas in float64."""

import pytest
import torch

from gensys.bottlenecks.ema import EmaQuantiser, kmeans
from gensys.bottlenecks.vq import perplexity

K, D = 6, 3


def begun(**options):
    torch.manual_seed(0)
    made = EmaQuantiser(K, D, **options)
    made(torch.randn(200, D))
    return made


def test_the_moving_averages_are_those_of_the_paper():
    """Equations 6 to 8 in counts, with Laplace smoothing, over ten batches."""
    made = begun(decay=0.9, revive=0.0, smoothing=1e-4)
    rows = 200
    counts, sums = made.counts.double() * rows, made.sums.double() * rows
    for _ in range(10):
        z = torch.randn(rows, D)
        n = counts.sum()
        e = sums / ((counts + 1e-4 * rows) / (n + K * 1e-4 * rows) * n)[:, None]
        torch.testing.assert_close(made.codebook.double(), e, rtol=0, atol=1e-6)
        out = made(z)
        one = torch.nn.functional.one_hot(out.codes, K).double()
        counts = 0.9 * counts + 0.1 * one.sum(0)
        sums = 0.9 * sums + 0.1 * one.T @ z.double()
    assert made.counts.sum().item() == pytest.approx(1.0, abs=1e-5)


def test_the_nearest_code_is_that_of_float64():
    made = begun().eval()
    z = torch.randn(4, D, 50, 9)
    out = made(z)
    distance = (z.double().movedim(1, -1)[..., None, :] - made.codebook.double()).norm(dim=-1)
    two = distance.topk(2, largest=False)
    clear = two.values[..., 1] - two.values[..., 0] > 1e-6
    assert clear.float().mean() > 0.99
    assert torch.equal(out.codes[clear], two.indices[..., 0][clear])
    assert torch.equal(out.z, made.lookup(out.codes))


def test_gradients_go_straight_through_and_none_to_the_codebook():
    made, z = begun(), torch.randn(5, D, 4, requires_grad=True)
    upstream = torch.randn(5, D, 4)
    out = made(z)
    (out.z * upstream).sum().backward(retain_graph=True)
    assert torch.equal(z.grad, upstream)
    assert list(made.parameters()) == []
    z.grad = None
    out.loss(beta=0.5).backward()
    torch.testing.assert_close(z.grad, 0.5 * 2 * (z - out.z).detach() / z.numel())


def test_evaluation_changes_nothing():
    made = begun().eval()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made(torch.randn(50, D) + 3)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_the_first_batch_sets_the_codebook_to_its_clusters():
    centres = torch.tensor([[5.0, 0, 0], [0, 5, 0], [0, 0, 5], [-5, 0, 0], [0, -5, 0], [0, 0, -5]])
    z = centres.repeat(30, 1) + 0.1 * torch.randn(180, D)
    made = EmaQuantiser(K, D, decay=0.999)
    out = made(z)
    assert (out.commitment < 0.02).all()
    found = torch.cdist(centres, made.codebook)
    assert (found.min(1).values < 0.1).all()
    assert perplexity(out.codes, K).item() == pytest.approx(K, rel=1e-3)


def test_kmeans_ends_where_every_centre_is_the_mean_of_its_own():
    z = torch.randn(300, D)
    centres, counts = kmeans(z, K, rounds=200)
    nearest = torch.cdist(z, centres).argmin(1)
    assert torch.equal(torch.bincount(nearest, minlength=K).float(), counts)
    for k in range(K):
        torch.testing.assert_close(centres[k], z[nearest == k].mean(0), rtol=1e-4, atol=1e-5)


def test_a_dead_code_takes_half_of_the_most_used_one():
    made = begun(decay=0.5, revive=0.2)
    far = made.sums.new_full((D,), 50.0)
    with torch.no_grad():
        share = torch.tensor([0.4, 0.2, 0.19, 0.1, 0.1, 0.01])  # the last is below 0.2 / 6
        places = made.codebook.clone()
        places[5] = far
        made.counts.copy_(share)
        made.sums.copy_(places * made._smoothed(share)[:, None])
        made._split()
    torch.testing.assert_close(made.counts, torch.tensor([0.2, 0.2, 0.19, 0.1, 0.1, 0.2]))
    torch.testing.assert_close(made.codebook[[0, 5]].mean(0), places[0], rtol=1e-4, atol=1e-6)
    assert not torch.equal(made.codebook[0], made.codebook[5])
    torch.testing.assert_close(made.codebook[1:5], places[1:5], rtol=1e-4, atol=1e-6)


def test_codes_that_died_come_back_to_use():
    made = begun(decay=0.9, revive=0.1)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(100, 400, D, generator=generator) * torch.tensor([1.0, 0.1, 0.1]) + torch.tensor([4.0, 0, 0])
    first = perplexity(made(z[0]).codes, K)
    for some in z[1:]:
        out = made(some)
    assert first < 0.5 * K < perplexity(out.codes, K)


def test_the_averages_of_a_batch_are_the_mean_of_those_of_its_parts():
    """What makes several workers keep one codebook; the splitting too must not depend on the part."""
    made = begun(decay=0.7, revive=0.9)
    z = torch.randn(64, D)
    old = {name: value.clone() for name, value in made.state_dict().items()}
    made(z)
    whole = {name: value.clone() for name, value in made.state_dict().items()}
    mean = {name: torch.zeros_like(value) for name, value in old.items()}
    for part in z.chunk(4):
        made.load_state_dict(old)
        made(part)
        mean = {name: mean[name] + value / 4 for name, value in made.state_dict().items()}
    assert not torch.allclose(whole["counts"], old["counts"], atol=1e-3)
    for name, value in whole.items():
        torch.testing.assert_close(mean[name].to(value.dtype), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", [{"decay": 1.0}, {"revive": 1.0}, {"smoothing": -1.0}])
def test_settings_without_sense_are_refused(change):
    with pytest.raises(ValueError, match="'decay' and 'revive' must lie in"):
        EmaQuantiser(K, D, **change)


def test_sizes_and_widths_without_sense_are_refused():
    with pytest.raises(ValueError, match="'codes' and 'dim' must be at least 1"):
        EmaQuantiser(0, D)
    with pytest.raises(ValueError, match=r"'z' must be \(B, 3, \.\.\.\)"):
        begun()(torch.randn(5, 4))
    with pytest.raises(ValueError, match="'latents' is empty"):
        kmeans(torch.empty(0, D), K)
