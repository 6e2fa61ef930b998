"""Inversion, image to image and inpainting, on Gaussians whose flow and conditional laws are known."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from solvers.gaussian import MEAN, exact, flow, target_of
from torch import nn

from gensys import targets
from gensys.core import Posterior
from gensys.denoiser import Denoiser
from gensys.editing import from_partial, inpaint, invert
from gensys.families.autoencoder import Autoencoder
from gensys.families.diffusion import Diffusion, Sampler
from gensys.families.latent import Latent
from gensys.families.standardised import Standardised
from gensys.guidance import Guidance
from gensys.nn.mlp import MLP
from gensys.noise import Noise, Stream
from gensys.paths import EDM, VP, Cosine, Linear, expand
from gensys.solvers import (
    ancestral,
    churn,
    ddim,
    dopri5,
    dpmpp_2m,
    euler_maruyama,
    heun,
    multistep_consistency,
    predictor_corrector,
    unipc,
)
from gensys.times import karras, on, uniform

IDS = torch.arange(6)
STOCHASTIC = partial(ddim, eta=1.0)
X = MEAN + 0.4 * Noise(9, IDS).normal((3,), Stream.PRIOR).double()


class Exact(nn.Module):
    """The best network for N(MEAN, STD^2)."""

    def __init__(self, path, target):
        super().__init__()
        self.path, self.target = path, target

    def forward(self, x, t, cond):
        a, b = self.target(self.path(t := expand(t, x)))
        p = exact(self.path, x, t)
        return a * p.x + b * p.eps


def perfect(path, n, solver=ddim, target=None, start=1.0, **sampling):
    target = target or target_of(path)
    fractions = tuple(karras(path, n)) if isinstance(path, EDM) else tuple(start * f for f in uniform(n))
    return Diffusion(Denoiser(Exact(path, target), path, target), (3,), sampler=Sampler(solver, fractions, **sampling))


def noted(**options):
    torch.manual_seed(0)
    return Diffusion(Denoiser(MLP(3, width=16, classes=3), Linear(), targets.velocity), (3,), **options)


@pytest.mark.parametrize(
    ("path", "target", "start"),
    [
        (Linear(), None, 1.0),
        (VP(), targets.noise, 0.98),
        (Cosine(), targets.data, 1.0),  # which has no inverse at the data end
        (EDM(), None, 1.0),
    ],
    ids=["linear", "vp noise", "cosine data", "edm"],
)
def test_inversion_is_the_flow_upwards_and_sampling_leads_back(path, target, start):
    """Both errors are of first order: Euler's, in either direction."""
    ahead, back = [], []
    for n in (40, 80, 160):
        model = perfect(path, n, target=target, start=start)
        noise = invert(model, X, {})
        wanted = flow(path, X, 0.0, path.span[0] + (path.span[1] - path.span[0]) * start)
        ahead.append(float((noise - wanted).abs().max() / wanted.abs().max()))
        back.append(float((model.solve(noise, {}, Noise(0, IDS)) - X).abs().max()))
    for errors in (ahead, back):
        assert errors[-1] < 0.1
        assert math.log2(errors[-2] / errors[-1]) == pytest.approx(1.0, abs=0.25), errors


def test_inversion_follows_the_condition_and_no_guidance():
    model = noted(sampler=Sampler(ddim, tuple(uniform(200)), Guidance(1.0)))
    guided = noted(sampler=Sampler(ddim, tuple(uniform(200)), Guidance(3.0), clip=(-0.1, 0.1)))
    cond, x = {"label": IDS % 3}, X.float()
    noise = invert(model, x, cond)
    assert torch.equal(invert(guided, x, cond), noise)
    assert not torch.allclose(invert(model, x, {"label": (IDS + 1) % 3}), noise, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.solve(noise, cond, Noise(0, IDS)), x, rtol=0, atol=0.05)


@pytest.mark.parametrize("solver", [ddim, heun, dpmpp_2m, unipc])
@pytest.mark.parametrize("strength", [0.25, 0.6, 1.0])
def test_a_partial_walk_ends_where_the_flow_does(solver, strength):
    """From alpha x + sigma eps, row by row, as eps is that of the same seed."""
    noise = Noise(3, IDS)
    got = from_partial(perfect(Cosine(), 80, solver), X, {}, noise, strength)
    c = Cosine()(strength)
    state = c.alpha * X + c.sigma * noise.normal((3,), Stream.INITIAL).double()
    torch.testing.assert_close(got, flow(Cosine(), state, strength, 0.0), rtol=0, atol=0.02)


