"""Consistency against a Gaussian, whose trajectories and their ends are known, and against the papers' numbers."""

import math
from functools import partial

import pytest
import torch
from solvers.gaussian import MEAN, PATHS, STD, exact, flow
from torch import nn

from gensys import targets
from gensys.core import Batch
from gensys.denoiser import Denoiser
from gensys.families.diffusion import Sampler
from gensys.nn.dit import DiT
from gensys.nn.mlp import MLP
from gensys.nn.unet import UNet
from gensys.noise import Noise, Stream
from gensys.objectives.consistency import (
    Curriculum,
    LevelLaw,
    angles,
    consistency,
    ddim_step,
    distillation,
    end_of,
    even,
    heun_step,
    karras_levels,
    pseudo_huber,
)
from gensys.paths import EDM, VP, Cosine, Discrete, Linear, at_ratio, expand, scaled_linear_schedule
from gensys.solvers import multistep_consistency
from gensys.systems.consistency import LOW, consistency_model, distilled
from gensys.systems.lcm import lcm
from gensys.targets import Consistency, Landing, recover
from gensys.times import jumps, on, uniform

SMOOTH = [Linear(), Cosine(), VP(), EDM()]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def boundaries(path):
    start = path(at_ratio(path, LOW))
    inner = [targets.velocity, targets.v, targets.data, targets.noise, targets.EDM()]
    return [Consistency(start, 0.5), *(Landing(target, start) for target in inner)]


def normals(n, *shape, stream=Stream.EPS):
    return Noise(3, torch.arange(n)).normal(shape, stream).double()


class Exact(nn.Module):
    """The network whose f is the end of the flow of N(MEAN, STD^2), for a target with a boundary."""

    def __init__(self, path, target):
        super().__init__()
        self.path, self.target = path, target

    def forward(self, x_t, t, cond):
        t = expand(t, x_t)
        start = at_ratio(self.path, LOW)
        skip, out = self.target.weights(self.path(t))
        end = flow(self.path, x_t, t, torch.full_like(t, start)) / self.path(start).alpha
        return torch.where(t > start * (1 + 1e-9), (end - skip * x_t) / out, 0.0)


