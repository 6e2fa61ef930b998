"""Models of codes: probabilities that sum to one, samples that have them, and a source whose entropy is reached."""

import itertools
import math

import pytest
import torch
from scipy.stats import chisquare

from gensys.core import Batch, HasLikelihood
from gensys.families.tokens import Choice, Tokens
from gensys.nn.gpt import GPT, Decoding
from gensys.noise import Noise, Stream
from gensys.systems.vq_prior import vq_prior

K = 3
GRIDS = {"row": ([(4,)], (4,)), "residual": ([(2,), (2,)], (2, 2)), "hierarchy": ([(1, 1), (1, 3)], (4,))}


def wild(kind="hierarchy", classes=2, choice=Choice(), std=0.5, **given):  # noqa: B008
    """A model far from uniform, in float64."""
    torch.manual_seed(0)
    grids, shape = GRIDS[kind]
    model = vq_prior(grids, K, shape, classes=classes, width=8, depth=1, heads=2, choice=choice, **given).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(std * torch.randn_like(p))
    return model.eval().requires_grad_(False)


def every(model):
    """All data that there are, (K^n, *shape)."""
    return torch.tensor(list(itertools.product(range(K), repeat=math.prod(model.shape)))).view(-1, *model.shape)


def labels(label, count):
    return {"label": torch.full((count,), label)}


def number(x):
    """Which of `every` each row is."""
    return (x.flatten(1) * K ** torch.arange(x[0].numel() - 1, -1, -1)).sum(1)


@pytest.mark.parametrize("kind", GRIDS)
def test_the_probabilities_of_all_codes_sum_to_one(kind):
    model = wild(kind)
    x = every(model)
    for label in (0, 1, -1):
        log_prob = model.log_prob(x, labels(label, len(x)))
        assert log_prob.shape == (len(x),)
        assert abs(float(log_prob.exp().sum()) - 1.0) < 1e-12
        assert log_prob.exp().max() > 3 / len(x)  # not the uniform law, for which all would be well
    assert isinstance(model, HasLikelihood)


@pytest.mark.parametrize("kind", GRIDS)
def test_samples_have_the_probabilities_of_the_model(kind):
    """A chi-square test at 20,000 samples; wrong probabilities fail it."""
    model, n = wild(kind), 20_000
    x = every(model)
    for label in (0, -1):
        drawn = model.sample(labels(label, n), Noise(5, torch.arange(n)))
        assert drawn.shape == (n, *model.shape)
        counts = torch.bincount(number(drawn), minlength=len(x)).double()
        expected = n * model.log_prob(x, labels(label, len(x))).detach().exp()
        rare = expected < 5.0  # the test's approximation needs more: they are one case together
        pool = lambda values, rare=rare: torch.cat([values[~rare], values[rare].sum()[None]]).numpy()  # noqa: E731
        assert chisquare(pool(counts), pool(expected)).pvalue > 1e-3
        other = n * model.log_prob(x, labels(1, len(x))).detach().exp()
        assert chisquare(pool(counts), pool(other * pool(expected).sum() / pool(other).sum())).pvalue < 1e-6


def test_a_row_is_its_own_whatever_the_block():
    model = wild(choice=Choice(guidance=2.0, top_k=2, temperature=0.8))
    ids = torch.arange(40)
    cond = {"label": ids % 2}
    whole = model.sample(cond, Noise(1, ids))
    for rows in (ids[7:9], ids.flip(0), ids[::3]):
        assert torch.equal(model.sample({"label": rows % 2}, Noise(1, rows)), whole[rows])
    assert not torch.equal(model.sample(cond, Noise(2, ids)), whole)


def test_guidance_and_seed_row_by_row():
    model = wild()
    ids = torch.arange(60)
    cond = {"label": ids % 2}
    scales, seeds = torch.tensor([1.0, 4.0]).double()[ids % 2], ids % 3
    mixed = model.sample({**cond, "guidance": scales, "seed": seeds}, Noise(9, ids))
    assert {"label", "guidance", "seed"} == model.conditions
    for scale, seed in itertools.product((1.0, 4.0), range(3)):
        mine = (scales == scale) & (seeds == seed)
        model.choice = Choice(guidance=scale)
        assert torch.equal(model.sample(cond, Noise(seed, ids))[mine], mixed[mine])


def test_guidance_is_that_of_the_logits():
    """Of one code: p proportional to p(c | label)^w p(c)^(1 - w)."""
    torch.manual_seed(0)
    net = GPT(K, (1,), width=8, depth=1, heads=1, classes=2).double()
    for p in net.parameters():
        p.data.add_(0.5 * torch.randn_like(p))
    model, n, w = Tokens([net], (1,), choice=Choice(guidance=3.0)).eval().requires_grad_(False), 20_000, 3.0
    x = torch.arange(K)[:, None]
    given, free = (model.log_prob(x, labels(label, K)).detach() for label in (1, -1))
    wanted = (w * given + (1 - w) * free).softmax(0)
    counts = torch.bincount(model.sample(labels(1, n), Noise(0, torch.arange(n)))[:, 0], minlength=K)
    assert chisquare(counts.numpy(), n * wanted.numpy()).pvalue > 1e-3


