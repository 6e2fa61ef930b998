"""How well images of the StyleGANs move with their input, trained alike: a part of docs/adversarial.md.

    python docs/equivariance.py train FOLDER [--seconds 600]      runs, as `gensys train` makes them
    python docs/equivariance.py write FOLDER                      their EQ-T and Frechet distances

Every version is trained with the defaults of its recipe for the same time of a processor, on one thread.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import click
import torch
from page import gensys, put
from torch import Tensor

from gensys.engine.checkpoint import newest, read_state
from gensys.evaluate.equivariance import translation_equivariance, translations
from gensys.noise import Noise
from gensys.run_folder import RunFolder

HERE = Path(__file__).parent
GAMES = ("stylegan", "stylegan2", "stylegan3")
STYLES, SAMPLES = 64, 1000
SIDE = 32


@torch.no_grad()
def equivariance(run: Path, *, whole: bool) -> float:
    """EQ-T, or EQ-T_frac, of the averaged generator without the noise inputs, which stay where they are."""
    net = RunFolder(run).model().generator
    ids = torch.arange(STYLES)
    noise = Noise(0, ids)
    z = torch.randn(STYLES, net.mapping.latent, generator=torch.Generator().manual_seed(0))
    w = net.styles(z, {"label": ids % 10}, noise)

    def generate(shift: Tensor) -> Tensor:
        return net.image(net.synthesis(w, None, shift))

    return translation_equivariance(generate, translations(noise, SIDE, whole=whole))


@click.group()
def cli() -> None:
    """Train StyleGANs, and measure how their images move."""


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seconds", default=600.0, show_default=True, help="Of the processor, to train each for.")
@click.option("--game", type=click.Choice(GAMES))
def train(folder: Path, seconds: float, game: str | None) -> None:
    """Train, or go on; draw and score."""
    for name in [game] if game else GAMES:
        run = folder / name
        gensys("train", name, "data=mnist", f"budget=cpu:{seconds:g}s", "--run", str(run))
        gensys("sample", str(run), "--seeds", f"0:{SAMPLES}")
        (run / "scored.json").write_text(json.dumps(gensys("evaluate", str(run)).said))


@cli.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
def write(folder: Path) -> None:
    """Measure, and put the table where it belongs."""
    lines = [
        f"{STYLES} styles, MNIST at {SIDE} x {SIDE}, {date.today()}, `python docs/equivariance.py`. EQ-T in decibels, "
        "of shifts by whole pixels and by fractions. fd: Frechet distance of LeNet features over that of other real "
        "images.",
        "",
        "| run | steps | CPU seconds | EQ-T | EQ-T_frac | fd | labels followed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in GAMES:
        run = folder / name
        if (at := newest(run / "checkpoints")) is None:
            continue
        metrics, state = json.loads((run / "scored.json").read_text())["metrics"], read_state(at)
        fd = next(metric for key, metric in metrics.items() if key.startswith("fd_"))
        seconds = RunFolder(run).document()["knobs"]["budget"].removeprefix("cpu:").removesuffix("s")
        moved = " | ".join(f"{equivariance(run, whole=whole):.1f}" for whole in (True, False))
        followed = metrics["label_agreement"]["value"]
        lines.append(
            f"| `{name}` | {state.step:,} | {seconds} | {moved} | {fd['value'] / fd['floor']:.2f} | {followed:.2f} |"
        )
    put(HERE / "adversarial.md", "equivariance", "equivariance.py", lines)


if __name__ == "__main__":
    cli()
