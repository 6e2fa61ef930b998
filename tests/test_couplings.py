"""Couplings: the optimum, both marginals, labels, order, parts; and what they do to a loss."""

import itertools
import sys
from functools import partial

import numpy as np
import pytest
import torch

from gensys import targets
from gensys.core import Batch
from gensys.couplings import OptimalTransport, independent
from gensys.denoiser import Denoiser
from gensys.errors import ConfigError
from gensys.noise import Noise, Stream
from gensys.objectives.denoise import denoise
from gensys.paths import Linear
from gensys.recipes.ot_cfm import ot_cfm

OT = OptimalTransport()


def rows(n, shape=(2,), seed=0):
    noise = Noise(seed, torch.arange(n))
    return 2.0 + noise.normal(shape, Stream.PRIOR), noise.normal(shape, Stream.EPS)


def cost(x, eps):
    return (x - eps).double().square().sum().item()


def partner(eps, coupled):
    """Which row of eps each coupled one is: a permutation, or the marginal of the noise has changed."""
    found = [(eps == row).flatten(1).all(1).nonzero().item() for row in coupled]
    assert sorted(found) == list(range(len(eps)))
    return found


@pytest.mark.parametrize("shape", [(2,), (1, 3, 2)], ids=str)
@pytest.mark.parametrize("n", [1, 2, 6])
def test_it_is_the_best_of_all_pairings(n, shape):
    for seed in range(4):
        x, eps = rows(n, shape, seed)
        coupled = OT(x, eps, {})
        partner(eps, coupled)
        best = min(cost(x, eps[list(order)]) for order in itertools.permutations(range(n)))
        assert cost(x, coupled) == pytest.approx(best, rel=1e-12)


def test_on_a_line_it_pairs_in_order():
    """In one dimension the optimum of any convex cost is the monotone rearrangement."""
    x, eps = rows(200, (1,))
    coupled = OT(x, eps, {})
    assert torch.equal(coupled[x[:, 0].argsort()], eps.sort(0).values)
    assert cost(x, coupled) < 0.9 * cost(x, independent(x, eps, {}))
    assert independent(x, eps, {}) is eps


def test_who_gets_which_noise_does_not_depend_on_the_order():
    x, eps = rows(64)
    coupled, order = OT(x, eps, {}), torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(OT(x[order], eps, {}), coupled[order])
    assert torch.equal(OT(x, eps[order], {}), coupled)
    assert torch.equal(OT(x, eps, {}), coupled)


def test_labels_keep_their_noise():
    x, eps = rows(61)
    label = torch.arange(61) % 4 - 1  # "no label" is a label like any other
    coupled = OT(x, eps, {"label": label})
    for k in range(-1, 3):
        mine = label == k
        assert torch.equal(coupled[mine], OT(x[mine], eps[mine], {}))
    assert [label[k].item() for k in partner(eps, coupled)] == label.tolist()
    anyone = OptimalTransport(by_label=False)(x, eps, {"label": label})
    assert torch.equal(anyone, OT(x, eps, {}))
    assert cost(x, anyone) < cost(x, coupled) < cost(x, eps)


def test_plain_pairing_tells_the_noise_the_label_and_pairing_by_label_does_not():
    """Two classes to the left and right: their noise must have mean 0 in each, or sampling starts elsewhere."""
    _, eps = rows(4_000)
    label = torch.arange(4_000) % 2
    x = eps.flip(0) + torch.stack([6.0 * label - 3.0, torch.zeros(4_000)], 1)
    far, near = (torch.cat([f(a, b, {"label": c}) for a, b, c in zip(x.split(200), eps.split(200), label.split(200),
                 strict=True)]) for f in (OptimalTransport(by_label=False), OT))  # fmt: skip
    assert (far[label == 1, 0].mean() - far[label == 0, 0].mean()).item() > 1.0  # 2 E|N(0, 1)| = 1.6 in the limit
    assert (near[label == 1, 0].mean() - near[label == 0, 0].mean()).abs().item() < 4 * 2 / 4_000**0.5


def test_a_vector_that_would_be_told_to_the_noise_is_refused(tmp_path):
    vector, eps = rows(64)
    told = OptimalTransport(by_label=False)(vector, eps, {"vector": vector})
    assert float(torch.corrcoef(torch.stack([vector[:, 0], told[:, 0]]))[0, 1]) > 0.8, "the noise knows the condition"
    with pytest.raises(ValueError, match="'cond' must have no condition but a label, got vector"):
        OT(vector, eps, {"vector": vector})
    np.savez(tmp_path / "moves.npz", x=vector.numpy(), vector=vector.numpy())
    with pytest.raises(ConfigError, match=r"has a vector to go by.*train flow_matching"):
        ot_cfm(str(tmp_path / "moves.npz"))


def test_rows_that_are_equal_are_paired_all_the_same():
    x, eps = torch.ones(8, 2), rows(8)[1]
    partner(eps, OT(x, eps, {}))
    same = torch.zeros(8, 2)
    assert torch.equal(OT(x, same, {}), same)
    assert OT(x[:0], eps[:0], {}).shape == (0, 2)


def test_distant_data_do_not_drown_the_pairing():
    """Differences of 1 beside values of 10^7; float32 products would not see them. Shifting data changes no pair."""
    _, eps = rows(40)
    x = torch.arange(40.0)[:, None] * torch.tensor([[1.0, 0.0]])
    assert torch.equal(OT(x + 1e7, eps, {}), OT(x, eps, {}))


def test_the_loss_sees_the_pairs_and_parts_pair_their_own_rows():
    seen = []

    class Net(torch.nn.Module):
        def forward(self, x, t, cond):
            seen.append((x, t))
            return torch.zeros_like(x)

    x, _ = rows(32)
    denoiser = Denoiser(Net(), Linear(), targets.velocity)
    objective = partial(denoise, coupling=OT)

    def loss(ids):
        noise = Noise(3, ids, 7)
        return objective(denoiser, Batch(x[ids], {}, ids), noise).total, noise.normal((2,), Stream.EPS)

    ids = torch.arange(32)
    whole, eps = loss(ids)
    torch.testing.assert_close(whole, (OT(x, eps, {}) - x).square().mean())
    assert whole < (eps - x).square().mean()
    halves = [loss(part) for part in ids.split(16)]
    for part, (total, own) in zip(ids.split(16), halves, strict=True):
        assert torch.equal(own, eps[part])
        torch.testing.assert_close(total, (OT(x[part], own, {}) - x[part]).square().mean())


def test_without_scipy_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ConfigError, match=r"need scipy: pip install 'gensys\[couplings\]'"):
        OT(*rows(3), {})
