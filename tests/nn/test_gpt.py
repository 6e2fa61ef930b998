"""The transformer over codes: what each logit may depend on, and that decoding step by step is the same function."""

import pytest
import torch

from gensys.engine.recompute import recompute_blocks
from gensys.nn.gpt import GPT

B, K = 3, 7
CASES = {
    "grid": {"grid": (3, 4)},
    "row": {"grid": (5,)},
    "one code": {"grid": (1, 1)},
    "longer than plain products": {"grid": (12, 11)},
    "conditional": {"grid": (3, 4), "classes": 4, "vector": 2},
    "given coarser grids": {"grid": (4, 4), "coarser": [(1, 2), (2, 2)], "classes": 4},
}


def awake(case, dtype=torch.float64, **given):
    """The network with weights large enough for every input to be seen, and inputs for it."""
    torch.manual_seed(0)
    net = GPT(K, **{"width": 16, "depth": 2, "heads": 2} | CASES[case] | given).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    codes = torch.randint(K, (B, net.tokens))
    cond = {"label": torch.tensor([0, 3, -1]), "vector": torch.randn(B, 2, dtype=dtype)}
    cond = {name: value for name, value in cond.items() if name in net.conditions}
    coarser = [torch.randint(K, (B, a * b)) for a, b in CASES[case].get("coarser", [])]
    return net.eval(), codes, cond, coarser


@pytest.mark.parametrize("case", CASES)
def test_a_logit_depends_on_all_codes_before_and_on_none_from_its_own_on(case):
    net, codes, cond, coarser = awake(case)
    before = net(codes, cond, coarser)
    for k in range(0, net.tokens, max(1, net.tokens // 6)):
        changed = codes.clone()
        changed[:, k] = (changed[:, k] + 1) % K
        after = net(changed, cond, coarser)
        torch.testing.assert_close(after[:, : k + 1], before[:, : k + 1], rtol=0, atol=1e-12)
        assert ((after - before)[:, k + 1 :].abs().amax(2) > 1e-9).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_decoding_gives_the_logits_of_the_full_pass(case, dtype):
    net, codes, cond, coarser = awake(case, dtype)
    cond = {name: value.to(dtype) if value.is_floating_point() else value for name, value in cond.items()}
    with torch.no_grad():
        whole = net(codes, cond, coarser)
        decoding = net.decoding(cond, coarser, B)
        steps = [decoding.next(codes[:, t - 1] if t else None) for t in range(net.tokens)]
    error = (torch.stack(steps, 1) - whole).abs().max()
    assert error < (1e-5 if dtype == torch.float32 else 1e-12)


def test_decoding_in_bfloat16_is_near_the_full_pass():
    net, codes, cond, coarser = awake("given coarser grids", torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        whole = net(codes, cond, coarser)
        decoding = net.decoding(cond, coarser, B)
        steps = [decoding.next(codes[:, t - 1] if t else None) for t in range(net.tokens)]
    assert whole.dtype == torch.float32  # probabilities are of full precision
    exact = net(codes, cond, coarser)
    for found in (torch.stack(steps, 1), whole):
        assert (found - exact).abs().max() < 0.05 * exact.abs().max()


def test_every_condition_is_seen_and_none_has_a_row_of_its_own():
    net, codes, cond, coarser = awake("conditional")
    before = net(codes, cond, coarser)
    assert net.conditions == {"label", "vector"}
    for name, other in (("label", torch.tensor([1, 1, 1])), ("vector", cond["vector"] + 1.0)):
        assert ((net(codes, {**cond, name: other}, coarser) - before).abs().amax((1, 2)) > 1e-6).all()
    absent = {"label": torch.full((B,), -1), "vector": torch.full((B, 2), torch.nan, dtype=torch.float64)}
    torch.testing.assert_close(net(codes, {}, coarser), net(codes, absent, coarser))


def test_every_place_sees_every_coarser_code():
    """Also those that lie above later places: the coarser grids are there as a whole."""
    net, codes, cond, coarser = awake("given coarser grids")
    before = net(codes, cond, coarser)
    for level, above in enumerate(coarser):
        for k in range(above.shape[1]):
            changed = [c.clone() for c in coarser]
            changed[level][:, k] = (changed[level][:, k] + 1) % K
            assert ((net(codes, cond, changed) - before).abs().amax(2) > 1e-9).all()


def test_coarser_codes_lie_above_the_places_that_they_cover():
    places = GPT(K, (4, 6), width=4, heads=1, depth=1, coarser=[(2, 2), (4, 3)]).coarser.places.view(2, 4, 6)
    assert places[0].tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2
    assert places[1].tolist() == [[3 * row + column // 2 for column in range(6)] for row in range(4)]


def test_dropout_is_of_training_alone_and_activations_can_be_recomputed():
    net, codes, cond, coarser = awake("given coarser grids", dropout=0.5)
    assert torch.equal(net(codes, cond, coarser), net(codes, cond, coarser))
    net.train()
    gradients = []
    for again in (False, True):
        if again:
            recompute_blocks(net)
        torch.manual_seed(1)
        net.zero_grad()
        net(codes, cond, coarser).square().sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert all(g.abs().sum() > 0 for g in gradients[0])


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"'width' must be a multiple of 'heads' \(3\), got 16"):
        GPT(K, (4,), width=16, heads=3)
    with pytest.raises(ValueError, match=r"'coarser' must be grids of 2 axes as 'grid' \(4, 4\), got \(4,\)"):
        GPT(K, (4, 4), coarser=[(4,)])
    with pytest.raises(ValueError, match=r"at least 1, got 7, 128, 4, 4 and \(0, 4\)"):
        GPT(K, (0, 4))
    with pytest.raises(ValueError, match="at least 1, got 7, 128, 4, 0 and"):
        GPT(K, (4,), heads=0)
