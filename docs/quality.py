"""Samples of gensys beside those of other libraries, trained on the same images for as long: docs/quality.md.

    python docs/quality.py run FOLDER [NAME ...] [--data fashion] [--seeds 3] [--seconds 120] [--lr 3e-3]
    python docs/quality.py write

Every cell is a process of its own, on one thread, and ends as a line of docs/quality.jsonl; what is there is not
measured again. Runs and pictures are left in FOLDER. gensys goes through its command line, as a user would have it.
The others (peers.py) train in one loop: AdamW, batches drawn with replacement, gradients cut at norm 1, a learning rate
that falls to 0 over the last half, which needs no average of the weights; --lr tries another peak rate. All are judged
by one classifier, in its features, as `gensys evaluate` does it, against the same real images. Who is not installed is
left out.
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
from page import gensys, put
from peers import CODEC_SHARE, DDIM_STEPS, PEERS, Done, Task, size

from gensys.bench.machine import machine
from gensys.data.sources import Source, open_source
from gensys.data.store import Store
from gensys.engine.checkpoint import newest, read_state
from gensys.evaluate.distribution import whole_sets
from gensys.evaluate.metrics import evaluate_samples
from gensys.pictures import grid, save_png, to_uint8
from gensys.run_folder import RunFolder

HERE = Path(__file__).parent
MEASURED = HERE / "quality.jsonl"
SAMPLES, HELD = 1000, 256  # samples of each; held-out images whose likelihood is taken
_SETS = 4  # of real images: as many as `gensys evaluate` takes of 1,000
DDIM = ["solver=ddim", "grid=trailing", f"steps={DDIM_STEPS}"]


@dataclass(frozen=True)
class Ours:
    """A recipe of gensys. codec: the recipe whose latents it models, "" = none. drawn: knobs of sampling. bits: whether
    the likelihood is taken. of: the name of another, which is trained alike and before, and only drawn from here."""

    recipe: str
    knobs: dict[str, str]
    codec: str = ""
    drawn: tuple[str, ...] = ()
    bits: bool = False
    of: str = ""


GUIDED = ("guidance=1.5", "guide_from=0.8", "guide_to=0.1")
OURS = {
    "latent_dit": Ours("latent_dit", {"guidance": "1"}, "kl_autoencoder"),
    "latent_dit_guided": Ours("latent_dit", {}, drawn=GUIDED, of="latent_dit"),
    "flow_matching": Ours("flow_matching", {}),
    "flow_matching_guided": Ours("flow_matching", {}, drawn=GUIDED, of="flow_matching"),
    "ddpm": Ours("ddpm", {"schedule": "cosine"}, drawn=tuple(DDIM)),
    "latent_diffusion": Ours("latent_diffusion", {"guidance": "1"}, "kl_autoencoder"),
    "glow": Ours("glow", {}, bits=True),
    "vae": Ours("vae", {}, bits=True),
    "vae_bernoulli": Ours("vae", {"observation": "bernoulli", "prior": "normal"}),  # both as the peer has them
    "vq_prior": Ours("vq_prior", {"guidance": "1"}, "vq_vae"),
}
# Family -> (what of gensys, the peers), in the order of the page.
FAMILIES = {
    "flow matching": (("latent_dit", "flow_matching"), "torchcfm"),
    "diffusion": (("latent_diffusion", "ddpm"), "diffusers"),
    "flows": (("glow",), "normflows"),
    "autoencoders": (("vae", "vae_bernoulli"), "pythae_vae"),
    "codes": (("vq_prior",), "pythae_vq"),
    "guided": (("latent_dit_guided", "flow_matching_guided"), ""),
}
# What is done first tells most.
ORDER = ("latent_dit", "flow_matching", "torchcfm", "latent_diffusion", "ddpm", "diffusers", "vae", "vae_bernoulli")
ORDER += ("pythae_vae", "vq_prior", "pythae_vq", "glow", "normflows", "latent_dit_guided", "flow_matching_guided")
REAL = "real data"  # scored as if they were samples: of each set of other training rows a cell, its seed is which
Row = dict[str, Any]


def draw_ours(ours: Ours, trained: Path, place: Path, real: Real, source: Source) -> Done:
    """Sample the run `trained` into `place`, as a user would, and read the samples."""
    gensys("sample", str(trained), *ours.drawn, "--seeds", f"0:{SAMPLES}", "--out", str(place / "samples.zarr"))
    folder, store = RunFolder(trained), Store.open(place / "samples.zarr")
    at = newest(trained / "checkpoints")
    assert at is not None  # it has been sampled
    model = folder.model(folder.spec(), store.attributes["weights"])
    bits = bits_of(model, source, real.test[:HELD])["bits_per_dim"].value if ours.bits else None
    labels = torch.from_numpy(store.read("label", np.arange(SAMPLES)))
    samples = images_of(store.read("x", np.arange(SAMPLES)))
    return Done(samples, labels if bool((labels >= 0).all()) else None, bits, read_state(at).images, size(model))


def train_ours(ours: Ours, data: str, seconds: float, seed: int, place: Path) -> Path:
    """Train in `place`, as a user would: the run."""

    def trained(recipe: str, data: str, seconds: float, run: Path, *knobs: str) -> None:
        gensys("train", recipe, f"data={data}", f"budget=cpu:{seconds}s", f"seed={seed}", *knobs, "--run", str(run))

    run, codec = place / "run", place / "codec"
    if ours.codec:
        trained(ours.codec, data, seconds * CODEC_SHARE, codec)
        gensys("encode", str(codec), "--out", str(place / "latents.zarr"))
        data, seconds = str(place / "latents.zarr"), seconds * (1 - CODEC_SHARE)
    trained(ours.recipe, data, seconds, run, *(f"{k}={v}" for k, v in ours.knobs.items()))
    return run


@click.group()
def cli() -> None:
    """Measure, and write the tables."""


_FOLDER = click.argument("folder", type=click.Path(path_type=Path))


def measured() -> list[Row]:
    """The cells that there are."""
    return [json.loads(line) for line in MEASURED.read_text().splitlines()] if MEASURED.exists() else []


@cli.command()
@_FOLDER
@click.argument("names", nargs=-1, type=click.Choice(ORDER))
@click.option("--data", default="mnist", help="What `open_source` opens: mnist, fashion.")
@click.option("--seeds", default=3, help="0, 1, ... are trained; all names of one seed before those of the next.")
@click.option("--seconds", default=120.0, help="Of the processor, to train for.")
@click.option("--lr", type=float, help="Another peak rate of peers than their own here.")
def run(folder: Path, names: tuple[str, ...], data: str, seeds: int, seconds: float, lr: float | None) -> None:
    """Train, sample and score what is missing, a process for each."""
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    cells = [(REAL, k, 0.0) for k in range(_SETS)]
    cells += [(name, seed, seconds) for seed in range(seeds) for name in names or ORDER]
    for name, seed, budget in cells:
        peer = PEERS.get(name)
        rate = (lr or peer.lr) if peer else None
        if any(_key(row) == (data, budget, name, rate, seed) for row in measured()):
            continue
        if peer and importlib.util.find_spec(peer.package) is None:
            click.echo(f"{name}: left out, {peer.package} is not installed")
            continue
        command = [sys.executable, __file__, "cell", str(folder), name, data, str(seed), str(budget)]
        if subprocess.run([*command, str(rate or 0.0)], env=environ, check=False).returncode:
            click.echo(f"{name}, seed {seed}: failed")  # the others are worth having; the next call tries again


@cli.command(hidden=True)
@_FOLDER
@click.argument("name")
@click.argument("data")
@click.argument("seed", type=int)
@click.argument("seconds", type=float)
@click.argument("lr", type=float)
def cell(folder: Path, name: str, data: str, seed: int, seconds: float, lr: float) -> None:
    """One training, and what comes of it."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    source = open_source(data)
    judged, real = judge_of(source, folder / data / "judge"), Real.choose(source, SAMPLES)
    place = folder / data / f"{seconds:g}" / name
    peer = PEERS.get(name)
    assert real.floor is not None  # these data sets are large enough
    if name == REAL:
        done = Done(images(source, whole_sets(real.floor, SAMPLES)[seed])[0], None, None, 0, 0)
    elif peer is not None:
        wanted = torch.arange(SAMPLES) % len(source.classes)
        held = images(source, real.test[:HELD])[0]
        done = peer.train(Task(*images(source, real.train), wanted, held, len(source.classes), seconds, seed, lr))
    else:
        ours, own = OURS[name], place / str(seed)
        shutil.rmtree(own, ignore_errors=True)  # of a cell that was broken off
        again = place.parent / ours.of / str(seed) / "run"
        trained = again if ours.of else train_ours(ours, data, seconds, seed, own)
        done = draw_ours(ours, trained, own, real, source)
    reference = images(source, real.reference)[0]
    metrics = evaluate_samples(done.samples, done.labels, reference, None, None, judged.classifier)
    row: Row = {
        "data": data,
        "seconds": seconds,
        "name": name,
        "lr": lr if peer else None,
        "seed": seed,
        "metrics": {key: metric.value for key, metric in metrics.items()},
        "bits": done.bits,
        "rows": done.rows,
        "parameters": done.parameters,
        "note": done.note,
        "date": str(date.today()),
        "about": source.about,
        "machine": f"{machine()['cpu']}, torch {machine()['torch']}",
        "version": importlib.metadata.version(peer.package) if peer else "",
    }
    place.mkdir(parents=True, exist_ok=True)
    save_png(grid(to_uint8(done.samples[:40]), columns=10, scale=1), place / f"{seed}.png")
    with MEASURED.open("a") as file:
        file.write(json.dumps(row) + "\n")
    click.echo(f"{name}, seed {seed}: {_distance(row):.3f}")