def test_the_whole_strength_is_sampling_and_a_little_changes_little():
    model = noted(sampler=Sampler(partial(ddim, eta=0.5), tuple(uniform(10)), Guidance(2.0), threshold=90.0))
    cond, noise = {"label": IDS % 3}, Noise(3, IDS)
    assert torch.equal(from_partial(model, X.float(), cond, noise, 1.0), model.sample(cond, noise))
    near = from_partial(perfect(Linear(), 10), X, {}, noise, 0.01)
    assert (near - X).abs().max() < 0.05
    weak = noted().denoiser
    twice = noted(sampler=replace(model.sampler, open_reference=lambda: weak))
    assert torch.equal(from_partial(twice, X.float(), cond, noise, 1.0), twice.sample(cond, noise))


COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)


class Correlated(nn.Module):
    """E[eps - x | x_t] of N(0, COVARIANCE) on the linear path."""

    def forward(self, x, t, cond):
        t, eye = float(t[0]), torch.eye(2, dtype=x.dtype)
        c = COVARIANCE.to(x.dtype)
        return x @ ((t * eye - (1 - t) * c) @ torch.linalg.inv((1 - t) ** 2 * c + t**2 * eye)).T


def drawn(resamplings, solver=STOCHASTIC, value=1.5, n=30, rows=1000):
    model = Diffusion(
        Denoiser(Correlated(), Linear(), targets.velocity), (2,), sampler=Sampler(solver, tuple(uniform(n)))
    )
    ids = torch.arange(rows)
    known, mask = torch.full((rows, 2), value), torch.tensor([True, False])
    x = inpaint(model, known, mask, {}, Noise(0, ids), resamplings=resamplings)
    assert torch.equal(x[:, 0], known[:, 0]), "what is known stays, to the bit"
    return float(x[:, 1].mean()), float(x[:, 1].var())


def test_resampling_approaches_the_conditional_law():
    """x_2 given x_1 = 1.5 is N(0.8 x 1.5, 1 - 0.8^2): the mean with more turns, the variance with finer steps."""
    once, often, finer = (
        (abs(mean - 1.2), abs(variance - 0.36)) for mean, variance in (drawn(1, n=24), drawn(8, n=24), drawn(8, n=72))
    )
    assert once[0] > 0.35
    assert max(often[0], finer[0]) < 0.15
    assert finer[1] < 0.7 * often[1]
    assert finer[1] < 0.08


@pytest.mark.parametrize("solver", [ancestral, heun, dpmpp_2m])
def test_any_solver_fills_in(solver):
    """Nothing known, or all of it, is sampling, or the data."""
    mean, variance = drawn(4, solver, n=12, rows=500)
    assert abs(mean - 1.2) < 0.5
    assert 0.1 < variance < 1.0
    model = perfect(Linear(), 12, solver)
    noise = Noise(0, IDS)
    everything, nothing = torch.ones(3, dtype=torch.bool), torch.zeros(6, 3, dtype=torch.bool)
    assert torch.equal(inpaint(model, X, everything, {}, noise), X)
    if solver is heun:
        wanted = perfect(Linear(), 12, heun).solve(model.initial(noise).double(), {}, noise)
        torch.testing.assert_close(inpaint(model, X, nothing, {}, noise), wanted)


@pytest.mark.parametrize("solver", [ancestral, euler_maruyama, predictor_corrector, multistep_consistency])
def test_fresh_noise_is_added_in_every_step_but_the_last(solver):
    """Inpainting walks step by step: where nothing is known, it must come to where the solver's own walk does."""
    model = perfect(Cosine(), 12, solver, start=0.95)
    seen = [
        [float(x.abs().median()) for _, x, _ in walk(model)]  # predictor_corrector has wide tails
        for walk in (
            lambda m: m.trajectory({}, Noise(0, torch.arange(400))),
            lambda m: stepwise(m, torch.arange(400)),
        )
    ]
    torch.testing.assert_close(*map(torch.tensor, seen), rtol=0.15, atol=0.0)


def test_the_noise_that_churn_adds_is_that_of_its_whole_grid_also_on_known_elements():
    """Karras et al.: gamma = amount / steps, so r grows to (1 + gamma) r; known elements are at that level with all."""
    n, amount, rows = 24, 4.0, 4000
    model = perfect(EDM(), n, partial(churn, amount=amount, low=0.0, high=math.inf, inflation=1.0))
    times, ids, seen = on(EDM(), list(model.sampler.fractions)), torch.arange(rows), []
    inner = model.predict

    def noting(cond):
        predict = inner(cond)
        return lambda x, t: (seen.append((t, x)), predict(x, t))[1]

    model.predict = noting
    known = torch.full((rows, 3), 1.5)
    inpaint(model, known, torch.tensor([True, False, True]), {}, Noise(0, ids))
    calls = {t: x for t, x in seen if t not in times}  # the raised levels, where each step's first call is
    assert sorted(calls) == pytest.approx(sorted([80.0, *((1 + amount / n) * t for t in times[1:-1])])[:-1])
    for t, x in calls.items():
        assert float((x[:, 0] - 1.5).std()) == pytest.approx(t, rel=0.05)
    seen.clear()
    from_partial(noted_part(model, seen), X, {}, Noise(0, IDS), float(model.sampler.fractions[12]))
    raised = [t for t in dict.fromkeys(seen) if t not in times]
    assert raised == pytest.approx([(1 + amount / n) * t for t in times[12:-1]])


