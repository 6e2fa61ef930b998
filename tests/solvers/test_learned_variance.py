"""A variance that the network learns: on its way from the second half of the channels to the ancestral solver."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from solvers.gaussian import MEAN, STD, exact
from torch import nn

from gensys import targets
from gensys.denoiser import Denoiser
from gensys.families.diffusion import Diffusion, Sampler
from gensys.guidance import NO_LABEL, Guidance
from gensys.nn.mlp import MLP
from gensys.noise import Noise, Stream
from gensys.paths import Cosine, Discrete, cosine_schedule
from gensys.solvers import ancestral, ddim, heun
from gensys.times import leading, uniform

LEARNED = partial(ancestral, variance="learned")
PATH = Discrete(cosine_schedule(100))


class Two(nn.Module):
    """A target from x and label, and v that depends on the label alone."""

    def __init__(self, v):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.v = MLP(2, width=16, classes=3), v

    def forward(self, x, t, cond):
        return torch.cat([self.net(x, t, cond), self.v(cond["label"])[:, None].expand_as(x)], 1)


def drawn(solver, v=lambda label: 0.0 * label, learned=True, guidance=1.0, clip=(-2.0, 2.0), steps=6):
    net = Two(v) if learned else Two(v).net
    denoiser = Denoiser(net, PATH, targets.v, learned_variance=learned)
    sampler = Sampler(solver, tuple(leading(steps, 100)), Guidance(guidance), clip)
    ids = torch.arange(9)
    return Diffusion(denoiser, (2,), sampler=sampler).sample({"label": ids % 3}, Noise(0, ids))


@pytest.mark.parametrize(("v", "variance"), [(-1.0, "small"), (1.0, "large")])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_at_its_bounds_it_is_the_fixed_variance(v, variance, guidance):
    got = drawn(LEARNED, lambda label: label * 0.0 + v, guidance=guidance)
    want = drawn(partial(ancestral, variance=variance), learned=False, guidance=guidance)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_guidance_is_of_the_mean_alone():
    """The variance is that of the conditional call: what the reference says of it has no effect."""

    def v(reference):
        return lambda label: torch.where(label == NO_LABEL, reference, 0.3 + 0.2 * label)

    one, other = (drawn(LEARNED, v(reference), guidance=2.5) for reference in (-1.0, 5.0))
    assert torch.equal(one, other)
    assert not torch.allclose(one, drawn(LEARNED, guidance=2.5))


@pytest.mark.parametrize("solver", [ddim, heun, ancestral])
def test_other_solvers_go_by_the_mean_and_have_their_tables(solver):
    torch.testing.assert_close(drawn(solver), drawn(solver, learned=False), rtol=0, atol=0)


def test_the_data_of_a_gaussian_come_back_exactly():
    """With the variance of q(x_s | x_t) every step is exact, however few there are: mean and variance of the last."""
    n, path, times = 20_000, Cosine(), [0.98, 0.6, 0.3, 0.0]
    noise = Noise(0, torch.arange(n))
    top = path(times[0])
    start = noise.normal((1,), Stream.INITIAL).double()
    x = top.alpha * MEAN + ((top.alpha * STD) ** 2 + top.sigma**2) ** 0.5 * start
    after = dict(pairwise(times))

    def predict(x_t, t):
        c, s = path(t), path(after[t])
        p = exact(path, x_t, t)
        if not s.sigma:
            return p._replace(mix=torch.zeros_like(x_t))
        kept = c.alpha * s.sigma / (s.alpha * c.sigma)
        small = s.sigma**2 * (1 - kept**2)
        error = (STD * c.sigma) ** 2 / ((c.alpha * STD) ** 2 + c.sigma**2)
        true = torch.tensor(small + (s.alpha * (1 - kept**2)) ** 2 * error)
        return p._replace(mix=((true / small).log() / (2 * torch.tensor(c.sigma / s.sigma).log())).expand_as(x_t))

    seen = []

    def watched(x_t, t):
        seen.append((t, x_t))
        return predict(x_t, t)

    LEARNED(watched, path, x, times, lambda k: noise.at(k).normal((1,), Stream.SOLVER).double())
    for t, x_t in seen:
        c = path(t)
        assert float(x_t.mean()) == pytest.approx(c.alpha * MEAN, abs=0.02)
        assert float(x_t.var()) == pytest.approx((c.alpha * STD) ** 2 + c.sigma**2, rel=0.04)


def test_it_has_no_table_and_a_row_is_its_own():
    denoiser = Denoiser(Two(lambda label: 0.4 * label), PATH, targets.v, learned_variance=True)
    made = Diffusion(denoiser, (2,), sampler=Sampler(LEARNED, tuple(leading(5, 100)), Guidance(2.0)))
    assert made.table is None
    ids = torch.arange(9)
    together = made.sample({"label": ids % 3}, Noise(0, ids))
    alone = made.sample({"label": ids[4:5] % 3}, Noise(0, ids[4:5]))
    torch.testing.assert_close(alone, together[4:5], rtol=1e-5, atol=1e-5)
    assert [p.mix.shape for _, _, p in made.trajectory({"label": ids % 3}, Noise(0, ids))] == [(9, 2)] * 5


def test_a_network_that_learns_none_is_refused():
    with pytest.raises(ValueError, match="'variance' is 'learned', and the network learns none"):
        drawn(LEARNED, learned=False)


@pytest.mark.parametrize("v", [-3.0, 4.0])
def test_beyond_its_bounds_it_goes_on(v):
    assert drawn(LEARNED, lambda label: label * 0.0 + v, steps=20).isfinite().all()


def test_a_clipping_sampler_may_start_where_the_noise_hardly_tells_the_data():
    """alpha = 5e-5 at the end of the cosine schedule: an error grows 20,000 times, and clipping ends it."""
    path = Discrete(cosine_schedule(1000))
    denoiser = Denoiser(nn.Identity(), path, targets.noise)
    Diffusion(denoiser, (2,), sampler=Sampler(ancestral, tuple(uniform(4)), clip=(-1.0, 1.0)))
    with pytest.raises(ValueError, match="'target' noise cannot be inverted"):
        Diffusion(denoiser, (2,), sampler=Sampler(ancestral, tuple(uniform(4))))