def _key(row: Row) -> tuple[str, float, str, float | None, int]:
    return row["data"], row["seconds"], row["name"], row["lr"], row["seed"]


def _distance(row: Row) -> float:
    return next(value for key, value in row["metrics"].items() if key.startswith("fd_"))


def _rated() -> list[Row]:
    """The cells that there are, with "ratio", their distance over what real images have on average."""
    known = sorted(measured(), key=lambda row: row["seed"])
    real: dict[str, list[float]] = {}
    for row in known:
        if row["name"] == REAL:
            real.setdefault(row["data"], []).append(_distance(row))
    return [row | {"ratio": _distance(row) / statistics.fmean(real[row["data"]])} for row in known]


def _mean_ratio(rows: list[Row]) -> float:
    return statistics.fmean(row["ratio"] for row in rows)


def _mean(values: list[float], digits: int = 3) -> str:
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}g}{spread}"


@cli.command()
def write() -> None:
    """Put the tables into docs/quality.md."""
    known = _rated()
    if not known:
        raise click.ClickException(f"{MEASURED.name} holds no cells: `python docs/quality.py run FOLDER`")
    lines: list[str] = []
    for data, seconds in sorted({(row["data"], row["seconds"]) for row in known if row["name"] != REAL}, reverse=True):
        rows = [row for row in known if row["data"] == data and (row["name"] == REAL or row["seconds"] == seconds)]
        lines += _table(data, seconds, rows)
    dates = sorted({row["date"] for row in known})
    machines = ", ".join(sorted({row["machine"] for row in known}))
    taken = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    lines.append(f"{taken}, one thread of {machines}, {SAMPLES:,} samples, `python docs/quality.py run`.")
    put(HERE / "quality.md", "tables", "quality.py", lines)


