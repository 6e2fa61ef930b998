"""Samples of gensys beside those of other libraries, trained on the same images for as long: docs/quality.md.

    python docs/quality.py run FOLDER [NAME ...] [--data fashion] [--seeds 2] [--seconds 120]
    python docs/quality.py write FOLDER

Every cell is a process of its own, on one thread, and leaves FOLDER/DATA/SECONDS/NAME/SEED.json; what is there is not
measured again. gensys goes through its command line, as a user would have it. The others (peers.py) train in one loop:
AdamW, batches drawn with replacement, gradients cut at norm 1, a learning rate that falls to 0 over the last half,
which needs no average of the weights. All are judged by one classifier, in its features, as `gensys evaluate` does it,
against the same real images. Who is not installed is left out.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from gensys.pipelines.bits import bits_of
from gensys.pipelines.moments import images_of
from gensys.pipelines.real import Real, images, judge_of
from page import put
from peers import DDIM_STEPS, PEERS, Done, Task, size

from gensys.bench.machine import machine
from gensys.data.sources import Source, open_source
from gensys.data.store import Store
from gensys.engine.checkpoint import newest, read_state
from gensys.evaluate.metrics import evaluate_samples
from gensys.pictures import grid, save_png, to_uint8
from gensys.run_folder import RunFolder

HERE = Path(__file__).parent
SAMPLES, HELD = 1000, 256  # samples of each; held-out images whose likelihood is taken
CODEC_SHARE = 1 / 3  # of the time, as `gensys compare` has it
DDIM = ["solver=ddim", "grid=trailing", f"steps={DDIM_STEPS}"]


@dataclass(frozen=True)
class Ours:
    """A recipe of gensys. codec: the recipe whose latents it models, "" = none. drawn: knobs of sampling. bits: whether
    the likelihood is taken."""

    recipe: str
    knobs: dict[str, str]
    codec: str = ""
    drawn: tuple[str, ...] = ()
    bits: bool = False


OURS = {
    "latent_dit": Ours("latent_dit", {"guidance": "1"}, "kl_autoencoder"),
    "flow_matching": Ours("flow_matching", {}),
    "ddpm": Ours("ddpm", {"schedule": "cosine"}, drawn=tuple(DDIM)),
    "latent_diffusion": Ours("latent_diffusion", {"guidance": "1"}, "kl_autoencoder"),
    "glow": Ours("glow", {}, bits=True),
    "vae": Ours("vae", {}, bits=True),
    "vq_prior": Ours("vq_prior", {"guidance": "1"}, "vq_vae"),
}
# Family -> (what of gensys, the peers), in the order of the page.
FAMILIES = {
    "flow matching": (("latent_dit", "flow_matching"), "torchcfm"),
    "diffusion": (("latent_diffusion", "ddpm"), "diffusers"),
    "flows": (("glow",), "normflows"),
    "autoencoders": (("vae", "vq_prior"), "pythae"),
}
# What is done first tells most.
ORDER = ("latent_dit", "flow_matching", "torchcfm", "ddpm", "diffusers", "vae", "pythae", "vq_prior", "glow")
ORDER += ("normflows", "latent_diffusion")


def gensys(*words: str) -> dict[str, Any]:
    """A command's answer."""
    command = [sys.executable, "-m", "gensys", *words, "--workers", "0", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"`gensys {' '.join(words)}` failed: {done.stdout[-2000:]}")
    return json.loads(done.stdout)


