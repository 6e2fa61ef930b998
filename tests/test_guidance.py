"""Guidance: published formulas of its nodes, autoguidance, and what does not fit together."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gensys import targets
from gensys.denoiser import Denoiser, gaussian
from gensys.errors import ConfigError
from gensys.families.diffusion import Diffusion, Sampler
from gensys.guidance import Clip, Guidance, Rescale, Threshold, correct, drop, without
from gensys.knobs import SOLVERS, Sampling
from gensys.nn.mlp import MLP
from gensys.noise import Noise, Stream
from gensys.paths import VP, Cosine, Discrete, Linear, linear_schedule
from gensys.solvers import ddim, dpmpp_2m, euler, heun, predictor_corrector
from gensys.systems.ddpm import ddpm
from gensys.systems.edm import edm
from gensys.systems.flow_matching import flow_matching
from gensys.systems.iddpm import iddpm
from gensys.systems.ot_cfm import ot_cfm
from gensys.systems.rectified_flow import rectified_flow
from gensys.systems.score_sde import score_sde
from gensys.times import karras, uniform

X = Noise(0, torch.arange(5)).normal((3, 4, 4), Stream.INITIAL).double()
Y = Noise(1, torch.arange(5)).normal((3, 4, 4), Stream.INITIAL).double()


def test_rescaling_is_that_of_the_paper():
    """Equations 14 to 16, with the deviations over all but the batch, not channel by channel."""
    guided = 3 * X + Y
    out = Rescale(0.7)(guided, X)
    for row in range(5):
        rescaled = guided[row] * (X[row].std() / guided[row].std())
        torch.testing.assert_close(out[row], 0.7 * rescaled + 0.3 * guided[row])
    torch.testing.assert_close(Rescale(1.0)(guided, X).flatten(1).std(1), X.flatten(1).std(1))
    assert torch.equal(Rescale(0.7)(guided, None), guided)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of diffusers' own code
def test_diffusers_does_the_same():
    diffusers = pytest.importorskip("diffusers")
    rescaled = pytest.importorskip("diffusers.guiders.guider_utils").rescale_noise_cfg
    torch.testing.assert_close(Rescale(0.7)(3 * X + Y, X), rescaled(3 * X + Y, X, guidance_rescale=0.7))
    scheduler = diffusers.DDIMScheduler(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=1e9)
    torch.testing.assert_close(Threshold(90.0)(3 * X, None), scheduler._threshold_sample(3 * X))


def test_a_constant_estimate_is_left_as_it_is():
    flat = torch.full_like(X, 2.0)
    assert torch.equal(Rescale(0.5)(flat, X), flat)


@pytest.mark.parametrize("percentile", [0.1, 50.0, 97.3, 99.5, 100.0])
def test_thresholding_is_that_of_the_paper(percentile):
    scales = torch.tensor([0.1, 1.0, 2.0, 5.0, 50.0], dtype=torch.float64).view(5, 1, 1, 1)
    out = Threshold(percentile)(scales * X, None)
    for row in range(5):
        s = max(1.0, float((scales * X)[row].abs().quantile(percentile / 100)))
        torch.testing.assert_close(out[row], (scales * X)[row].clamp(-s, s) / s)
    assert out.abs().max() <= 1.0
    assert torch.equal(out[0], 0.1 * X[0]), "what lies within the bounds is not stretched"


@pytest.mark.parametrize("node", [Clip(-0.5, 0.5), Rescale(0.7), Threshold(90.0)])
def test_a_row_is_a_function_of_itself_and_what_is_spoilt_stays_in_it(node):
    x, y = (2 * X).float(), Y.float()
    for row in range(5):
        assert torch.equal(node(x, y)[row], node(x[row : row + 1], y[row : row + 1])[0])
    spoilt = x.clone()
    spoilt[3, 0, 0, 0] = torch.nan
    out = node(spoilt, y)
    assert out[3].isnan().any()
    assert torch.equal(out[[0, 1, 2, 4]], node(x, y)[[0, 1, 2, 4]])


def test_vectors_of_one_number_are_thresholded_and_not_rescaled():
    one = torch.tensor([[3.0], [0.5]])
    assert torch.equal(correct([Rescale(1.0), Threshold(99.0)], one, 0 * one), torch.tensor([[1.0], [0.5]]))


def denoiser(seed, path=None, target=targets.velocity, **options):
    torch.manual_seed(seed)
    return Denoiser(MLP(2, width=16, classes=3, **options), path or Linear(), target)


def drawn(solver, guidance, reference, cond, noise, fractions=tuple(uniform(6)), **sampling):  # noqa: B008
    sampler = Sampler(solver, fractions, guidance, open_reference=reference, **sampling)
    made = Diffusion(denoiser(0), (2,), sampler=sampler)
    return made, made.sample(cond, noise)


@pytest.mark.parametrize("solver", [heun, euler, dpmpp_2m, partial(ddim, eta=1.0), predictor_corrector])
@pytest.mark.parametrize("sampling", [{}, {"threshold": 70.0}], ids=list)
def test_autoguidance_is_away_from_the_weaker_network(solver, sampling):
    """Against a network that computes the sum itself: the same condition in both, within the interval only."""
    ids = torch.arange(6)
    cond, noise, strong, weak = {"label": ids % 3}, Noise(3, ids), denoiser(0), denoiser(1)
    fractions = (0.98, 0.6, 0.3, 0.0) if solver is predictor_corrector else tuple(uniform(6))

    class Sum(nn.Module):
        def forward(self, x, t, cond):
            scale = torch.where((t >= 0.2) & (t <= 0.7), 2.5, 1.0)[:, None]
            return weak.net(x, t, cond) + scale * (strong.net(x, t, cond) - weak.net(x, t, cond))

    guidance = Guidance(2.5, (0.2, 0.7))
    made, got = drawn(solver, guidance, lambda: weak, cond, noise, fractions, **sampling)
    alone = Diffusion(Denoiser(Sum(), Linear(), targets.velocity), (2,), sampler=Sampler(solver, fractions, **sampling))
    torch.testing.assert_close(got, alone.sample(cond, noise), rtol=1e-4, atol=1e-5)
    if solver is not predictor_corrector:
        torch.testing.assert_close(made.sample({"label": ids[2:3] % 3}, Noise(3, ids[2:3])), got[2:3])
        by_row = made.sample({**cond, "guidance": torch.full((6,), 2.5, dtype=torch.float64)}, noise)
        assert torch.equal(by_row, got)


def test_the_reference_is_neither_trained_nor_saved_and_opened_once():
    opened = []

    def open_reference():
        opened.append(denoiser(1).train())
        return opened[-1]

    sampler = Sampler(guidance=Guidance(2.0), open_reference=open_reference)
    made = Diffusion(denoiser(0), (2,), sampler=sampler)
    assert made.state_dict().keys() == Diffusion(denoiser(0), (2,)).state_dict().keys()
    assert len(made.parameters_of("model")) == len(list(denoiser(0).parameters()))
    assert opened == []
    for _ in range(2):
        made.sample({"label": torch.arange(3)}, Noise(0, torch.arange(3)))
    assert len(opened) == 1
    assert not opened[0].training
    assert not any(p.requires_grad for p in opened[0].parameters())


@pytest.mark.parametrize("other", [{"path": Cosine()}, {"target": targets.v}])
def test_a_reference_of_another_path_or_target_is_refused(other):
    made = Diffusion(denoiser(0), (2,), sampler=Sampler(open_reference=lambda: denoiser(1, **other)))
    with pytest.raises(
        ValueError, match=r"'open_reference' .the knob 'weaker'. must give a denoiser of the path Linear.* got "
    ):
        made.sample({}, Noise(0, torch.arange(3)))


def test_autoguidance_sharpens_what_two_errors_have_in_common():
    """Karras et al., section 3: both networks see data that are too wide, the weaker ones wider, in closed form."""

    class Wide(nn.Module):
        """The best network for N(0, s^2) data."""

        def __init__(self, s):
            super().__init__()
            self.s2 = s * s

        def forward(self, x, t, cond):
            t = t[:, None]
            return x * (t - (1 - t) * self.s2) / ((1 - t) ** 2 * self.s2 + t**2)

    def spread(scale):
        strong, weak = (Denoiser(Wide(s), Linear(), targets.velocity) for s in (1.1, 1.3))
        sampler = Sampler(heun, tuple(uniform(20)), Guidance(scale), open_reference=lambda: weak)
        made = Diffusion(strong, (2,), sampler=sampler)
        return float(made.sample({}, Noise(0, torch.arange(4000))).std())

    assert spread(1.0) == pytest.approx(1.1, rel=0.02)
    assert abs(spread(1.5) - 1.0) < 0.05
    assert spread(0.0) == pytest.approx(1.3, rel=0.02)


def labelled(bounds):
    """Of a domain, what a sampler asks for."""
    return SimpleNamespace(conditional=True, bounds=bounds)


def test_knobs_reach_the_sampler():
    knobs = Sampling(guidance=3.0, rescale=0.7, threshold=99.5)
    sampler = knobs.sampler(Linear(), labelled((-1.0, 1.0)))
    assert sampler.nodes == (Rescale(0.7), Threshold(99.5))
    assert replace(knobs, threshold=0.0, clip=True).sampler(Linear(), labelled((-1.0, 1.0))).nodes == (
        Rescale(0.7),
        Clip(-1.0, 1.0),
    )
    assert Sampling().sampler(Linear(), labelled(None)).nodes == ()


@pytest.mark.parametrize(
    ("knobs", "bounds", "error", "message"),
    [
        ({"threshold": 99.5}, None, ConfigError, "'threshold' is 99.5, and it is for images"),
        ({"threshold": 99.5, "clip": True}, (-1.0, 1.0), ValueError, "'threshold' 99.5 clips .* give one of them"),
        ({"threshold": 101.0}, (-1.0, 1.0), ValueError, r"'threshold' must be a percentile in \(0, 100\], got 101"),
        ({"threshold": -1.0}, (-1.0, 1.0), ValueError, r"'threshold' must be a percentile in \(0, 100\], got -1"),
        ({"rescale": 1.5}, None, ValueError, r"'rescale' must lie in \[0, 1\], got 1.5"),
        ({"rescale": -0.1}, None, ValueError, r"'rescale' must lie in \[0, 1\], got -0.1"),
        ({"guide_from": 0.1, "guide_to": 0.4}, None, ValueError, "0 <= guide_to < guide_from <= 1, .* guide_from=0.1"),
        ({"guide_from": 1.1}, None, ValueError, "'guide_from' and 'guide_to' must be times .*got guide_from=1.1"),
    ],
)
def test_knobs_that_do_not_fit_are_refused(knobs, bounds, error, message):
    with pytest.raises(error, match=message):
        Sampling(**knobs).sampler(Linear(), labelled(bounds))


def test_vectors_and_labels_are_removed_together():
    ids = torch.arange(2000)
    cond = {"label": ids % 3, "vector": torch.ones(2000, 2), "text": torch.ones(2000, 1)}
    dropped = drop(cond, Noise(0, ids), 0.25)
    gone = dropped["label"] == -1
    assert torch.equal(gone, dropped["vector"].isnan().all(1))
    assert torch.equal(gone, dropped["vector"].isnan().any(1))
    assert gone.float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert torch.equal(dropped["text"], cond["text"])
    none = without(cond)
    assert (none["label"] == -1).all()
    assert none["vector"].isnan().all()


@pytest.mark.parametrize(
    ("classes", "vector", "taken"),
    [(0, 0, set()), (3, 0, {"label"}), (0, 2, {"vector"}), (3, 2, {"label", "vector"})],
)
def test_a_model_tells_what_it_is_conditioned_on(classes, vector, taken):
    net = MLP(2, width=8, classes=classes, vector=vector)
    made = Diffusion(Denoiser(net, Linear(), targets.velocity), (2,))
    assert made.conditions == {"guidance", "seed"} | taken


@pytest.mark.parametrize(
    "made",
    [
        lambda **k: edm(MLP(2, classes=3), (2,), **k),
        lambda **k: flow_matching(MLP(2, classes=3), (2,), **k),
        lambda **k: ot_cfm(MLP(2, classes=3), (2,), **k),
        lambda **k: rectified_flow(MLP(2, classes=3), (2,), **k),
        lambda **k: score_sde(MLP(2, classes=3), (2,), path=VP(), **k),
        lambda **k: ddpm(MLP(2, classes=3), (2,), path=Discrete(linear_schedule(1000)), **k),
        lambda **k: iddpm(MLP(2, classes=3, outputs=4), (2,), path=Discrete(linear_schedule(1000)), **k),
    ],
    ids=["edm", "flow_matching", "ot_cfm", "rectified_flow", "score_sde", "ddpm", "iddpm"],
)
def test_without_dropout_there_is_nothing_to_guide_away_from(made):
    """By the sampler, and row by row; another network may still be named."""
    guided = Sampler(ddim, tuple(karras(VP(), 4)), Guidance(2.0))
    assert "guidance" in made(dropout=0.1, sampler=guided).conditions
    with pytest.raises(ValueError, match=r"'dropout' was 0.*sample with guidance=1, .*'weaker', or train with dropout"):
        made(dropout=0.0, sampler=guided)
    plain = made(dropout=0.0, sampler=replace(guided, guidance=Guidance(1.0)))
    assert plain.conditions == {"label", "seed"}
    weaker = replace(guided, open_reference=lambda: plain.denoiser)
    assert "guidance" in made(dropout=0.0, sampler=weaker).conditions


def test_a_network_without_conditions_has_always_been_trained_without():
    made = flow_matching(MLP(2), (2,), sampler=Sampler(guidance=Guidance(2.0)))
    assert made.sample({}, Noise(0, torch.arange(2))).isfinite().all()


STOCHASTIC = ("ancestral", "churn", "dpmpp_2m_sde", "dpmpp_3m_sde", "euler_maruyama", "multistep_consistency")


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_that_adds_gaussian_noise_is_for_a_gaussian_base(solver):
    """Between two data sets, only deterministic solvers walk along states that the model was trained on."""
    sampler = Sampler(SOLVERS[solver], (0.98, 0.6, 0.3, 0.0))

    def made(base):
        return Diffusion(Denoiser(MLP(2), VP(), targets.v, base=base), (2,), sampler=sampler)

    if solver in (*STOCHASTIC, "predictor_corrector"):
        with pytest.raises(ValueError, match=rf"'solver' {solver} adds Gaussian noise .*euler, heun, rk4, dopri5"):
            made(uniform_base)
    else:
        assert made(uniform_base).sample({}, Noise(0, torch.arange(2))).isfinite().all()
    made(gaussian)
    sampler = replace(sampler, solver=partial(ddim, eta=0.1))
    with pytest.raises(ValueError, match="'solver' ddim adds Gaussian noise"):
        made(uniform_base)


def uniform_base(noise, shape, stream):
    return 2.0 * noise.uniform(shape, stream) - 1.0
