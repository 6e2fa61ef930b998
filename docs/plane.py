"""Write docs/plane.md: python docs/plane.py [--steps N] [--json FILE] [--read FILE] [--to PAGE]

Flows in the plane, from eight Gaussians to two moons: what the pairing of noise and data, and reflow, do to the number
of steps that a sample needs; and the likelihood of a flow where the entropy is known. torchcfm is run beside, if it is
installed (pip install --no-deps torchcfm pot), on the same network, optimizer, number of steps and size of a batch.

--json keeps the figures, --read writes the page of kept ones.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import date
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
PAIRS = 65_536  # that a round of reflow is trained on
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


def fit(model: Generative, batch: Callable[[int], Batch], steps: int, seed: int, falling: bool = False) -> float:
    """Adam; returns seconds. falling: the rate is twice LR and falls to 0 in the second half, as `gensys train` does,
    instead of LR at every step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    begun = time.perf_counter()
    for step in range(steps):
        if falling:
            optimizer.param_groups[0]["lr"] = 2 * LR * min(1.0, 2.0 * (1.0 - step / steps))
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


def judged(flow: Diffusion, real: Tensor, least: float) -> dict[str, float]:
    """What is told of a flow. least: W2^2 between noise and data."""
    found = straightness(flow, {}, Noise(JUDGED, torch.arange(ROWS)), steps=50)
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
    fit(flow, fresh(toys.eight_gaussians, seed), steps, seed, falling=True)
    x = toys.eight_gaussians(Noise(JUDGED, torch.arange(ROWS)), (2,), Stream.PRIOR)
    exact = toys.log_eight_gaussians(x.double()).mean().item()
    found = log_prob(flow.denoiser.double(), x.double(), {}, rtol=1e-5, atol=1e-5)
    return {"exact": exact, "flow": found.log_prob.mean().item(), "nfe": found.evaluations.double().mean().item()}


