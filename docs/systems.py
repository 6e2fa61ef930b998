"""Train, sample and score every system on MNIST, and write the table of the README: python docs/systems.py

    python docs/systems.py run FOLDER [NAME ...]     what is missing in FOLDER/systems.json is done; NAME: those alone
    python docs/systems.py write FOLDER/systems.json

Everything goes through the command line, as a user would do it, on one thread. Budgets are numbers of images, so a row
is the same on any machine; the CPU seconds are this one's.
"""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import click
from page import gensys, part, put

from gensys.run import recipes

HERE = Path(__file__).parent
SAMPLES = 1000

BUDGET = "150k"
DIT = {"net": "dit", "width": "128", "depth": "5", "heads": "4", "patch": "2", "batch": "128", "lr": "2e-3"}
# The ladder doubles over the whole budget, from 10 intervals to what so few steps bear.
FROM_SCRATCH = {"first": "10", "last": "80", "doubling": "0", "batch": "64"}
SAME = {"data": "LATENTS", "budget": BUDGET}
# Name of the row -> (recipe, knobs). LATENTS and the teacher's row stand for their paths. All but latent_diffusion,
# whose network is its own, train the same transformer on the same latents for as long, and are sampled unguided.
ROWS: dict[str, tuple[str, dict[str, str]]] = {
    "ddpm": ("ddpm", SAME | DIT),
    "iddpm": ("iddpm", SAME | DIT),
    "score_sde": ("score_sde", SAME | DIT),
    "edm": ("edm", SAME | DIT),
    "dit": ("dit", SAME | {"guidance": "1"}),
    "latent_diffusion": ("latent_diffusion", {"data": "LATENTS", "guidance": "1", "budget": "60k"}),
    "latent_dit": ("latent_dit", SAME | {"guidance": "1"}),
    "flow_matching": ("flow_matching", SAME | DIT),
    "ot_cfm": ("ot_cfm", SAME | DIT),
    "rectified_flow": ("rectified_flow", SAME | DIT),
    "reflow": ("rectified_flow", {"budget": "50k", "lr": "5e-4"}),  # of the row before, by `gensys reflow`
    "consistency": ("consistency", {"data": "LATENTS", "teacher": "latent_dit", "batch": "128", "budget": "60k"}),
    "consistency_scratch": ("consistency", SAME | DIT | FROM_SCRATCH),
    "lcm": ("lcm", {"data": "LATENTS", "teacher": "latent_dit", "budget": "60k"}),
}
DRAWN = {"reflow": ["solver=euler", "steps=2"]}  # knobs of sampling, where they are not the recipe's own


@click.group()
def cli() -> None:
    """Measure every system, and write the table."""


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("names", nargs=-1)
def run(folder: Path, names: tuple[str, ...]) -> None:
    """Train, sample and score; goes on from what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    latents = folder / "codec" / "latents.zarr"
    for name in names or ROWS:
        recipe, knobs = ROWS[name]
        if "LATENTS" in knobs.values() and not latents.exists():
            gensys("train", "kl_autoencoder", "budget=150k", "--run", str(folder / "codec"))
            gensys("encode", str(folder / "codec"))
        places = {"data": str(latents)} | ({"teacher": str(folder / knobs["teacher"])} if "teacher" in knobs else {})
        words = [f"{knob}={places.get(knob, value)}" for knob, value in knobs.items()]
        at = str(folder / name)
        if name == "reflow":
            _, training = gensys("reflow", str(folder / recipe), *words, "--out", at)
        else:
            _, training = gensys("train", recipe, *words, "--run", at)
        _, sampling = gensys("sample", at, *DRAWN.get(name, []), "--seeds", f"0:{SAMPLES}")
        scored, _ = gensys("evaluate", at)
        shown = {k: "codec" if v == "LATENTS" else v for k, v in knobs.items()}
        row = {
            "name": name,
            "recipe": recipe,
            "paper": recipes()[recipe].paper,
            "knobs": shown,
            "training": round(training, 1),
            "sampling": round(sampling, 1),
            "metrics": scored["metrics"],
            "date": str(date.today()),
        }
        file = folder / "systems.json"
        rows = json.loads(file.read_text()) if file.exists() else []
        file.write_text(json.dumps([*(r for r in rows if r["name"] != name), row], indent=1))
        click.echo(f"{name}: {_scores(row)}")


def _scores(row: dict[str, Any]) -> str:
    fd = next(m for key, m in row["metrics"].items() if key.startswith("fd_"))
    agreement = row["metrics"].get("label_agreement")
    ratio = f"{fd['value'] / fd['floor']:.2f}"
    return f"{ratio} | {'' if agreement is None else format(agreement['value'], '.3f')}"


@cli.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
def write(file: Path) -> None:
    """Put the rows of FILE into the table of the README; those that FILE lacks stay as they are."""
    rows = {row["name"]: row for row in json.loads(file.read_text())}
    before = part(HERE.parent / "README.md", "systems", "systems.py")
    written = {line.split("`")[1]: line for line in before.splitlines() if line.startswith("| `")}
    lines = [
        "| system | paper | knobs that are set | fd / real data's | label agreement | CPU s, training | sampling |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ROWS:
        if name in rows:
            row = rows[name]
            knobs = " ".join(f"`{k}={v}`" for k, v in row["knobs"].items())
            cells = [f"`{row['name']}`", row["paper"], knobs, _scores(row)]
            cells += [f"{row['training']:.0f}", f"{row['sampling']:.0f}"]
            lines.append("| " + " | ".join(cells) + " |")
        elif name in written:
            lines.append(written[name])
    dates = sorted({row["date"] for row in rows.values()} | set(re.findall(r"\b\d{4}-\d\d-\d\d\b", before)))
    taken = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    lines += [
        "",
        f"MNIST (5,000 digits), {SAMPLES:,} samples of the averaged weights, {taken}, one thread. fd: Frechet distance",
        "in the features of a LeNet, over that of other real images (1 = real). Agreement: how often a classifier sees",
        "the label that was asked for.",
    ]
    put(HERE.parent / "README.md", "systems", "systems.py", lines)


if __name__ == "__main__":
    cli()