def train_ours(ours: Ours, data: str, seconds: float, seed: int, place: Path, real: Real, source: Source) -> Done:
    """Train in `place`, as a user would, and read the samples."""

    def trained(recipe: str, data: str, seconds: float, run: Path, *knobs: str) -> None:
        gensys("train", recipe, f"data={data}", f"budget=cpu:{seconds}s", f"seed={seed}", *knobs, "--run", str(run))

    run, codec = place / "run", place / "codec"
    if ours.codec:
        trained(ours.codec, data, seconds * CODEC_SHARE, codec)
        gensys("encode", str(codec), "--out", str(place / "latents.zarr"))
        data, seconds = str(place / "latents.zarr"), seconds * (1 - CODEC_SHARE)
    trained(ours.recipe, data, seconds, run, *(f"{k}={v}" for k, v in ours.knobs.items()))
    gensys("sample", str(run), *ours.drawn, "--seeds", f"0:{SAMPLES}", "--out", str(place / "samples.zarr"))
    folder, store = RunFolder(run), Store.open(place / "samples.zarr")
    at = newest(run / "checkpoints")
    assert at is not None  # it has been sampled
    model = folder.model(folder.spec(), store.attributes["weights"])
    bits = bits_of(model, source, real.test[:HELD])["bits_per_dim"].value if ours.bits else None
    labels = torch.from_numpy(store.read("label", np.arange(SAMPLES)))
    samples = images_of(store.read("x", np.arange(SAMPLES)))
    return Done(samples, labels if bool((labels >= 0).all()) else None, bits, read_state(at).images, size(model))


@click.group()
def cli() -> None:
    """Measure, and write the tables."""


_FOLDER = click.argument("folder", type=click.Path(path_type=Path))


@cli.command()
@_FOLDER
@click.argument("names", nargs=-1, type=click.Choice(ORDER))
@click.option("--data", default="mnist", help="What `open_source` opens: mnist, fashion.")
@click.option("--seeds", default=2, help="0, 1, ... are trained; all names of one seed before those of the next.")
@click.option("--seconds", default=120.0, help="Of the processor, to train for.")
def run(folder: Path, names: tuple[str, ...], data: str, seeds: int, seconds: float) -> None:
    """Train, sample and score what is missing, a process for each."""
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    for seed in range(seeds):
        for name in names or ORDER:
            file = folder / data / f"{seconds:g}" / name / f"{seed}.json"
            if file.exists():
                continue
            if name in PEERS and importlib.util.find_spec(name) is None:
                click.echo(f"{name}: left out, not installed")
                continue
            command = [sys.executable, __file__, "cell", str(folder), name, data, str(seed), str(seconds)]
            if subprocess.run(command, env=environ, check=False).returncode:
                click.echo(f"{name}, seed {seed}: failed")  # the others are worth having; the next call tries again


