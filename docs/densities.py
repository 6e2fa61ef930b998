"""Densities in the plane: how far flows are from the entropy of what they learnt, beside those of zuko if it is there.

    python docs/densities.py [--steps 1000] [--only SYSTEM] [--data DENSITY] [--markdown FILE]

A gap is the mean of -log p over 20,000 new points, minus the entropy, in nats: 0 is perfect, and no model is below it
by more than chance. Everybody has the same points, AdamW with a peak of 2e-3, warmed up over 100 steps and falling over
the last half. zuko (https://zuko.readthedocs.io) is asked for as many layers, hidden units and bins as gensys has.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from gensys.engine.optim import Optim, adamw, rate
from gensys.systems.maf import maf
from gensys.systems.nsf import nsf
from gensys.systems.realnvp import realnvp

LogProb = Callable[[Tensor], Tensor]
Made = tuple[nn.Module, LogProb]


def eight_gaussians(n: int, g: torch.Generator) -> Tensor:
    """Standard deviation 0.2, on a circle of radius 2."""
    angle = torch.randint(8, (n,), generator=g) * (math.pi / 4)
    return 2.0 * torch.stack([angle.cos(), angle.sin()], 1) + 0.2 * torch.randn(n, 2, generator=g)


def moons(n: int, g: torch.Generator) -> Tensor:
    """Two half circles of radius 1 that interlock, with normal noise of 0.1."""
    angle = math.pi * torch.rand(n, generator=g)
    first = torch.rand(n, generator=g) < 0.5
    x = torch.where(first, angle.cos(), 1.0 - angle.cos())
    y = torch.where(first, angle.sin(), 0.5 - angle.sin())
    return torch.stack([x, y], 1) + 0.1 * torch.randn(n, 2, generator=g)


def checkerboard(n: int, g: torch.Generator) -> Tensor:
    """Uniform on eight unit squares of sixteen."""
    column, row = torch.randint(4, (n,), generator=g), torch.randint(2, (n,), generator=g)
    corner = torch.stack([column, 2 * row + column % 2], 1) - 2.0
    return corner + torch.rand(n, 2, generator=g)


# entropies in nats, the first two by quadrature on a grid of step 0.005 and 0.01
DATA = {
    "8gaussians": (eight_gaussians, 1.6981),
    "moons": (moons, 1.0076),
    "checkerboard": (checkerboard, math.log(8.0)),
}
SYSTEMS = {
    "realnvp": lambda: realnvp((2,), width=64, depth=2, steps=6),
    "maf": lambda: maf((2,), width=64, depth=2, steps=5),
    "nsf": lambda: nsf((2,), width=64, depth=2, steps=3, bins=8),
    "nsf of couplings": lambda: nsf((2,), width=64, depth=2, steps=4, bins=8, coupling=True),
}


def ours(system: str) -> Made:
    model = SYSTEMS[system]()
    return model, lambda x: model.log_prob(x, {})


def theirs(system: str) -> Made | None:
    """None: there is no zuko, or nothing like this system in it."""
    try:
        from zuko import flows
    except ImportError:
        return None
    made = {
        "realnvp": lambda: flows.RealNVP(2, transforms=6, hidden_features=(64, 64)),
        "maf": lambda: flows.MAF(2, transforms=5, hidden_features=(64, 64)),
        "nsf": lambda: flows.NSF(2, transforms=3, bins=8, hidden_features=(64, 64)),
    }
    if system not in made:
        return None
    model = made[system]()
    return model, lambda x: model().log_prob(x)


def gap(made: Made, data: str, steps: int = 1000, batch: int = 512, seed: int = 0) -> tuple[float, float]:
    """(gap, its standard error) in nats after training."""
    (model, log_prob), (draw, entropy) = made, DATA[data]
    g, optim = torch.Generator().manual_seed(seed), Optim(lr=2e-3)
    optimizer = adamw(list(model.parameters()), optim)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(optim, step, step / steps)
        optimizer.zero_grad()
        (-log_prob(draw(batch, g)).mean()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        nats = -log_prob(draw(20_000, torch.Generator().manual_seed(seed + 1)))
    return float(nats.mean()) - entropy, float(nats.std()) / len(nats) ** 0.5


def main() -> None:
    """Write a line for each system and density as soon as it is known."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("--steps", type=int, default=1000)
    options.add_argument("--only", choices=SYSTEMS)
    options.add_argument("--data", choices=DATA)
    options.add_argument("--markdown", type=Path)
    given = options.parse_args()
    lines = ["| system | density | gensys | zuko | gensys, seconds | zuko, seconds |", "|---|---|---|---|---|---|"]
    print("\n".join(lines))
    for system in [given.only] if given.only else SYSTEMS:
        for data in [given.data] if given.data else DATA:
            cells: list[str] = []
            times: list[str] = []
            for make in (ours, theirs):
                torch.manual_seed(0)
                began, made = time.perf_counter(), make(system)
                found = None if made is None else gap(made, data, given.steps)
                cells.append("-" if found is None else f"{found[0]:+.3f} ± {found[1]:.3f}")
                times.append("-" if found is None else f"{time.perf_counter() - began:.0f}")
            lines.append(f"| {system} | {data} | {' | '.join(cells)} | {' | '.join(times)} |")
            print(lines[-1], flush=True)
    if given.markdown:
        given.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
