"""Write docs/plane.md: python docs/plane.py [--steps N] [--seeds N] [--to PAGE]

Flows in the plane, from eight Gaussians to two moons: what the pairing of noise and data, and reflow, do to the number
of steps that a sample needs; and the likelihood of a flow where the entropy is known. torchcfm is run beside, if it is
installed (pip install --no-deps torchcfm pot), on the same network, optimizer, number of steps and size of a batch.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from gensys.core import Batch, Cond, Generative
from gensys.data import toys
from gensys.families.diffusion import Diffusion, Sampler
from gensys.likelihood import log_prob
from gensys.noise import Noise, Stream
from gensys.solvers.dopri5 import dopri5
from gensys.solvers.euler import euler
from gensys.straightness import straightness
from gensys.systems.flow_matching import flow_matching
from gensys.systems.ot_cfm import ot_cfm
from gensys.systems.rectified_flow import rectified_flow

HERE = Path(__file__).parent
ROWS = 2048  # of each sample whose distance is measured
BATCH, LR = 256, 1e-3  # torchcfm's examples have these, and Adam
DATA, DRAWN, JUDGED, FLOOR = (
    11,
    1 << 32,
    13,
    17,
)  # seeds that no training has: data, pairs, what is judged and the floor
ADAPTIVE = partial(dopri5, rtol=1e-5, atol=1e-5)


class Network(nn.Module):
    """Three hidden layers of 64 SELUs on (x, t): torchcfm's MLP of its examples in the plane."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [3, 64, 64, 64]
        hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.SELU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(64, 2))

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.layers(torch.cat([x_t, t[:, None]], 1))


def moons(seed: int, rows: int = ROWS) -> Tensor:
    return toys.moons(Noise(seed, torch.arange(rows)), (2,), Stream.PRIOR)


def wasserstein(a: Tensor, b: Tensor) -> float:
    """The 2-Wasserstein distance of two samples of equal size, exactly: the best of all pairings."""
    cost = torch.cdist(a.double(), b.double()).square().numpy()
    return float(cost[linear_sum_assignment(cost)].mean() ** 0.5)


def fit(model: Generative, batch: Callable[[int], Batch], steps: int, seed: int) -> float:
    """Adam at a constant rate; returns seconds."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    begun = time.perf_counter()
    for step in range(steps):
        rows = batch(step)
        optimizer.zero_grad()
        model.loss(rows, Noise(seed, rows.ids, step), "model").total.backward()
        optimizer.step()
    return time.perf_counter() - begun


def fresh(law: toys.Law, seed: int) -> Callable[[int], Batch]:
    """Points that were never seen before, at every step."""

    def batch(step: int) -> Batch:
        ids = torch.arange(step * BATCH, (step + 1) * BATCH)
        return Batch(law(Noise(DATA + seed, ids), (2,), Stream.PRIOR), {}, ids)

    return batch


def from_pairs(x: Tensor, seed: int) -> Callable[[int], Batch]:
    """Rows of x at random; row i is sample i."""

    def batch(step: int) -> Batch:
        u = Noise(seed, torch.arange(step * BATCH, (step + 1) * BATCH)).uniform((1,), Stream.ORDER)[:, 0]
        ids = (u * len(x)).long()
        return Batch(x[ids], {}, ids)

    return batch


def drawn(flow: Diffusion, seed: int, rows: int, sampler: Sampler) -> Tensor:
    """Samples by another sampler than the model's own."""
    model = Diffusion(flow.denoiser, flow.shape, sampler=sampler)
    with torch.no_grad():
        return torch.cat([model.sample({}, Noise(seed, ids)) for ids in torch.arange(rows).split(4096)])


ONE, MANY = Sampler(euler, (1.0, 0.0)), Sampler(ADAPTIVE, (1.0, 1e-3, 0.0))


def judged(flow: Diffusion, real: Tensor, least: float, evaluate: int = ROWS) -> dict[str, float]:
    """What is told of a flow. least: W2^2 between noise and data."""
    found = straightness(flow, {}, Noise(JUDGED, torch.arange(evaluate)), steps=100)
    energy = found.energy.mean().item()
    return {
        "one": wasserstein(drawn(flow, JUDGED, ROWS, ONE), real),
        "many": wasserstein(drawn(flow, JUDGED, ROWS, MANY), real),
        "energy": abs(energy - least) / least,
        "S": found.straightness.mean().item(),
        "cost": found.cost.mean().item(),
        "nfe": found.evaluations.mean().item(),
    }


