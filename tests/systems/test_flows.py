"""Flow matching, OT-CFM and rectified flow: what each regresses, where it starts, and torchcfm beside them."""

import pytest
import torch
from torch import nn

from gensys.core import Batch
from gensys.couplings import OptimalTransport
from gensys.data import toys
from gensys.noise import Noise, Stream
from gensys.paths import expand
from gensys.systems.flow_matching import flow_matching
from gensys.systems.ot_cfm import ot_cfm
from gensys.systems.rectified_flow import rectified_flow
from gensys.times import LogitNormal, Uniform

IDS = torch.arange(100, 164)
NOISE = Noise(4, IDS, 9)
SYSTEMS = {"flow_matching": flow_matching, "ot_cfm": ot_cfm, "rectified_flow": rectified_flow}
by_system = pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)


class Noted(nn.Module):
    """Predicts 0 and remembers what it saw, so that the loss is the mean square of the target."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x, t, cond):
        self.calls.append((x, t, dict(cond)))
        return torch.zeros_like(x)


def loss(system, x, cond=None, **options):
    """(loss, x_t, t, what the network was conditioned on)"""
    net = Noted()
    total = system(net, tuple(x.shape[1:]), **options).loss(Batch(x, cond or {}, IDS), NOISE, "model").total
    ((x_t, t, seen),) = net.calls
    return total, x_t, t, seen


def data(shape=(2,)):
    return 1.0 + 0.5 * Noise(0, IDS).normal(shape, Stream.PRIOR)


@by_system
@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)], ids=str)
@pytest.mark.parametrize("law", [Uniform(), LogitNormal()], ids=lambda law: type(law).__name__)
def test_the_network_regresses_straight_lines(system, shape, law):
    x, eps = data(shape), NOISE.normal(shape, Stream.EPS)
    eps = OptimalTransport()(x, eps, {}) if system is ot_cfm else eps
    total, x_t, t, _ = loss(system, x, law=law)
    assert torch.equal(t, law(NOISE))
    torch.testing.assert_close(x_t, (1 - expand(t, x)) * x + expand(t, x) * eps)
    torch.testing.assert_close(total, (eps - x).square().mean())


@by_system
def test_any_law_of_noise_is_carried_to_the_data(system):
    eps = toys.eight_gaussians(NOISE, (2,), Stream.EPS)
    eps = OptimalTransport()(data(), eps, {}) if system is ot_cfm else eps
    total, *_ = loss(system, data(), base=toys.eight_gaussians)
    torch.testing.assert_close(total, (eps - data()).square().mean())
    model = system(Noted(), (2,), base=toys.eight_gaussians)
    assert torch.equal(model.sample({}, NOISE), toys.eight_gaussians(NOISE, (2,), Stream.INITIAL))


def test_labels_are_dropped_and_couple_within_themselves():
    label = IDS % 3
    _, _, _, seen = loss(flow_matching, data(), {"label": label}, dropout=0.5)
    assert 16 < (seen["label"] == -1).sum() < 48
    total, *_ = loss(ot_cfm, data(), {"label": label})
    eps = OptimalTransport()(data(), NOISE.normal((2,), Stream.EPS), {"label": label})
    torch.testing.assert_close(total, (eps - data()).square().mean())
    assert total > loss(ot_cfm, data(), {"label": label}, by_label=False)[0]


@pytest.mark.parametrize("base", [None, toys.eight_gaussians], ids=["gaussian", "eight gaussians"])
def test_a_pair_is_a_sample_and_the_noise_that_it_was_drawn_from(base):
    """Whatever the training's own seed and step are; and the network is not told."""
    options = {} if base is None else {"base": base}
    model = rectified_flow(Noted(), (2,), **options)
    eps = model.initial(Noise(77, IDS))
    total, x_t, t, seen = loss(rectified_flow, data(), {"label": IDS % 2}, pairs=77, **options)
    torch.testing.assert_close(total, (eps - data()).square().mean())
    torch.testing.assert_close(x_t, (1 - expand(t, eps)) * data() + expand(t, eps) * eps)
    assert seen.keys() == {"label"}
    some = Batch(data()[5:9], {}, IDS[5:9])
    alone = rectified_flow(Noted(), (2,), pairs=77, **options).loss(some, Noise(1, some.ids, 2), "model").total
    torch.testing.assert_close(alone, (eps - data())[5:9].square().mean())


def test_the_lines_of_torchcfm_are_ours():
    """Their t runs from noise to data; for the same pairs and times they go through the same points, at minus v."""
    torchcfm = pytest.importorskip("torchcfm")
    x = data()
    net = Noted()
    flow_matching(net, (2,)).loss(Batch(x, {}, IDS), NOISE, "model")
    ((x_t, t, _),) = net.calls
    eps = NOISE.normal((2,), Stream.EPS)
    matcher = torchcfm.ConditionalFlowMatcher(sigma=0.0)
    _, theirs, slope = matcher.sample_location_and_conditional_flow(eps, x, t=1 - t)
    torch.testing.assert_close(x_t, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(-slope, eps - x)


def test_the_pairs_of_torchcfm_cost_as_much_as_ours():
    """Their plan is exact as well, and they draw pairs from it with replacement: on average our cost."""
    optimal = pytest.importorskip("torchcfm.optimal_transport")
    x, eps = data(), NOISE.normal((2,), Stream.EPS)
    plan = torch.from_numpy(optimal.OTPlanSampler(method="exact").get_map(eps, x))
    theirs = (plan * torch.cdist(eps.double(), x.double()).square()).sum().item()
    ours = (OptimalTransport()(x, eps, {}) - x).double().square().sum(1).mean().item()
    assert ours == pytest.approx(theirs, rel=1e-6)