class Teacher(nn.Module):
    """The network whose prediction is the posterior mean of N(mean of the label, STD^2), as a velocity."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def forward(self, x_t, t, cond):
        t = expand(t, x_t)
        p, c = exact(self.path, x_t, t), self.path(t)
        return c.d_alpha * p.x + c.d_sigma * p.eps


class Small(nn.Module):
    """A network of x_t and t alone, in double precision."""

    def __init__(self, dim):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(dim + 1, 8), nn.Tanh(), nn.Linear(8, dim)).double()

    def forward(self, x_t, t, cond):
        return self.layers(torch.cat([x_t, t[:, None]], 1))


def teacher(path):
    return Denoiser(Teacher(path), path, targets.velocity)


def gaussian(n, *shape):
    x = MEAN + STD * normals(n, *shape, stream=Stream.PRIOR)
    return Batch(x, {}, torch.arange(n))


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_at_the_start_f_is_what_it_is_given(path):
    start = torch.full((5,), at_ratio(path, LOW), dtype=torch.float64)
    x = normals(5, 3)

    class Wild(nn.Module):
        def forward(self, x_t, t, cond):
            return 100.0 * torch.cos(9.0 * x_t)

    for target in boundaries(path):
        got = end_of(Denoiser(Wild(), path, target), x, start, {})
        # the last bits of the start times 100; a boundary that is missed by the level 0.002 is 0.2 off
        torch.testing.assert_close(got, x / path(start[0]).alpha, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", SMOOTH, ids=str)
def test_what_a_solver_recovers_is_f(path):
    """One algebra: c_skip x_t + c_out output is the inverse of the 2 x 2 system of the target."""
    low, high = path.span
    t = torch.linspace(0.05, 0.95, 9, dtype=torch.float64) * (high - low) + low
    x, output = normals(9, 2), normals(9, 2, stream=Stream.PROBE)
    c = path(expand(t, x))
    for target in boundaries(path):
        skip, out = target.weights(c)
        p = recover(c, target, x, output)
        torch.testing.assert_close(p.x, skip * x + out * output, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(c.alpha * p.x + c.sigma * p.eps, x, rtol=1e-11, atol=1e-11)


def test_the_published_boundary():
    for t in (0.002, 0.01, 1.0, 80.0):
        skip, out = Consistency(EDM()(0.002), 0.5).weights(EDM()(t))
        assert skip == pytest.approx(0.25 / ((t - 0.002) ** 2 + 0.25), rel=1e-13)
        assert out == pytest.approx(0.5 * (t - 0.002) / math.sqrt(0.25 + t * t), rel=1e-13)


@pytest.mark.parametrize("path", SMOOTH, ids=str)
def test_a_student_begins_with_a_ddim_step_of_its_teacher(path):
    start, t = at_ratio(path, LOW), torch.full((6,), path.span[1] * 0.6, dtype=torch.float64)
    x, net = normals(6, 2), Small(2)
    f = end_of(Denoiser(net, path, Landing(targets.velocity, path(start))), x, t, {})
    p = recover(path(expand(t, x)), targets.velocity, x, net(x, t, {}))
    torch.testing.assert_close(f, p.x + p.eps * path(start).sigma / path(start).alpha, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("step", "order"), [(ddim_step, 1), (heun_step, 2)])
@pytest.mark.parametrize("path", SMOOTH, ids=str)
def test_the_true_ends_have_a_loss_of_the_solvers_order(path, step, order):
    """A step errs by h^(order + 1), and d is quadratic in it where it is small: h^(2 order + 2)."""
    target, batch = Landing(targets.velocity, path(at_ratio(path, LOW))), gaussian(2048, 1)
    student = Denoiser(Exact(path, target), path, target)

    def loss(n):
        ladder, noise = karras_levels(path, n + 1), Noise(0, batch.ids)
        return distillation(student, batch, noise, teacher=teacher(path), ladder=ladder, step=step).total.item()

    assert math.log2(loss(160) / loss(320)) == pytest.approx(2 * order + 2, abs=0.35)


@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=str)
def test_a_heun_step_from_pure_noise_is_of_second_order(path):
    """Where alpha is 0 the level sigma / alpha is infinite, and the rule must not be in it. A step errs by h^3."""
    x, one = normals(7, 2), torch.ones(7, dtype=torch.float64)

    def error(h):
        found = heun_step(lambda y, t: exact(path, y, expand(t, y)), path, x, one, one - h)
        return (found - flow(path, x, one[:, None], one[:, None] - h)).abs().max().item()

    assert math.log2(error(0.02) / error(0.01)) == pytest.approx(3.0, abs=0.15)


def test_training_has_the_gradient_of_distillation_in_expectation():
    """On pairs of one datum and noise, x_s given x_t is on average the DDIM step of the posterior mean."""
    path, low, high = Linear(), 1.0, 1.00002  # so near that d is quadratic: c is 0.0005 here
    target = Landing(targets.velocity, path(at_ratio(path, LOW)))
    net = Small(1)
    student, batch = Denoiser(net, path, target), gaussian(60_000, 1)
    noise = Noise(0, batch.ids)

    def gradient(total):
        return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(net.parameters()))])

    trained = consistency(student, batch, noise, curriculum=Curriculum(1, 1, 1), low=low, high=high).total
    ladder = karras_levels(path, 2, low, high)
    taught = distillation(student, batch, noise, teacher=teacher(path), ladder=ladder, step=ddim_step).total
    one, other = gradient(trained) * (high - low), gradient(taught)
    assert (one - other).norm() < 0.03 * other.norm()
    # not so pair by pair: the losses differ by the spread of x_s, which has no gradient
    assert trained.item() * (high - low) > 1.2 * taught.item()


def test_pseudo_huber():
    x = normals(7, 3, 32, 32)
    norm = x.flatten(1).norm(dim=1)
    torch.testing.assert_close(pseudo_huber(x, 0.5), (norm**2 + 0.25).sqrt() - 0.5, rtol=1e-13, atol=0)
    c = 0.00054 * math.sqrt(3072)
    assert c == pytest.approx(0.03, abs=1e-4)  # the paper's, for CIFAR-10
    torch.testing.assert_close(pseudo_huber(x), pseudo_huber(x, c))
    tiny = (1e-12 * x).requires_grad_()
    torch.testing.assert_close(pseudo_huber(tiny, 0.5), tiny.flatten(1).norm(dim=1) ** 2, rtol=1e-6, atol=0)
    zero = torch.zeros(2, 3, requires_grad=True)
    pseudo_huber(zero).sum().backward()
    assert (zero.grad == 0).all()


def test_the_curriculum_of_the_paper():
    """CIFAR-10: 400,000 steps, s0 = 10, s1 = 1280: a doubling every 50,000."""
    of = Curriculum(400_000)
    assert [of(k) for k in (0, 49_999, 50_000, 100_000, 349_999, 350_000, 400_000, 10**9)] == [
        *(10, 10, 20, 40, 640, 1280, 1280, 1280),
    ]
    assert [Curriculum(60, 10, 50)(k) for k in (0, 18, 36, 59)] == [10, 20, 40, 50]  # log2 5, rounded down only at last
    assert [Curriculum(1, 3, 3)(k) for k in (0, 5)] == [3, 3]
    with pytest.raises(ValueError, match="'doubling' must be at least 1 step, got 0"):
        Curriculum(0, 10, 20)
    for wrong in ((5, 20, 10), (5, 0, 1)):
        with pytest.raises(ValueError, match=r"'first' and 'last', .*must be 1 <= first <= last, got"):
            Curriculum(*wrong)


def test_the_law_of_levels():
    ladder = karras_levels(EDM(), 11)
    assert ladder.level[[0, -1]].tolist() == pytest.approx([0.002, 80.0])
    torch.testing.assert_close(ladder.t, ladder.level, rtol=1e-9, atol=0)
    z = torch.erf((ladder.level.log() + 1.1) / (2.0 * math.sqrt(2.0))).diff()
    drawn = LevelLaw()(ladder.level, Noise(0, torch.arange(40_000)).uniform((1,), Stream.TIME)[:, 0])
    frequency = torch.bincount(drawn, minlength=10).double() / 40_000
    torch.testing.assert_close(frequency, z / z.sum(), atol=0.01, rtol=0)
    ends = LevelLaw()(ladder.level, torch.tensor([2.0**-24, 1 - 2.0**-24]))
    assert ends.min() >= 0
    assert ends.max() < 10


def test_a_ladder_ends_with_its_path():
    """Latent diffusion ends at level 14.6: rungs above it would be one, and their intervals teach nothing."""
    path = Discrete(scaled_linear_schedule(1000))
    ladder, end = karras_levels(path, 18), path(1.0)
    assert bool((ladder.t.diff() > 0).all())
    assert float(ladder.level[-1]) == pytest.approx(end.sigma / end.alpha, rel=1e-12)
    assert float(karras_levels(EDM(), 18).level[-1]) == pytest.approx(80.0, rel=1e-12)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_a_ladder_of_angles_ends_with_its_path(path):
    ladder, end = angles(path, 100), path(path.span[1])
    assert bool((ladder.t.diff() > 0).all())
    assert float(ladder.t[-1]) == path.span[1]
    c = path(ladder.t)
    phi = torch.atan2(c.sigma, c.alpha)
    assert phi[0].item() == pytest.approx(math.atan(LOW), rel=1e-9)
    assert phi[-1].item() == pytest.approx(math.atan2(end.sigma, end.alpha), rel=1e-12)
    torch.testing.assert_close(phi.diff(), ((phi[-1] - phi[0]) / 99).expand(99), rtol=1e-6, atol=0)


def test_neighbours_have_the_weight_of_their_distance():
    """With f = x / alpha times a constant, d is known for each pair."""
    path, batch = EDM(), gaussian(64, 3)
    noise = Noise(0, batch.ids, 7)
    curriculum = Curriculum(4, 2, 8)
    rungs = karras_levels(path, 9)
    i = LevelLaw()(rungs.level, noise.uniform((1,), Stream.TIME)[:, 0])
    eps = noise.normal((3,), Stream.EPS).double()

    class Zero(nn.Module):
        def forward(self, x_t, t, cond):
            return torch.zeros_like(x_t)

    target = Consistency(path(LOW), 0.5)
    far, near = (
        target.weights(path(rungs.level[k][:, None]))[0] * (batch.x + rungs.level[k][:, None] * eps) for k in (i + 1, i)
    )
    want = (pseudo_huber(far - near) / (rungs.level[i + 1] - rungs.level[i])).mean()
    got = consistency(Denoiser(Zero(), path, target), batch, noise, curriculum=curriculum)
    torch.testing.assert_close(got.total, want, rtol=1e-6, atol=0)
    assert got.terms["intervals"] == 8


def test_dropout_is_the_same_in_both_calls():
    """Two points that are all but one have all but one end, unless other units are left out."""
    path, x = EDM(), normals(2, 1, 8, 8).float()
    net = UNet(1, width=8, multipliers=(1,), blocks=1, attention=(), dropout=0.5).train()
    nn.init.normal_(net.last.weight)
    for block in net.down:
        nn.init.normal_(block.conv_out.weight)
    student = Denoiser(net, path, Consistency(path(LOW), 0.5), sigma_data=0.5)

    def ends(seed):
        torch.manual_seed(seed)
        return end_of(student, x, torch.ones(2), {})

    assert not torch.allclose(ends(0), ends(1))
    batch = Batch(x, {}, torch.arange(2))
    loss = consistency(student, batch, Noise(0, batch.ids), curriculum=Curriculum(1, 1, 1), low=1.0, high=1.0 + 1e-6)
    assert loss.total.item() * 1e-6 < 1e-5
    at = torch.get_rng_state()
    consistency(student, batch, Noise(0, batch.ids), curriculum=Curriculum(1, 1, 1))
    assert not torch.equal(at, torch.get_rng_state())  # the next step leaves others out


class Noted(nn.Module):
    """Output 1 with a label, 0 without; notes its calls."""

    def __init__(self):
        super().__init__()
        self.calls, self.anchor = [], nn.Parameter(torch.zeros(()))

    def forward(self, x_t, t, cond):
        self.calls.append((x_t.shape[0], t, cond))
        known = (cond["label"] >= 0).to(x_t.dtype)
        return expand(known, x_t) + torch.zeros_like(x_t) * self.anchor


def test_the_teacher_is_guided_by_the_scale_that_the_student_is_told():
    path, ids = Linear(), torch.arange(512)
    teaching, learning = Noted(), Noted()
    given = Denoiser(teaching, path, targets.velocity)
    student = Denoiser(learning, path, Landing(targets.velocity, path(at_ratio(path, LOW))))
    batch = Batch(normals(512, 2), {"label": ids % 3}, ids)
    told = partial(distillation, student, batch, Noise(0, ids), teacher=given, step=ddim_step)
    told(ladder=even(path, 101), skip=20, scales=(2.0, 6.0))
    (near, far), (call,) = learning.calls, teaching.calls
    w, t, s = far[2]["w"], far[1], near[1]
    assert torch.equal(w, near[2]["w"])
    assert 2.0 <= w.min() < 2.1
    assert 5.9 < w.max() <= 6.0
    torch.testing.assert_close(t - s, torch.full_like(t, 20 * (1 - at_ratio(path, LOW)) / 100))
    assert s.min() == pytest.approx(at_ratio(path, LOW))
    assert t.max() == 1.0
    assert call[0] == 1024
    assert (call[2]["label"][512:] == -1).all()
    assert "w" not in call[2]
    assert abs(torch.corrcoef(torch.stack([w.double(), t]))[0, 1]) < 0.1  # the scale is drawn apart from the time

    learning.calls.clear()
    teaching.calls.clear()
    told(ladder=even(path, 101), scales=(1.0, 1.0))
    assert teaching.calls[0][0] == 512  # the conditional model needs no reference
    assert "w" not in learning.calls[0][2]


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_guided_steps_are_those_of_the_guided_field(scale):
    """The velocity is 1 with a label and 0 without: `scale` when guided, and the student is (scale - 1) h off."""
    path, ids, start = Linear(), torch.arange(64), at_ratio(Linear(), LOW)
    given = Denoiser(Noted(), path, targets.velocity)
    student = Denoiser(Noted(), path, Landing(targets.velocity, path(start)))
    batch, ladder = Batch(normals(64, 2), {"label": ids % 3}, ids), even(path, 3)
    got = distillation(
        student, batch, Noise(0, ids), teacher=given, ladder=ladder, step=ddim_step, scales=(scale, scale)
    )
    off = (scale - 1.0) * float(ladder.t[1] - ladder.t[0]) / (1.0 - start)  # f is x_start / alpha_start
    want = pseudo_huber(torch.full((1, 2), off, dtype=torch.float64))
    torch.testing.assert_close(got.total, want[0], rtol=1e-6, atol=1e-12)


def test_the_loss_of_a_row_does_not_depend_on_its_neighbours():
    path, net = Linear(), MLP(2, width=8, classes=3)
    net.condition.embed_guidance(2.0)
    nn.init.normal_(net.condition.guidance.linear.weight)
    given = Denoiser(MLP(2, width=8, classes=3), path, targets.velocity)
    made = lcm(given, (2,), rungs=50, skip=5, scales=(1.0, 4.0), w=2.0)
    scratch = consistency_model(MLP(2, width=8, classes=3), (2,), curriculum=Curriculum(10))
    x, ids = normals(8, 2).float(), torch.arange(8)

    def each(model, rows):
        return model.loss(Batch(x[rows], {"label": rows % 3}, rows), Noise(0, rows, 5), "model").total

    for model in (made, scratch):
        alone = torch.stack([each(model, ids[k : k + 1]) for k in range(8)]).mean()
        torch.testing.assert_close(each(model, ids), alone, rtol=1e-4, atol=1e-7)


def test_grids_of_jumps():
    assert jumps(EDM(), 1) == pytest.approx([1.0, 0.0])
    times = on(EDM(), jumps(EDM(), 2))
    assert times == pytest.approx([80.0, ((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7, 0.0], rel=1e-9)
    assert on(Linear(), jumps(Linear(), 4))[0] == pytest.approx(80 / 81)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("path", [Linear(), EDM(), VP()], ids=str)
def test_samples_of_the_exact_function_have_the_law_of_the_data(path, steps):
    target = Landing(targets.velocity, path(at_ratio(path, LOW)))
    made = distilled(teacher(path), (1,), sampler=Sampler(multistep_consistency, tuple(jumps(path, steps))))
    made.denoiser.net = Exact(path, target)
    x = made.sample({}, Noise(1, torch.arange(20_000)))
    assert x.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x.std().item() == pytest.approx(STD, rel=0.02)
    assert made.table is not None


NETS = [
    partial(MLP, 4, width=8, depth=2),
    partial(UNet, 4, width=8, multipliers=(1,), blocks=1, attention=()),
    partial(DiT, (4, 4, 4), width=8, depth=1, heads=1),
]


@pytest.mark.parametrize("build", NETS, ids=["mlp", "unet", "dit"])
def test_the_scale_of_guidance_is_embedded(build):
    torch.manual_seed(0)
    net = build(classes=2)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = torch.randn(3, 4) if isinstance(net, MLP) else torch.randn(3, 4, 4, 4)
    t, label = torch.rand(3), torch.tensor([0, 1, -1])
    before = net(x, t, {"label": label})
    net.condition.embed_guidance(2.0)
    assert torch.equal(net(x, t, {"label": label}), before)  # a student begins as its teacher
    nn.init.normal_(net.condition.guidance.linear.weight, std=0.3)
    usual, told = (net(x, t, cond) for cond in ({"label": label}, {"label": label, "w": torch.full((3,), 2.0)}))
    assert torch.equal(usual, told)
    other = net(x, t, {"label": label, "w": torch.tensor([2.0, 3.0, 2.0])})
    torch.testing.assert_close(other[[0, 2]], told[[0, 2]])
    assert not torch.allclose(other[1], told[1])
    with pytest.raises(ValueError, match=r"cond\['w'\] must be one scale for each row, \(3,\), got \(2,\)"):
        net(x, t, {"w": torch.zeros(2)})


def test_what_does_not_fit_is_refused():
    path, batch = Linear(), gaussian(4, 2)
    plain = Denoiser(MLP(2, width=8).double(), path, targets.velocity)
    with pytest.raises(ValueError, match="'denoiser' must have a target that keeps the boundary"):
        consistency(plain, batch, Noise(0, batch.ids), curriculum=Curriculum(1))
    with pytest.raises(ValueError, match=r"'skip' in \[1, rungs\), .* got 18 and 18"):
        distillation(
            plain, batch, Noise(0, batch.ids), teacher=plain, ladder=karras_levels(path, 18), skip=18
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"'rungs' must be at least 2, .* got 1 and 1"):
        distilled(plain, (2,), ladder=karras_levels(path, 1), skip=1)  # as it is built
    with pytest.raises(
        ValueError, match="'w' must be a scale that is distilled, from 'w_min' = 1 to 'w_max' = 3, got 4"
    ):
        lcm(plain, (2,), scales=(1.0, 3.0), w=4.0)
    with pytest.raises(ValueError, match="from 'w_min' to 'w_max', must be an interval"):
        lcm(plain, (2,), scales=(2.0, 2.0), w=2.0)
    silent = Denoiser(MLP(2, classes=3), path, targets.velocity, unlabelled=False)
    for refused in (lambda: lcm(silent, (2,)), lambda: distilled(silent, (2,), scales=(2.0, 2.0))):
        with pytest.raises(ValueError, match=r"'teacher' was never trained without its condition .'dropout' was 0."):
            refused()
    assert distilled(silent, (2,)).denoiser.unlabelled is False
    with pytest.raises(ValueError, match="'teacher' must be trained with Gaussian noise"):
        distilled(Denoiser(MLP(2), path, targets.velocity, base=Noise.normal), (2,))
    with pytest.raises(ValueError, match="'target' noise cannot be inverted"):
        lcm(Denoiser(MLP(2), path, targets.noise), (2,))


def test_a_student_has_no_weights_of_its_teacher_in_its_state():
    given = Denoiser(MLP(2, width=8).requires_grad_(False), Linear(), targets.velocity)
    made = lcm(given, (2,), sampler=Sampler(multistep_consistency, tuple(uniform(2))))
    names = {name for name, _ in made.named_parameters()}
    assert {n.removeprefix("denoiser.") for n in names} == {f"net.{n}" for n, _ in made.denoiser.net.named_parameters()}
    assert all(p.requires_grad for p in made.parameters())
    made.denoiser.net.last.weight.data.add_(1.0)
    assert not torch.equal(made.denoiser.net.last.weight, given.net.last.weight)