def noted_part(model, seen):
    """The model, whose network notes its times."""
    inner = model.denoiser.net

    class Noting(nn.Module):
        def forward(self, x, t, cond):
            seen.append(float(t[0]))
            return inner(x, t, cond)

    denoiser = Denoiser(Noting(), model.denoiser.path, model.denoiser.target)
    return Diffusion(denoiser, model.shape, sampler=model.sampler)


def stepwise(model, ids):
    """The trajectory of `inpaint` where nothing is known."""
    seen, predict = [], model.predict

    def noting(cond):
        inner = predict(cond)

        def call(x, t):
            seen.append((t, x, inner(x, t)))
            return seen[-1][2]

        return call

    model.predict = noting
    inpaint(model, torch.zeros(len(ids), 3), torch.zeros(3, dtype=torch.bool), {}, Noise(0, ids))
    return seen


@pytest.mark.parametrize(
    "edit",
    [
        lambda m, x, c, n: invert(m, x, c),
        lambda m, x, c, n: from_partial(m, x, c, n, 0.5),
        lambda m, x, c, n: inpaint(m, x, torch.tensor([True, False, True]), c, n, resamplings=2),
    ],
    ids=["invert", "from_partial", "inpaint"],
)
def test_a_row_is_edited_by_itself(edit):
    model = noted(sampler=Sampler(partial(ddim, eta=1.0), tuple(uniform(6)), Guidance(2.0, rescale=0.5)))
    together = edit(model, X.float(), {"label": IDS % 3}, Noise(4, IDS))
    for row in (0, 4):
        ids = IDS[row : row + 1]
        torch.testing.assert_close(edit(model, X[ids].float(), {"label": ids % 3}, Noise(4, ids))[0], together[row])
    other = edit(model, X.float(), {"label": IDS % 3}, Noise(5, IDS))
    assert torch.equal(other, together) == (edit.__code__.co_names[0] == "invert")


class Pairs(nn.Module):
    """Images (B, 1, 4, 4) <-> latents (B, 1, 2, 2), the means of squares."""

    def encode(self, x):
        z = torch.nn.functional.avg_pool2d(x, 2)
        return Posterior(z, torch.zeros_like(z))

    def decode(self, z):
        return torch.nn.functional.interpolate(z, scale_factor=2.0)


def latent(n=20, **options):
    path = Linear()
    sampler = Sampler(ddim, tuple(uniform(n)))
    prior = Diffusion(
        Denoiser(Exact(path, targets.velocity), path, targets.velocity), (1, 2, 2), sampler=sampler, **options
    )
    return Latent(prior, Pairs, lambda z: z * 2.0 + 1.0, lambda z: (z - 1.0) / 2.0)


