"""How many of 25 narrow normals in the plane a game finds: a part of docs/adversarial.md, and docs/modes.png.

    python docs/modes.py train FOLDER [--game NAME] [--seed N]     runs, as `gensys train` makes them
    python docs/modes.py write FOLDER                              what they found

All games have the same networks, data and steps of the generator, on one thread. Of 2,500 samples of the averaged
generator, 20 or more must lie within 3 standard deviations of a mode for it to be found; 100 would be its share.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import click
import matplotlib
import torch
from page import put
from torch import Tensor

from gensys.data import toys
from gensys.engine.checkpoint import newest, read_state
from gensys.noise import Noise
from gensys.run_folder import RunFolder

matplotlib.use("agg")
from matplotlib import pyplot

HERE = Path(__file__).parent
GAMES = ("gan", "wgan", "wgan_gp")
SAMPLES, ENOUGH = 2500, 20
# fp32: bfloat16 has steps of 1/64 at 4, a third of a mode's standard deviation; 2 latents, as Gulrajani et al. have it
KNOBS = {"data": "25gaussians", "latent": "2", "width": "128", "batch": "64", "precision": "fp32"}
# 20,000 steps of the generator each, in rows: a step has so many turns of 64. Gulrajani et al.'s program has a penalty
# of 0.1 for data of unit variance; the deviation of these is 2.8, and scores grow with the data where the penalty does
# not. After 2,900 steps with these knobs 3 modes were found, after 20,000 all.
OWN = {
    "gan": {"r1": "0", "lr": "1e-3", "budget": "1.28M"},
    "wgan": {"lr": "1e-3", "turns": "5", "budget": "6.4M"},
    "wgan_gp": {"penalty": "0.3", "lr": "5e-4", "turns": "5", "budget": "6.4M"},
}


def samples(run: Path) -> Tensor:
    """(2500, 2) of the averaged generator."""
    return RunFolder(run).model().sample({}, Noise(1, torch.arange(SAMPLES)))


@click.group()
def cli() -> None:
    """Train games on 25 normals, and count what they find."""


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--game", type=click.Choice(GAMES))
@click.option("--seed", default=0, show_default=True)
def train(folder: Path, game: str | None, seed: int) -> None:
    """Train, or go on."""
    for name in [game] if game else GAMES:
        knobs = KNOBS | OWN[name] | {"seed": str(seed)}
        words = ["train", name, *(f"{key}={value}" for key, value in knobs.items()), "--run", f"{folder}/{name}-{seed}"]
        subprocess.run([sys.executable, "-m", "gensys", *words], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


@cli.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
def write(folder: Path) -> None:
    """Count, and put table and picture where they belong."""
    runs = sorted(run for run in folder.iterdir() if newest(run / "checkpoints"))
    lines = [
        f"25 normals in the plane (`25gaussians`), {date.today()}, `python docs/modes.py`: modes that 20 or more of "
        "2,500 samples lie within 3 standard deviations of, and the share of samples that lie so near to any (of the "
        "data 0.989).",
        "",
        "| run | steps of the generator | seconds of a busy machine | modes | share of samples |",
        "|---|---|---|---|---|",
    ]
    figure, axes = pyplot.subplots(1, len(runs), figsize=(3.2 * len(runs), 3.4), squeeze=False)
    for axis, run in zip(axes[0], runs, strict=True):
        x, at = samples(run), newest(run / "checkpoints")
        assert at is not None
        state, counts = read_state(at), toys.count_grid_gaussians(x)
        modes, share = int((counts >= ENOUGH).sum()), int(counts.sum()) / SAMPLES
        name = run.name if state.finished else f"{run.name}, not finished"
        lines.append(f"| {name} | {state.step:,} | {state.seconds:.0f} | {modes} of 25 | {share:.3f} |")
        axis.scatter(*x.T.numpy(), s=1)
        axis.set(title=f"{run.name}: {modes} of 25", xlim=(-5, 5), ylim=(-5, 5), aspect="equal")
    figure.tight_layout()
    figure.savefig(HERE / "modes.png", dpi=80)
    put(HERE / "adversarial.md", "modes", "modes.py", [*lines, "", "![samples](modes.png)"])


if __name__ == "__main__":
    cli()