@cli.command(hidden=True)
@_FOLDER
@click.argument("name")
@click.argument("data")
@click.argument("seed", type=int)
@click.argument("seconds", type=float)
def cell(folder: Path, name: str, data: str, seed: int, seconds: float) -> None:
    """One training, and what comes of it."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    source = open_source(data)
    judged, real = judge_of(source, folder / data / "judge"), Real.choose(source, SAMPLES)
    place = folder / data / f"{seconds:g}" / name
    if name in PEERS:
        wanted = torch.arange(SAMPLES) % len(source.classes)
        held = images(source, real.test[:HELD])[0]
        done = PEERS[name](Task(*images(source, real.train), wanted, held, len(source.classes), seconds, seed))
    else:
        shutil.rmtree(place / str(seed), ignore_errors=True)  # of a cell that was broken off
        done = train_ours(OURS[name], data, seconds, seed, place / str(seed), real, source)
    assert real.floor is not None  # these data sets are large enough
    reference, floor = images(source, real.reference)[0], images(source, real.floor)[0]
    metrics = evaluate_samples(
        done.samples, done.labels, reference, floor, None, judged.classifier, accuracy=judged.accuracy
    )
    row = {
        "metrics": {key: {"value": metric.value, "floor": metric.floor} for key, metric in metrics.items()},
        "bits": done.bits,
        "rows": done.rows,
        "parameters": done.parameters,
        "note": done.note,
        "date": str(date.today()),
        "about": source.about,
        "machine": f"{machine()['cpu']}, torch {machine()['torch']}",
        "version": importlib.metadata.version(name) if name in PEERS else "",
    }
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{seed}.json").write_text(json.dumps(row, indent=1))
    save_png(grid(to_uint8(done.samples[:40]), columns=10, scale=1), place / f"{seed}.png")
    click.echo(f"{name}, seed {seed}: {_ratio(row):.2f}")


def _ratio(row: dict[str, Any]) -> float:
    """The Frechet distance over that of as many other real images."""
    fd = next(metric for key, metric in row["metrics"].items() if key.startswith("fd_"))
    return fd["value"] / fd["floor"]


def _mean(values: list[float], digits: int = 3) -> str:
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}g}{spread}"


@cli.command()
@_FOLDER
def write(folder: Path) -> None:
    """Put the tables into docs/quality.md."""
    lines: list[str] = []
    known: list[dict[str, Any]] = []
    for data, seconds in sorted({file.parts[-4:-2] for file in folder.glob("*/*/*/[0-9]*.json")}, reverse=True):
        place = folder / data / seconds
        cells = {
            name: [json.loads(file.read_text()) for file in sorted((place / name).glob("[0-9]*.json"))]
            for name in ORDER
            if (place / name).is_dir()
        }
        cells = {name: rows for name, rows in cells.items() if rows}
        known += [row for rows in cells.values() for row in rows]
        about = next(iter(cells.values()))[0]["about"]
        lines += [f"### {data}, {seconds} s", "", f"{about}", ""]
        lines += [f"| family | model | {' | '.join(COLUMNS)} | seeds |", f"|{'---|' * (len(COLUMNS) + 3)}"]
        verdicts = []
        for family, (names, peer) in FAMILIES.items():
            for name in (*names, peer):
                if name in cells:
                    shown = f"*{name}* {cells[name][0]['version']}" if name == peer else f"`{name}`"
                    lines.append(f"| {family} | {shown} | {' | '.join(_cells(cells[name]))} | {len(cells[name])} |")
            verdicts += _verdicts(family, cells, names, peer)
        missing = [f"`{name}`" for name in ORDER if name not in cells]
        verdicts += [f"- not measured yet: {', '.join(missing)}."] if missing else []
        notes = [f"- {name}: {row['note']}." for name, rows in cells.items() for row in rows if row.get("note")]
        lines += ["", *verdicts, *notes, ""]
    if not known:
        raise click.ClickException(f"{str(folder)!r} holds no cells: `python docs/quality.py run {folder}`")
    dates = sorted({row["date"] for row in known})
    machines = ", ".join(sorted({row["machine"] for row in known}))
    taken = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    lines.append(f"{taken}, one thread of {machines}, {SAMPLES:,} samples, `python docs/quality.py run`.")
    put(HERE / "quality.md", "tables", "quality.py", lines)


COLUMNS = ("fd / real data's", "precision", "recall", "density", "coverage", "agreement", "bits", "rows", "parameters")


def _cells(rows: list[dict[str, Any]]) -> list[str]:
    def of(key: str) -> str:
        values = [row["metrics"][key]["value"] for row in rows if key in row["metrics"]]
        return f"{statistics.fmean(values):.3f}" if values else ""

    bits = [row["bits"] for row in rows if row["bits"] is not None]
    metrics = [of(key) for key in ("precision", "recall", "density", "coverage", "label_agreement")]
    seen = f"{statistics.fmean(row['rows'] for row in rows):,.0f}"
    ratio = _mean([_ratio(row) for row in rows])
    return [ratio, *metrics, _mean(bits, 4) if bits else "", seen, f"{rows[0]['parameters']:,}"]


def _verdicts(family: str, cells: dict[str, list[dict[str, Any]]], names: tuple[str, ...], peer: str) -> list[str]:
    """Which of ours are ahead of the peer of their family and which behind, by the mean ratio of distances."""
    ours = {name: statistics.fmean(map(_ratio, cells[name])) for name in names if name in cells}
    if peer not in cells or not ours:
        return []
    theirs = statistics.fmean(map(_ratio, cells[peer]))
    ahead = [f"`{name}`" for name, ratio in ours.items() if ratio <= theirs]
    behind = [f"**`{name}`**" for name, ratio in ours.items() if ratio > theirs]
    parts = [f"{word} {peer}: {', '.join(some)}" for word, some in (("ahead of", ahead), ("behind", behind)) if some]
    return [f"- {family}: {'; '.join(parts)}."]


if __name__ == "__main__":
    cli()
