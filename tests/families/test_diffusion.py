"""Diffusion on a Gaussian in the plane, where the best loss, the best network and the samples are known."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from gensys import native, targets
from gensys.core import Batch
from gensys.denoiser import Denoiser
from gensys.engine.checkpoint import load_weights, newest
from gensys.engine.loop import Budget, Settings, train
from gensys.engine.optim import Optim
from gensys.families.diffusion import Diffusion, Sampler
from gensys.guidance import NO_LABEL, Guidance
from gensys.nn.mlp import MLP
from gensys.noise import Noise, Stream
from gensys.objectives.denoise import denoise
from gensys.paths import Cosine, Linear, expand
from gensys.solvers import ddim, dopri5, dpmpp_2m, euler, heun, predictor_corrector
from gensys.solvers.groups import Group, run_groups
from gensys.times import Uniform, uniform

needs_native = pytest.mark.skipif(native.extension is None, reason=f"no compiled kernels: {native.why_missing}")
MEAN = torch.tensor([1.0, -0.5])
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.64]])
UNIFORM = partial(denoise, law=Uniform())
NODES = [{}, {"clip": (-0.4, 0.6)}, {"threshold": 60.0}]


def gaussian(ids, step=0):
    return MEAN + Noise(77, ids, step).normal((2,), Stream.PRIOR) @ torch.linalg.cholesky(COVARIANCE).T


class Best(nn.Module):
    """E[eps - x | x_t] of the Gaussian: what a perfect network with the velocity target would say."""

    def forward(self, x_t, t, cond):
        t = t[:, None, None]
        eye = torch.eye(2)
        gain = (t * eye - (1 - t) * COVARIANCE) @ torch.linalg.inv((1 - t) ** 2 * COVARIANCE + t**2 * eye)
        centred = x_t[:, :, None] - (1 - t) * MEAN[:, None]
        return (gain @ centred)[:, :, 0] - MEAN


class Noted(nn.Module):
    """A network that notes how it was called and depends on x, t and label."""

    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.calls = MLP(2, width=16, classes=classes), []

    def forward(self, x, t, cond):
        self.calls.append((x.shape[0], cond.get("label")))
        return self.net(x, t, cond)


def model(net, **options):
    return Diffusion(Denoiser(net, Linear(), targets.velocity), (2,), **options)


def best_loss():
    """The integral over t of tr Cov(eps - x | x_t) / 2: half of s^2 / ((1 - t)^2 s^2 + t^2), over eigenvalues."""
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    values = torch.linalg.eigvalsh(COVARIANCE.double())
    return sum((s / ((1 - t) ** 2 * s + t**2)).mean().item() for s in values) / 2


def test_the_loss_of_the_best_network_is_the_known_one():
    ids = torch.arange(200_000)
    loss = model(Best(), objective=UNIFORM).loss(Batch(gaussian(ids), {}, ids), Noise(0, ids), "model")
    assert loss.total.item() == pytest.approx(best_loss(), rel=0.02)
    assert loss.terms["loss"].item() == loss.total.item()


def test_the_best_network_samples_the_gaussian():
    ids = torch.arange(20_000)
    x = model(Best(), sampler=Sampler(heun, tuple(uniform(30)))).sample({}, Noise(0, ids))
    torch.testing.assert_close(x.mean(0), MEAN, atol=0.03, rtol=0)
    torch.testing.assert_close(x.T.cov(), COVARIANCE, atol=0.03, rtol=0)


def test_a_short_training_reaches_the_best_loss_and_the_right_samples(tmp_path):
    torch.manual_seed(0)
    made = model(MLP(2, width=64, depth=3), objective=UNIFORM)

    def batch(step):
        ids = torch.arange(step * 256, step * 256 + 256)
        return Batch(gaussian(ids), {}, ids)

    settings = Settings(256, Budget(images=256 * 1500), Optim(lr=5e-3, decay=1.0), precision="fp32")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(made, batch, settings, tmp_path)
    torch.set_num_threads(threads)
    load_weights(made, newest(tmp_path / "checkpoints") / "average.safetensors")

    ids = torch.arange(10**6, 10**6 + 50_000)
    data = Batch(gaussian(ids), {}, ids)
    with torch.no_grad():
        reached = made.loss(data, Noise(1, ids), "model").total.item()
    excess = reached - model(Best(), objective=UNIFORM).loss(data, Noise(1, ids), "model").total.item()
    assert -0.001 < excess < 0.01 * best_loss()
    x = made.sample({}, Noise(2, torch.arange(20_000)))
    torch.testing.assert_close(x.mean(0), MEAN, atol=0.06, rtol=0)
    torch.testing.assert_close(x.T.cov(), COVARIANCE, atol=0.06, rtol=0)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_labels_are_dropped_at_the_given_rate(probability):
    net, ids = Noted(), torch.arange(20_000)
    label = ids % 3
    model(net, objective=partial(denoise, dropout=probability)).loss(
        Batch(gaussian(ids), {"label": label}, ids), Noise(0, ids), "model"
    )
    ((_, seen),) = net.calls
    dropped = seen == NO_LABEL
    assert torch.equal(seen[~dropped], label[~dropped])
    assert dropped.float().mean().item() == pytest.approx(probability, abs=4 * 0.5 / 20_000**0.5)
    if 0 < probability < 1:  # every class alike, and other rows in the next step
        assert all(dropped[label == k].float().mean().item() == pytest.approx(probability, abs=0.03) for k in range(3))
        model(net, objective=partial(denoise, dropout=probability)).loss(
            Batch(gaussian(ids), {"label": label}, ids), Noise(0, ids, 1), "model"
        )
        assert not torch.equal(net.calls[1][1], seen)


def test_the_loss_of_a_row_does_not_depend_on_its_neighbours():
    ids = torch.arange(16)
    made = model(Noted(), objective=partial(denoise, dropout=0.3))

    def each(chosen):
        batches = [Batch(gaussian(i), {"label": i % 3}, i) for i in chosen]
        return torch.stack([made.loss(b, Noise(0, b.ids, 5), "model").total for b in batches])

    together = each([ids])[0]
    torch.testing.assert_close(each([ids[k : k + 1] for k in range(16)]).mean(), together)


@pytest.mark.parametrize("nodes", NODES, ids=list)
@pytest.mark.parametrize("guidance", [Guidance(), Guidance(2.5, (0.1, 0.8)), Guidance(2.5, (0.1, 0.8), 0.7)])
@pytest.mark.parametrize("solver", [heun, euler, dpmpp_2m, ddim, lambda *a: ddim(*a, eta=1.0)])
def test_a_sample_does_not_depend_on_its_batch(solver, guidance, nodes):
    made = model(Noted(), sampler=Sampler(solver, tuple(uniform(6)), guidance, **nodes))

    def draw(ids):
        return made.sample({"label": ids % 3}, Noise(4, ids))

    ids = torch.arange(8)
    alone = draw(ids)
    other = draw(torch.tensor([100, 3, 7, 1, 50, 0, 2, 6, 4, 5, 999]))
    torch.testing.assert_close(other[torch.tensor([5, 3, 6, 1, 8, 9, 7, 2])], alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(draw(ids[3:4])[0], alone[3], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(alone[0], alone[3])


@pytest.mark.parametrize("nodes", NODES, ids=list)
@pytest.mark.parametrize("guidance", [Guidance(), Guidance(2.5, (0.1, 0.8)), Guidance(2.5, (0.1, 0.8), 0.7)])
@pytest.mark.parametrize("solver", [heun, euler, dpmpp_2m, ddim, lambda *a: ddim(*a, eta=0.7)])
def test_the_trajectory_ends_where_the_samples_are(solver, guidance, nodes):
    """On the last interval all these solvers go to the predicted data: sigma is 0 there."""
    made = model(Noted(), sampler=Sampler(solver, tuple(uniform(7)), guidance, **nodes))
    ids = torch.arange(5)
    cond, noise = {"label": ids % 3}, Noise(4, ids)
    seen = list(made.trajectory(cond, noise))
    torch.testing.assert_close(seen[-1][2].x, made.sample(cond, noise), rtol=1e-5, atol=1e-5)
    assert torch.equal(seen[0][1], made.initial(noise))
    assert seen[0][0] == 1.0
    assert [call.t for call in made.table.calls] == pytest.approx([t for t, _, _ in seen])
    if clip := nodes.get("clip"):
        assert all(clip[0] <= x.min() and x.max() <= clip[1] for x in (p.x for _, _, p in seen))
        assert any((p.x == clip[0]).any() or (p.x == clip[1]).any() for _, _, p in seen)


@pytest.mark.parametrize("clip", [(1.0, 1.0), (2.0, -2.0), (0.0, float("nan"))])
def test_bounds_that_hold_nothing_are_refused(clip):
    with pytest.raises(ValueError, match=r"'clip' must be \(low, high\) with low < high, got"):
        Sampler(clip=clip)


@needs_native
@pytest.mark.parametrize("guidance", [Guidance(), Guidance(2.5)])
def test_a_step_of_sampling_allocates_nothing_beside_the_network(guidance, allocations):
    """Of the size of the state, that is: the times of a call, one number a row, are new."""

    class Ready(nn.Module):
        def forward(self, x, t, cond):
            return answers.pop()

    def allocated(steps):
        made = Diffusion(
            Denoiser(Ready(), Linear(), targets.velocity),
            (64,),
            sampler=Sampler(partial(ddim, eta=0.5), tuple(uniform(steps)), guidance, (-1.0, 1.0)),
        )
        rows = 5 if guidance.scale == 1 else 10
        answers[:] = [torch.randn(rows, 64) for _ in range(steps)]
        with allocations(5 * 64) as seen:
            made.sample({"label": torch.arange(5)}, Noise(0, torch.arange(5)))
        return seen.count

    answers = []
    assert 0 < allocated(3) == allocated(12)


@pytest.mark.parametrize(
    ("guidance", "doubled"),
    [(Guidance(1.0), []), (Guidance(2.0), [1.0, 0.75, 0.5, 0.25]), (Guidance(2.0, (0.4, 0.8)), [0.75, 0.5])],
)
def test_the_reference_is_evaluated_only_where_it_guides(guidance, doubled):
    net = Noted()
    made = model(net, sampler=Sampler(euler, tuple(uniform(4)), guidance))
    ids = torch.arange(6)
    made.sample({"label": ids % 3}, Noise(0, ids))
    assert [rows for rows, _ in net.calls] == [12 if t in doubled else 6 for t in (1.0, 0.75, 0.5, 0.25)]
    for rows, label in net.calls:
        assert torch.equal(label[:6], ids % 3)
        assert rows == 6 or (label[6:] == NO_LABEL).all()


def test_guidance_zero_is_the_unconditional_model():
    ids = torch.arange(6)
    unconditional = model(Noted(), sampler=Sampler(euler, tuple(uniform(4)))).sample({}, Noise(0, ids))
    guided = model(Noted(), sampler=Sampler(euler, tuple(uniform(4)), Guidance(0.0)))
    torch.testing.assert_close(guided.sample({"label": ids % 3}, Noise(0, ids)), unconditional, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("path", "target"), [(Linear(), targets.noise), (Cosine(), targets.noise), (Linear(), targets.score)]
)
def test_a_target_that_is_singular_where_the_solver_calls_is_refused(path, target):
    with pytest.raises(ValueError, match=r"'target' \w+ cannot be inverted on .* at t = 1.*Use targets.velocity"):
        Diffusion(Denoiser(Noted(), path, target), (2,))


def test_a_grid_that_avoids_the_singular_end_is_taken():
    fractions = (0.99, 0.5, 0.0)
    Diffusion(Denoiser(Noted(), Linear(), targets.noise), (2,), sampler=Sampler(euler, fractions))


def test_the_initial_state_has_the_spread_of_the_noisy_end():
    ids = torch.arange(20_000)
    made = Diffusion(Denoiser(Noted(), Cosine(), targets.v), (2,), sampler=Sampler(euler, (0.5, 0.0)))
    assert made.initial(Noise(0, ids)).std().item() == pytest.approx(0.5**0.5, rel=0.02)


def test_the_network_is_trained_on_the_path():
    """What reaches the network is alpha x + sigma eps at its own t, and the regression target is eps - x."""
    net, ids = Noted(), torch.arange(9)
    seen = []
    net.forward = lambda x, t, cond: seen.append((x, t)) or torch.zeros_like(x)
    x = gaussian(ids)
    loss = model(net).loss(Batch(x, {}, ids), Noise(0, ids, 3), "model")
    ((x_t, t),) = seen
    eps = Noise(0, ids, 3).normal((2,), Stream.EPS)
    torch.testing.assert_close(x_t, (1 - expand(t, x)) * x + expand(t, x) * eps)
    torch.testing.assert_close(loss.total, (eps - x).square().mean())


@pytest.mark.parametrize("nodes", NODES, ids=list)
@pytest.mark.parametrize("solver", [heun, dpmpp_2m, partial(ddim, eta=1.0)])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_native)])
def test_a_row_with_its_own_guidance_and_seed_is_drawn_as_if_all_had_them(compiled, solver, nodes, request):
    """Bit for bit: rows that are not guided among rows that are, scale 0, and seeds of their own."""
    if not compiled:
        request.getfixturevalue("no_extension")
    ids, scales, seeds = torch.arange(100, 116), [0.0, 1.0, 2.5, -1.0], [4, 2**40, 7]
    label = ids % 3
    guidance = torch.tensor([scales[k % 4] for k in range(16)], dtype=torch.float64)
    seed = torch.tensor([seeds[k % 3] for k in range(16)])

    def drawn(scale, cond, noise):
        sampler = Sampler(solver, tuple(uniform(6)), Guidance(scale, (0.1, 0.8), 0.3 * bool(nodes)), **nodes)
        return model(Noted(), sampler=sampler).sample({"label": label, **cond}, noise)

    each = drawn(3.0, {"guidance": guidance, "seed": seed}, Noise(99, ids))
    for k in range(16):
        alone = drawn(float(guidance[k]), {}, Noise(int(seed[k]), ids))
        assert torch.equal(each[k], alone[k])
    assert torch.equal(drawn(2.5, {"seed": seed}, Noise(0, ids))[2], each[2])
    assert torch.equal(drawn(2.5, {"guidance": guidance}, Noise(4, ids))[3], each[3])


def test_rows_with_their_own_guidance_cost_a_call_for_each_kind():
    """Only within the interval are there rows that need no reference beside rows that do."""
    net, ids = Noted(), torch.arange(4)
    made = model(net, sampler=Sampler(euler, tuple(uniform(4)), Guidance(2.0, (0.4, 0.8))))
    made.sample({"label": ids % 3, "guidance": torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)}, Noise(0, ids))
    assert [rows for rows, _ in net.calls] == [4, 4, 8, 4, 8, 4]
    assert set(net.calls[2][1].tolist()) == {NO_LABEL, 0, 1, 2}


def test_groups_that_do_not_fit_are_refused():
    ids, x = torch.arange(3), torch.zeros(3, 2)
    made, other = (model(Noted(), sampler=Sampler(euler, tuple(uniform(n)))) for n in (3, 4))
    one, rest = torch.tensor([0]), torch.tensor([1, 2])
    some, others = Group(one, made.program, Noise(0, ids[one])), Group(rest, made.program, Noise(0, ids[rest]))
    for groups in ([some], [some, some, others]):
        with pytest.raises(ValueError, match="'groups' must hold each of the 3 rows of 'x' once"):
            run_groups(groups, made.network({}), x)
    with pytest.raises(ValueError, match="call the network at the same times"):
        run_groups([some, replace(others, program=other.program)], made.network({}), x)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_solvers_without_a_table_run_eagerly(scale):
    """Adaptive steps, guided, agree with many small ones; a row is its own."""
    ids = torch.arange(6)
    cond = {"label": torch.tensor([0, 1, 2, 0, NO_LABEL, 1])}
    guidance = Guidance(scale, (0.0, 0.9))
    net = MLP(2, width=16, classes=3)
    solver = partial(dopri5, rtol=1e-6, atol=1e-6)
    adaptive = model(net, sampler=Sampler(solver, (1.0, 1e-3, 0.0), guidance))
    assert adaptive.table is None
    got = adaptive.sample(cond, Noise(0, ids))
    fine = model(net, sampler=Sampler(heun, tuple(uniform(300)), guidance)).sample(cond, Noise(0, ids))
    torch.testing.assert_close(got, fine, rtol=0, atol=5e-3)
    alone = adaptive.sample({"label": cond["label"][2:3]}, Noise(0, ids[2:3]))
    # a matrix product's last bits depend on the size of the batch, and with them whether a step is accepted
    torch.testing.assert_close(alone, got[2:3], rtol=0, atol=1e-3)
    assert all(t.shape == (6, 1) for t, _, _ in adaptive.trajectory(cond, Noise(0, ids))[:-1])

    corrected = model(net, sampler=Sampler(predictor_corrector, (0.95, 0.5, 0.0), guidance))
    assert corrected.sample(cond, Noise(0, ids)).isfinite().all()
    with pytest.raises(ValueError, match="'guidance' and 'seed' row by row need a solver that has a table"):
        corrected.sample({**cond, "seed": ids}, Noise(0, ids))