def _table(data: str, seconds: float, rows: list[Row]) -> list[str]:
    """What was measured on these data for so long."""
    cells: dict[str, list[Row]] = {}
    others: dict[str, list[Row]] = {}  # of peers at other rates
    for row in rows:
        peer = PEERS.get(row["name"])
        chosen = peer is None or row["lr"] == peer.lr
        (cells if chosen else others).setdefault(row["name"], []).append(row)
    lines = [f"### {data}, {seconds:g} s", "", rows[0]["about"], ""]
    lines += [f"| family | model | {' | '.join(COLUMNS)} | seeds |", f"|{'---|' * (len(COLUMNS) + 3)}"]
    verdicts = []
    for family, (names, peer) in FAMILIES.items():
        for name in (*names, peer):
            if name in cells:
                shown = f"*{name}* {cells[name][0]['version']}" if name == peer else f"`{name}`"
                lines.append(f"| {family} | {shown} | {' | '.join(_cells(cells[name]))} | {len(cells[name])} |")
        verdicts += _verdicts(family, cells, names, peer)
    real = cells.pop(REAL)
    lines.append(f"| {REAL} | other training rows | {' | '.join(_cells(real))} | {len(real)} sets |")
    guided = FAMILIES["guided"][0]
    for which, told in ((False, "best of all"), (True, "best of the guided")):
        if among := [name for name in cells if (name in guided) is which]:
            verdicts.append(f"- {told}: {min(among, key=lambda name: _mean_ratio(cells[name]))}.")
    for name, tried in others.items():
        found = [f"{row['lr']:g} (seed {row['seed']}): {row['ratio']:.3g}" for row in tried]
        verdicts.append(f"- {name} at other rates: {', '.join(found)}; the table has {PEERS[name].lr:g}.")
    missing = [f"`{name}`" for name in ORDER if name not in cells]
    verdicts += [f"- not measured: {', '.join(missing)}."] if missing else []
    return [*lines, "", *verdicts, *_notes(cells), ""]


