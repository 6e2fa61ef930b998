"""Normalizing flows beside those of zuko and normflows: the tables of docs/flows.md.

    python docs/flows.py plane FILE.json [--system NAME] [--density NAME]   how far from the entropy, in the plane
    python docs/flows.py images FILE.json [--rows 60k]                      bits per dimension of handwritten digits
    python docs/flows.py write FILE.json

What is missing in FILE.json is measured; `write` makes the tables. A gap is the mean of -log p over 20,000 new points,
minus the entropy, in nats: 0 is perfect, and no model is below it by more than chance. Bits are those of 1,000 held-out
images, each spread over its bins. Everybody has the same points, AdamW, warmed up over 100 steps and falling over the
last half, on one thread. zuko (https://zuko.readthedocs.io) and normflows (Stimper et al., 2023, arXiv:2302.12014) are
asked for as many layers, hidden units and bins as gensys has; who is not installed is left out.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import click
import torch
from page import put
from torch import Tensor, nn

from gensys.data.sources import open_source, split
from gensys.engine.optim import Optim, adamw, rate
from gensys.likelihood import bin_width, bits_per_dim, dequantise
from gensys.noise import Noise
from gensys.systems.glow import glow
from gensys.systems.maf import maf
from gensys.systems.nsf import nsf
from gensys.systems.realnvp import realnvp

LogProb = Callable[[Tensor], Tensor]
Made = tuple[nn.Module, LogProb]
Score = Callable[[Made], tuple[float, float]]


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
STEPS, BATCH = 1000, 512  # in the plane
IMAGES = (1, 32, 32)
LEVELS, DEPTH, WIDTH = 3, 4, 64  # of Glow: the defaults of the recipe
PIXELS = bin_width(256)  # of images in [-1, 1]


def _plain(model: Any) -> Made:
    return model, lambda x: model.log_prob(x, {})


def ours(system: str) -> Made:
    return _plain(SYSTEMS[system]())


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


def normflows_glow() -> Made | None:
    """Glow of as many scales, steps and channels, and the same logit. None: there is no normflows."""
    try:
        import normflows as nf
    except ImportError:
        return None
    c, h, w = IMAGES
    base, flows, merges = [], [], []
    for k in range(LEVELS):  # from the coarsest scale to the finest, as normflows wants them
        blocks = [nf.flows.GlowBlock(c * 2 ** (LEVELS + 1 - k), WIDTH, split_mode="channel") for _ in range(DEPTH)]
        flows.append([*blocks, nf.flows.Squeeze()])
        merges += [nf.flows.Merge()] if k else []
        channels, halves = (c * 2 ** (LEVELS - k), LEVELS - k) if k else (c * 2 ** (LEVELS + 1), LEVELS)
        base.append(nf.distributions.DiagGaussian((channels, h >> halves, w >> halves)))
    # p of the logit is margin + (1 - 2 margin) u with u in (0, 1)
    model: Any = nf.MultiscaleFlow(base, flows, merges, transform=nf.transforms.Logit(0.05), class_cond=False)

    def log_prob(x: Tensor) -> Tensor:
        u = (x + 1.0 + 0.5 * PIXELS) / (256 * PIXELS)  # from the ends of the outermost bins of [-1, 1] to (0, 1)
        return model.log_prob(u, None) - x[0].numel() * math.log(256 * PIXELS)

    return model, log_prob


FLOWS_OF_IMAGES: dict[str, Callable[[], Made | None]] = {
    "glow": lambda: _plain(glow(IMAGES, width=WIDTH, levels=LEVELS, steps=DEPTH, bounds=(-1.0, 1.0))),
    "glow of normflows": normflows_glow,
    "realnvp": lambda: _plain(realnvp(IMAGES, bounds=(-1.0, 1.0))),
}


def fit(made: Made, batches: Callable[[int], Tensor], steps: int, lr: float) -> None:
    """Maximum likelihood; batches: step -> (B, *S)."""
    model, log_prob = made
    optim = Optim(lr=lr)
    optimizer = adamw(list(model.parameters()), optim)
    model.train()
    log_prob(batches(0))  # what is set by the first data (ActNorm) is set before the optimizer looks at it
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(optim, step, step / steps)
        optimizer.zero_grad()
        x = batches(step)
        (-log_prob(x).mean() / x[0].numel()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def gap(made: Made, data: str, seed: int = 0) -> tuple[float, float]:
    """(gap, its standard error) in nats after training in the plane."""
    draw, entropy = DATA[data]
    g = torch.Generator().manual_seed(seed)
    fit(made, lambda _: draw(BATCH, g), STEPS, 2e-3)
    with torch.no_grad():
        nats = -made[1](draw(20_000, torch.Generator().manual_seed(seed + 1)))
    return float(nats.mean()) - entropy, float(nats.std()) / len(nats) ** 0.5


def bits(made: Made, rows: int, batch: int = 32, held: int = 1000, seed: int = 0) -> tuple[float, float]:
    """(bits per dimension of held-out digits, their standard error) after training on `rows` of the others."""
    source = open_source("mnist")
    train, test = split(source)
    g = torch.Generator().manual_seed(seed)

    def spread(ids: Tensor, step: int) -> Tensor:
        x = source.batch(ids, Noise(0, ids)).x
        return dequantise(x, Noise(seed, ids, step=step), PIXELS)

    def drawn(step: int) -> Tensor:
        return spread(torch.as_tensor(train)[torch.randint(len(train), (batch,), generator=g)], step)

    fit(made, drawn, rows // batch, 1e-3)
    ids = torch.as_tensor(test)[:held]
    with torch.no_grad():
        nats = torch.cat([made[1](spread(part, 0)) for part in ids.split(100)])
    each = bits_per_dim(nats, math.prod(IMAGES), PIXELS)
    return float(each.mean()), float(each.std()) / len(each) ** 0.5


def _known(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}


def _measure(
    file: Path, key: str, make: Callable[[], Made | None], score: Callable[[Made], tuple[float, float]]
) -> None:
    """Add what `score` finds to the file, under the key, unless it is there already."""
    if key in _known(file):
        return
    torch.manual_seed(0)
    torch.set_num_threads(1)
    made = make()
    if made is None:
        click.echo(f"{key}: left out")
        return
    began = time.process_time()
    value, error = score(made)
    row = {
        "value": value,
        "error": error,
        "seconds": time.process_time() - began,
        "parameters": sum(p.numel() for p in made[0].parameters()),
        "date": str(date.today()),
    }
    file.write_text(json.dumps(_known(file) | {key: row}, indent=1))
    click.echo(f"{key}: {value:+.3f} ± {error:.3f}, {row['seconds']:.0f} s")


@click.group()
def cli() -> None:
    """Measure flows, and write the tables."""


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--system", type=click.Choice([*SYSTEMS]))
@click.option("--density", type=click.Choice([*DATA]))
def plane(file: Path, system: str | None, density: str | None) -> None:
    """Gaps of densities in the plane."""
    for name in [system] if system else SYSTEMS:
        for data in [density] if density else DATA:
            for who, make in (("gensys", ours), ("zuko", theirs)):
                _measure(
                    file,
                    f"{name} | {data} | {who}",
                    lambda make=make, name=name: make(name),
                    lambda made, data=data: gap(made, data),
                )


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--rows", default=60_000, help="Images that are trained on, in batches of 32.")
def images(file: Path, rows: int) -> None:
    """Bits per dimension of images."""
    for name, make in FLOWS_OF_IMAGES.items():
        _measure(file, f"{name} | mnist, {rows:,} rows", make, lambda made: bits(made, rows))


@cli.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
def write(file: Path) -> None:
    """Put the tables into docs/flows.md."""
    known = _known(file)

    def cell(key: str) -> str:
        return f"{known[key]['value']:+.3f} ± {known[key]['error']:.3f}" if key in known else "-"

    def cost(key: str) -> str:
        return f"{known[key]['seconds']:.0f}" if key in known else "-"

    lines = [
        f"The distance from the entropy after {STEPS:,} steps of {BATCH} points, in nats, and CPU seconds:",
        "",
        "| system | density | gensys | zuko | gensys, s | zuko, s |",
        "|---|---|---|---|---|---|",
    ]
    for name in SYSTEMS:
        for data in DATA:
            keys = [f"{name} | {data} | {who}" for who in ("gensys", "zuko")]
            cells = [name, data, *(cell(key) for key in keys), *(cost(key) for key in keys)]
            lines.append(f"| {' | '.join(cells)} |")
    rows = [(key, row) for key, row in known.items() if "mnist" in key]
    lines += ["", "Bits per dimension of 1,000 held-out digits (MNIST, 32 x 32, uniform dequantisation):", ""]
    lines += ["| flow | trained on | bits | parameters | CPU s |", "|---|---|---|---|---|"]
    for key, row in rows:
        lines.append(
            f"| {key} | {row['value']:.3f} ± {row['error']:.3f} | {row['parameters']:,} | {row['seconds']:.0f} |"
        )
    dates = sorted({row["date"] for row in known.values()})
    lines += ["", f"One thread, one seed, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, `python docs/flows.py`."]
    put(Path(__file__).parent / "flows.md", "tables", "flows.py", lines)


if __name__ == "__main__":
    cli()