def test_vectors_are_edited_in_the_coordinates_of_their_prior():
    """x = mean + std z: an element that is known stays, and the others are those that the prior would have drawn."""
    path, noise = Linear(), Noise(0, IDS)
    prior = Diffusion(
        Denoiser(Exact(path, targets.velocity), path, targets.velocity), (3,), sampler=Sampler(ddim, tuple(uniform(20)))
    )
    model = Standardised(prior, [10.0, 0.0, -5.0], [100.0, 1.0, 0.01])
    z, mask = 0.7 + 0.4 * noise.normal((3,), Stream.PRIOR), torch.tensor([True, False, False])
    x = model.decode(z)
    filled = inpaint(model, x, mask, {}, noise)
    assert torch.equal(filled[:, 0], x[:, 0])
    torch.testing.assert_close(model.embed(filled), inpaint(prior, z, mask, {}, noise), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(invert(model, x, {}), invert(prior, z, {}), rtol=1e-3, atol=1e-3)


def test_a_category_that_is_known_stays_known():
    """The two numbers that stand for it are both known to the prior; the number beside it is drawn."""
    path, noise = Linear(), Noise(0, IDS)
    prior = Diffusion(
        Denoiser(Exact(path, targets.velocity), path, targets.velocity), (3,), sampler=Sampler(ddim, tuple(uniform(20)))
    )
    model = Standardised(prior, [0.5, 0.5, 3.0], [0.5, 0.5, 2.0], (2, 0))
    x = torch.stack([(IDS % 2).float(), noise.normal((), Stream.PRIOR)], 1)
    filled = inpaint(model, x, torch.tensor([True, False]), {}, noise)
    assert torch.equal(filled[:, 0], x[:, 0])
    drawn = inpaint(prior, model.embed(x), torch.tensor([True, True, False]), {}, noise)
    torch.testing.assert_close(filled[:, 1], 3.0 + 2.0 * drawn[:, 2])


def test_latents_are_edited_between_encoding_and_decoding():
    model, noise = latent(), Noise(0, IDS)
    z = 0.7 + 0.4 * noise.normal((1, 2, 2), Stream.PRIOR)
    images = model.decode(z)
    torch.testing.assert_close(model.embed(images), z)
    torch.testing.assert_close(invert(model, images, {}), invert(model.prior, z, {}))
    got = from_partial(model, images, {}, noise, 0.5)
    torch.testing.assert_close(got, model.decode(from_partial(model.prior, z, {}, noise, 0.5)))
    mask = torch.ones(1, 4, 4, dtype=torch.bool)
    mask[0, 3, 3] = False  # a quarter of one latent's pixels: that latent is drawn, three pixels are put back
    filled = inpaint(model, images, mask, {}, noise)
    assert torch.equal(filled[mask.expand_as(images)], images[mask.expand_as(images)])
    drawn = inpaint(model.prior, z, torch.tensor([[[True, True], [True, False]]]), {}, noise)
    torch.testing.assert_close(filled[:, 0, 3, 3], model.decode(drawn)[:, 0, 3, 3])


class Flat(nn.Module):
    """Vectors <-> latents of as many numbers, none of which is one of the vector's."""

    def encode(self, x):
        return Posterior(x.flip(1), torch.zeros_like(x))

    def decode(self, z):
        return z.flip(1)


def test_a_mask_says_nothing_of_latents_without_places():
    path = Linear()
    prior = Diffusion(Denoiser(Exact(path, targets.velocity), path, targets.velocity), (3,))
    model = Latent(prior, Flat, lambda z: z, lambda z: z)
    with pytest.raises(ValueError, match=r"'model' has latents of shape \(3,\), each of which stands for all"):
        inpaint(model, X.float(), torch.tensor([True, False, False]), {}, Noise(0, IDS))


def test_what_cannot_be_edited_is_refused():
    model, noise, x = noted(), Noise(0, IDS), X.float()
    some = torch.tensor([True, False, True])
    for strength in (0.0, -0.1, 1.01, math.nan):
        with pytest.raises(ValueError, match=r"'strength' must lie in \(0, 1\], got .*1 starts from noise"):
            from_partial(model, x, {}, noise, strength)
    jumping = Diffusion(
        Denoiser(MLP(3, width=16), EDM(), targets.Landing(targets.velocity, EDM()(0.002))), (3,),
        sampler=Sampler(multistep_consistency, (1.0, 0.3, 0.0)),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"'model' is a consistency model, which .*has no probability flow"):
        invert(jumping, X.float(), {})
    with pytest.raises(ValueError, match="'model' samples with dopri5, which chooses its own steps"):
        inpaint(noted(sampler=Sampler(dopri5)), X.float(), torch.ones(6, 3, dtype=torch.bool), {}, Noise(0, IDS))
    other = Diffusion(Denoiser(MLP(3, width=16), Linear(), targets.velocity, base=Noise.normal), (3,))
    with pytest.raises(ValueError, match="'model' has a base of its own, and known elements are put in with Gaussian"):
        inpaint(other, x, some, {}, noise)
    with pytest.raises(ValueError, match="'resamplings' must be at least 1, got 0"):
        inpaint(model, x, some, {}, noise, resamplings=0)
    with pytest.raises(ValueError, match=r"'mask' must be bool, true where .*got torch.float32: try mask > 0.5"):
        inpaint(model, x, some.float(), {}, noise)
    for edit in (lambda y: invert(model, y, {}), lambda y: from_partial(model, y, {}, noise, 0.5)):
        with pytest.raises(ValueError, match=r"'x' must be \(B, 3\), got \(6, 2\)"):
            edit(x[:, :2])
    with pytest.raises(ValueError, match="'cond' holds seed row by row, which editing does not know"):
        inpaint(model, x, some, {"seed": IDS}, noise)
    with pytest.raises(ValueError, match="'model' must be a Diffusion, or one behind a codec, got Autoencoder"):
        invert(Autoencoder.__new__(Autoencoder), x, {})
    closed = Latent(latent().prior, Pairs, lambda z: z)
    with pytest.raises(ValueError, match="'normalise' was not given to this model"):
        invert(closed, torch.zeros(6, 1, 4, 4), {})