def _notes(cells: dict[str, list[Row]]) -> list[str]:
    """What was noted of the cells of the table, each note once."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for name, rows in cells.items():
        for row in rows:
            if row["note"]:
                seeds.setdefault((name, row["note"]), []).append(str(row["seed"]))
    return [
        f"- {name}: {note} (seed{'s' if len(some) > 1 else ''} {', '.join(some)})."
        for (name, note), some in seeds.items()
    ]


COLUMNS = ("fd / real data's", "precision", "recall", "density", "coverage", "agreement", "bits", "rows", "parameters")


def _cells(rows: list[Row]) -> list[str]:
    def of(key: str) -> str:
        values = [row["metrics"][key] for row in rows if key in row["metrics"]]
        return f"{statistics.fmean(values):.3f}" if values else ""

    bits = [row["bits"] for row in rows if row["bits"] is not None]
    metrics = [of(key) for key in ("precision", "recall", "density", "coverage", "label_agreement")]
    seen, size = (statistics.fmean(row[name] for row in rows) for name in ("rows", "parameters"))
    ratio = _mean([row["ratio"] for row in rows])
    return [
        ratio,
        *metrics,
        _mean(bits, 4) if bits else "",
        *(f"{count:,.0f}" if count else "" for count in (seen, size)),
    ]


def _verdicts(family: str, cells: dict[str, list[Row]], names: tuple[str, ...], peer: str) -> list[str]:
    """Which of ours are ahead of the peer of their family and which behind, by the mean ratio of distances, and by bits
    where both have some."""
    verdicts = []
    for measure, by in (("ratio", "fd"), ("bits", "bits")):
        means = {
            name: statistics.fmean(row[measure] for row in cells[name])
            for name in (*names, peer)
            if name in cells and cells[name][0][measure] is not None
        }
        theirs = means.pop(peer, None)
        if theirs is None or not means:
            continue
        ahead = [f"`{name}`" for name, ours in means.items() if ours <= theirs]
        behind = [f"**`{name}`**" for name, ours in means.items() if ours > theirs]
        parts = [
            f"{word} {peer}: {', '.join(some)}" for word, some in (("ahead of", ahead), ("behind", behind)) if some
        ]
        verdicts.append(f"- {family}, by {by}: {'; '.join(parts)}.")
    return verdicts


if __name__ == "__main__":
    cli()