def measure(steps: int, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """All figures of the page, as JSON values, for one seed of weights, order and noise."""
    real = moons(JUDGED)
    noise = toys.eight_gaussians(Noise(JUDGED, torch.arange(ROWS)), (2,), Stream.INITIAL)
    distance = wasserstein(real, noise)
    rows: dict[str, dict[str, float]] = {}
    found: dict[str, Any] = {"steps": steps, "distance": distance, "floor": wasserstein(real, moons(FLOOR))}
    found |= {"rows": rows, "machine": machine(), "load": os.getloadavg()[0]}

    def keep(name: str, flow: Diffusion, seconds: float) -> None:
        rows[name] = judged(flow, real, distance**2) | {"seconds": seconds}
        say(f"{name}: " + ", ".join(f"{k} {v:.4g}" for k, v in rows[name].items()))

    flows = {}
    for name, system in {"I-CFM": flow_matching, "OT-CFM": ot_cfm}.items():
        torch.manual_seed(seed)
        flows[name] = system(Network(), (2,), base=toys.eight_gaussians)
        keep(name, flows[name], fit(flows[name], fresh(toys.moons, seed), steps, seed))
    first, net = flows["I-CFM"], Network()
    x = drawn(first, DRAWN, PAIRS, MANY)
    net.load_state_dict(first.denoiser.net.state_dict())
    second = rectified_flow(net, (2,), pairs=DRAWN, base=toys.eight_gaussians)
    keep("2-rectified", second, fit(second, from_pairs(x, seed), steps, seed))
    for name in flows:
        if (theirs := torchcfm_flow(name, steps, seed)) is not None:
            keep(f"{name}, torchcfm", *theirs)
    return found | {"likelihood": likelihood(steps, seed), "load_after": os.getloadavg()[0]}


def machine() -> str:
    with open("/proc/cpuinfo") as file:
        name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores, one thread, torch {torch.__version__}"


def page(found: Mapping[str, Any]) -> str:
    """The whole page."""
    rows, told = found["rows"], found["likelihood"]
    text = [
        "# Flows in the plane",
        "",
        f"Written on {date.today()} by `python docs/plane.py`. Measured on {found['machine']}, load "
        f"{found['load']:.1f} before and {found['load_after']:.1f} after, beside other work: times mean little.",
        "",
        "From eight Gaussians to two moons (gensys/data/toys.py). A network of three hidden layers of 64 SELUs on "
        f"(x, t) is trained for {found['steps']:,} steps of Adam at {LR:g}, on batches of {BATCH} fresh points; one "
        "seed. *I-CFM* pairs noise and data at random (flow_matching), *OT-CFM* by the optimal pairing of every batch "
        f"(ot_cfm), *2-rectified* goes on from I-CFM's weights on {PAIRS:,} pairs that I-CFM drew by dopri5 at 1e-5 "
        "(rectified_flow). torchcfm's matchers are run on the same network, points and steps.",
        "",
        f"W2 is the 2-Wasserstein distance between {ROWS:,} samples and {ROWS:,} fresh points of the moons, by the "
        f"best of all pairings. Two sets of fresh points are {found['floor']:.3f} apart, which no model can beat "
        f"on average; noise and data are {found['distance']:.3f} apart, whose square is the W2^2 of the path energy. "
        "Samples are drawn by one step of Euler and by dopri5 at rtol = atol = 1e-5, whose network calls are counted. "
        "Path energy, straightness and transport cost: gensys/straightness.py, by 50 steps of the midpoint rule.",
        "",
        "| flow | W2, one step | W2, dopri5 | calls | energy, normalised | straightness | transport cost | training |",
        "|---|---|---|---|---|---|---|---|",
    ]
    text += [
        f"| {name} | {r['one']:.3f} | {r['many']:.3f} | {r['nfe']:.0f} | {r['energy']:.4f} | {r['S']:.4f} | "
        f"{r['cost']:.3f} | {r['seconds']:.0f} s |"
        for name, r in rows.items()
    ]
    absent = [name for name in ("I-CFM, torchcfm", "OT-CFM, torchcfm") if name not in rows]
    text += [
        "",
        "Energy, normalised: |path energy - W2^2| / W2^2." + "".join(f" {name}: not measured." for name in absent),
        "",
        f"A flow from one Gaussian to eight, trained alike but for a rate of {2 * LR:g} that falls to 0 in the second "
        f"half: {told['flow']:.4f} nats is its mean log-density of {ROWS:,} fresh points (gensys/likelihood.py, exact "
        f"divergence, dopri5 at 1e-5, float64, {told['nfe']:.0f} network calls), and {told['exact']:.4f} that of the "
        "law itself on the same points.",
        "",
        "| mark | aim | measured | |",
        "|---|---|---|---|",
        *(
            f"| {what} | {aim} | {value} | {'met' if met else '**not met**'} |"
            for what, aim, value, met in marks(found)
        ),
        "",
    ]
    return "\n".join(text)


def marks(found: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """(what, aim, measured, whether it is met)"""
    rows, told = found["rows"], found["likelihood"]
    free, best, second = rows["I-CFM"], rows["OT-CFM"], rows["2-rectified"]

    def most(what: str, value: float, limit: float) -> tuple[str, str, str, bool]:
        return what, f"at most {limit:.3g}", f"{value:.3g}", value <= limit

    ratio = free["S"] / second["S"]
    out = [
        most("OT-CFM, one step: W2", best["one"], 0.6),
        most("OT-CFM, one step: W2 over that of I-CFM", best["one"] / free["one"], 1 / 3),
        most("OT-CFM: normalised path energy", best["energy"], 0.1),
        most("I-CFM, dopri5: W2", free["many"], 0.9),
        ("reflow: straightness, before over after", "at least 10", f"{ratio:,.0f}", ratio >= 10),
        most("reflow: transport cost, after over before", second["cost"] / free["cost"], 1.02),
        most("reflow, one step: W2, after over before", second["one"] / free["one"], 0.5),
        most("log-density: distance from the exact one, nats", abs(told["flow"] - told["exact"]), 0.05),
    ]
    for name, kind in (("I-CFM", "many"), ("OT-CFM", "many"), ("OT-CFM", "one")):
        if (theirs := rows.get(f"{name}, torchcfm")) is not None:
            how = "one step" if kind == "one" else "dopri5"
            out.append(most(f"{name}, {how}: W2 over torchcfm's", rows[name][kind] / theirs[kind], 1.25))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="Write docs/plane.md.")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--read", type=Path)
    parser.add_argument("--to", type=Path, default=HERE / "plane.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # the number of threads can change the last bits, and small matrices gain nothing
    found = json.loads(asked.read.read_text()) if asked.read else measure(asked.steps, 0, partial(print, flush=True))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")
    asked.to.write_text(page(found))


if __name__ == "__main__":
    main()