def test_choices_of_codes():
    p = torch.tensor([[0.1, 0.4, 0.05, 0.25, 0.2]], dtype=torch.float64)
    logits = p.log() + 3.0

    def chosen(**knobs):
        return Choice(**knobs).probabilities(logits)[0].tolist()

    assert chosen() == pytest.approx(p[0].tolist())
    assert chosen(temperature=0.5) == pytest.approx((p[0] ** 2 / (p[0] ** 2).sum()).tolist())
    assert chosen(temperature=0.0) == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert chosen(top_k=2) == pytest.approx([0.0, 0.4 / 0.65, 0.0, 0.25 / 0.65, 0.0])
    assert chosen(top_k=9) == pytest.approx(p[0].tolist())
    assert chosen(top_p=0.6) == pytest.approx([0.0, 0.4 / 0.65, 0.0, 0.25 / 0.65, 0.0])
    assert chosen(top_p=0.3) == pytest.approx([0.0, 1.0, 0.0, 0.0, 0.0])
    assert chosen(top_p=1e-9) == pytest.approx([0.0, 1.0, 0.0, 0.0, 0.0])
    # after top_k the two have 0.62 and 0.38: the first alone has more than 0.6
    assert chosen(top_k=2, top_p=0.6) == pytest.approx([0.0, 1.0, 0.0, 0.0, 0.0])
    equal = Choice(top_k=2).probabilities(torch.zeros(1, 4))[0]
    assert equal.tolist() == [0.5, 0.5, 0.0, 0.0]  # of equals, the first


def test_a_code_of_no_probability_is_never_drawn():
    logits = torch.tensor([-math.inf, 0.0, -math.inf, 0.0, -math.inf]).expand(4, -1)
    u = torch.tensor([2.0**-24, 0.5 - 2.0**-24, 0.5 + 2.0**-24, 1.0 - 2.0**-24])  # the ends of what uniforms reach
    assert Choice().draw(logits, u).tolist() == [1, 1, 3, 3]


def test_training_reaches_the_entropy_of_a_markov_source_and_does_not_pass_it():
    """Codes of a chain whose entropy is known: the loss comes to it from above, and samples have its transitions."""
    transition = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.2, 0.7], [0.45, 0.1, 0.45]], dtype=torch.float64)
    length, batch = 6, 256
    first = torch.full((K,), 1 / K, dtype=torch.float64)
    law, entropy = first, math.log(K)
    for _ in range(length - 1):
        entropy += float((law * torch.special.entr(transition).sum(1)).sum())
        law = law @ transition

    def source(ids):
        u = Noise(3, ids).uniform((length,), Stream.EPS).double()
        codes = [(u[:, 0] * K).long()]
        for t in range(1, length):
            codes.append((transition[codes[-1]].cumsum(1) < u[:, t : t + 1]).sum(1))
        return Batch(torch.stack(codes, 1), {}, ids)

    torch.manual_seed(0)
    model = Tokens([GPT(K, (length,), width=24, depth=1, heads=2)], (length,))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(250):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * (1 - step / 250)
        ids = torch.arange(step * batch, (step + 1) * batch)
        loss = model.loss(source(ids), Noise(0, ids), "model")
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    fresh = source(torch.arange(1 << 30, (1 << 30) + 20_000))
    with torch.no_grad():
        nats = -model.log_prob(fresh.x, {})
    error = float(nats.std()) / len(nats) ** 0.5
    assert -4 * error < float(nats.mean()) - entropy < 4 * error + 0.01
    torch.testing.assert_close(loss.terms["bits"], loss.terms["loss"] / math.log(2))
    drawn = model.eval().sample({}, Noise(1, torch.arange(20_000)))
    pairs = torch.bincount((drawn[:, :-1] * K + drawn[:, 1:]).flatten(), minlength=K * K).view(K, K).double()
    torch.testing.assert_close(pairs / pairs.sum(1, keepdim=True), transition, rtol=0, atol=0.02)


def test_evaluations_are_the_steps_of_decoding(monkeypatch):
    model, calls = wild(), []
    monkeypatch.setattr(
        "gensys.nn.gpt.Decoding.next", lambda self, code, inner=Decoding.next: calls.append(0) or inner(self, code)
    )
    for scale in (1.0, 2.0):
        model.choice = Choice(guidance=scale)
        calls.clear()
        model.sample(labels(1, 2), Noise(0, torch.arange(2)))
        assert len(calls) == model.evaluations


def test_labels_are_dropped_in_training_alone():
    model = wild(unconditional=0.5)
    x = every(model)
    batch = Batch(x, labels(1, len(x)), torch.arange(len(x)))
    seen = []
    model.log_prob = lambda x, cond: seen.append(cond["label"]) or torch.zeros(len(x))
    for mode in (True, False):
        model.train(mode).loss(batch, Noise(0, batch.ids), "model")
    assert 0.3 < float((seen[0] == -1).double().mean()) < 0.7
    assert (seen[1] == 1).all()


def test_what_is_no_datum_of_codes_is_refused():
    model = wild()
    with pytest.raises(ValueError, match=r"'x' must be codes, int64 \(B, \*\(4,\)\), got \(2, 5\)"):
        model.log_prob(torch.zeros(2, 5, dtype=torch.int64), {})
    with pytest.raises(ValueError, match=r"got .* of torch\.float32"):
        model.log_prob(torch.zeros(2, 4), {})
    with pytest.raises(ValueError, match=r"'nets' are of 1 \+ 3 codes, and 'shape' \(5,\) holds others"):
        vq_prior([(1, 1), (1, 3)], K, (5,), width=8, heads=2)
    for knobs in ({"temperature": -1.0}, {"temperature": math.inf}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(ValueError, match=f"'{next(iter(knobs))}'"):
            Choice(**knobs)
    with pytest.raises(ValueError, match="'guidance' must be finite"):
        Choice(guidance=math.nan)