class Theirs(nn.Module):
    """A network of torchcfm, whose t runs from noise to data, as one of ours."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return -self.net(torch.cat([x_t, 1.0 - t[:, None]], 1))


def torchcfm_flow(name: str, steps: int, seed: int) -> tuple[Diffusion, float] | None:
    """Trained by torchcfm's matcher on the same laws; None if it is not there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchcfm
    except ImportError:
        return None
    torch.manual_seed(seed)
    np.random.seed(seed)
    kinds = {"I-CFM": torchcfm.ConditionalFlowMatcher, "OT-CFM": torchcfm.ExactOptimalTransportConditionalFlowMatcher}
    matcher, net = kinds[name](sigma=0.0), Network().layers
    optimizer, batch = torch.optim.Adam(net.parameters(), lr=LR), fresh(toys.moons, seed)
    begun = time.perf_counter()
    for step in range(steps):
        rows = batch(step)
        eps = toys.eight_gaussians(Noise(seed, rows.ids, step), (2,), Stream.EPS)
        t, x_t, slope = matcher.sample_location_and_conditional_flow(eps, rows.x)
        optimizer.zero_grad()
        (net(torch.cat([x_t, t[:, None]], 1)) - slope).square().mean().backward()
        optimizer.step()
    flow = flow_matching(Theirs(net), (2,), base=toys.eight_gaussians)
    return flow, time.perf_counter() - begun


def likelihood(steps: int, seed: int) -> dict[str, float]:
    """A flow from one Gaussian to eight: its mean log-density on fresh points, against the exact one."""
    torch.manual_seed(seed)
    flow = flow_matching(Network(), (2,))
    fit(flow, fresh(toys.eight_gaussians, seed), steps, seed)
    x = toys.eight_gaussians(Noise(JUDGED, torch.arange(ROWS)), (2,), Stream.PRIOR)
    exact = toys.log_eight_gaussians(x.double()).mean().item()
    found = log_prob(flow.denoiser.double(), x.double(), {})
    return {"exact": exact, "flow": found.log_prob.mean().item(), "nfe": found.evaluations.double().mean().item()}


def one_seed(steps: int, seed: int, real: Tensor, least: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Every row of the page, for one seed of weights, order and noise."""
    rows: dict[str, dict[str, float]] = {}

    def keep(name: str, flow: Diffusion, seconds: float) -> None:
        rows[name] = judged(flow, real, least) | {"seconds": seconds}
        say(f"seed {seed}: {name} " + " ".join(f"{k} {v:.4g}" for k, v in rows[name].items()))

    flows = {}
    for name, system in {"I-CFM": flow_matching, "OT-CFM": ot_cfm}.items():
        torch.manual_seed(seed)
        flows[name] = system(Network(), (2,), base=toys.eight_gaussians)
        keep(name, flows[name], fit(flows[name], fresh(toys.moons, seed), steps, seed))
    flow = flows["I-CFM"]
    for k in (2, 3):
        x = drawn(flow, DRAWN + k, 65_536, MANY)
        net = Network()
        net.load_state_dict(flow.denoiser.net.state_dict())
        flow = rectified_flow(net, (2,), pairs=DRAWN + k, base=toys.eight_gaussians)
        keep(f"{k}-rectified", flow, fit(flow, from_pairs(x, seed), steps, seed))
    for name in flows:
        if (theirs := torchcfm_flow(name, steps, seed)) is not None:
            keep(f"{name}, torchcfm", *theirs)
    told = likelihood(steps, seed)
    say(f"seed {seed}: likelihood {told}")
    return {"rows": rows, "likelihood": told}


def measure(steps: int, seeds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """All figures of the page, as JSON values."""
    real, other = moons(JUDGED), moons(FLOOR)
    noise = toys.eight_gaussians(Noise(JUDGED, torch.arange(ROWS)), (2,), Stream.INITIAL)
    distance = wasserstein(real, noise)
    found = [one_seed(steps, seed, real, distance**2, say) for seed in range(seeds)]
    return {"steps": steps, "floor": wasserstein(real, other), "distance": distance, "seeds": found}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write docs/plane.md.")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    import json

    asked.json.write_text(json.dumps(measure(asked.steps, asked.seeds, partial(print, flush=True))))


if __name__ == "__main__":
    main()
