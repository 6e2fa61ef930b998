"""Write the report of a run: gather what the folder holds, and fill the template."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gensys.report.animation import columns_for
from gensys.report.card import data_card, data_of
from gensys.report.cost import costs, stages
from gensys.report.figures import Picture, frames, picture, sheet, spread
from gensys.report.latent_map import Map, drawn, read_map
from gensys.report.neighbours import read_neighbours
from gensys.report.plots import curves, interval
from gensys.report.reading import Contents, Gap, Samples, Training, left_out, number, read
from gensys.report.recipe import Places, commands, timed_budget, train
from gensys.report.scores import compact, duration, facts, figures, scores
from gensys.report.table_columns import table_columns
from gensys.report.templates import markup, rendered
from gensys.report.tradeoff import read_tradeoff
from gensys.run import recipes

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["publish", "write_report"]

_STRIP = 6  # pictures of the progress
_STILLS = 8  # of the animation
_NO_CURVE = {"step", "images", "seconds", "workers", "restarts", "peak_bytes"}


def write_report(folder: Path, out: Path | None = None, *, refresh: int = 0) -> Path:
    """Write folder/report.html, or `out`, one file that needs nothing else, and return its path.

    refresh: after how many seconds a browser is to load the page anew, for one who watches; 0 = never.

    Reads, each if it is there: run.json (needed), env.json, metrics.jsonl, samples/*.png, samples.zarr, trajectory.png,
    reconstructions.png, evaluation.json, stages.json, and the codec's run in folder/codec or where the latents name it.
    The same files give the same page, but for the date at its foot. Raises RunError if `folder` is no run.
    """
    return publish(_page(read(folder), refresh), out or folder / "report.html")


def publish(text: str, out: Path) -> Path:
    """Write a page, whole or not at all: a browser may be reading the last one."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.part")
    part.write_text(text, encoding="utf-8")
    return part.replace(out)


def _sentence(recipe: str) -> str:
    """What the help of a built-in recipe begins with."""
    entry = recipes().get(recipe)
    return "" if entry is None else entry.help.replace("`", "")


def _page(found: Contents, refresh: int) -> str:
    places, run = Places(found), found.run
    reconstructions = _reconstructions(found)  # pictures first: a damaged one is a gap, told at the end
    strip, animation = _strip(found), _animation(found)
    codec = found.codec
    seconds, bars = stages(found)
    metrics = {} if found.evaluation is None else found.evaluation["metrics"]
    rows, columns = scores(metrics), table_columns(found)
    environment = [fact for name, value in found.environment.items() for fact in facts({name: value})]
    return rendered(
        "report.html.j2",
        refresh=refresh,
        name=run.path.resolve().name,
        recipe=Path(places(run.document.get("recipe", "unknown recipe"))).name,
        sentence=_sentence(str(run.document.get("recipe"))),
        data=_data(found, places),
        state=_state(run),
        figures=figures(metrics, seconds, bool(bars)),
        grid=None if found.samples is None else _grid(found.samples),
        animation=animation,
        reconstructions=reconstructions,
        strip=strip,
        is_codec=run.is_codec,
        trainings=[_curves(t, title) for t, title in ((codec, "Codec"), (run, "Model")) if t is not None and t.log],
        scores=[(row, None if row.plot is None else markup(interval(*row.plot))) for row in rows],
        protocol=[] if found.evaluation is None else list(facts(_shown(found.evaluation.get("protocol"), places))),
        scoring=None if found.evaluation is None else number(found.evaluation.get("seconds")),
        doubts=found.doubts,
        left_out=left_out(found.evaluation),
        columns=columns,
        things="rows" if columns else "images",
        map=_map(found),
        neighbours=read_neighbours(run.path),
        tradeoff=read_tradeoff(found),
        card=data_card(found, places),
        costs=costs(found),
        stages=bars,
        total=None if seconds is None else duration(seconds),
        environment=environment,
        knobs=[(title, _knobs(t, places)) for t, title in ((codec, "Codec"), (run, "Model")) if t is not None],
        commands=commands(found, places),
        timed=[
            (places(t.path.resolve()), t.images) for t in (codec, run) if t is not None and timed_budget(t) and t.images
        ],
        gaps=[
            Gap(g.what, places(g.why), g.remedy or train(run, places(run.path.resolve()), places)) for g in found.gaps
        ],
    )


def _shown(value: Any, places: Places) -> Any:
    """JSON with the folders in its texts renamed."""
    if isinstance(value, dict):
        return {name: _shown(v, places) for name, v in value.items()}
    if isinstance(value, list):
        return [_shown(v, places) for v in value]
    return places(value) if isinstance(value, str) else value


def _data(found: Contents, places: Places) -> str:
    """What it was trained on, in the words of the source; a model of latents is told by its codec's images."""
    data = data_of(found.codec or found.run)
    about = str(data.get("about", ""))
    rows = number(found.run.document.get("train_rows"))
    trained = "" if rows is None else f"Trained on {rows:,.0f} of "
    quarantined = data.get("quarantined")
    damaged = f"; {len(quarantined):,} rows that cannot be read are left out" if isinstance(quarantined, list) else ""
    return f"{trained}{places(about)}{damaged}" if about else ""


def _state(run: Training) -> str:
    """A sentence, where the training is not at its end."""
    if not run.state:
        seen = "" if run.images is None else f" {run.images:,} rows were seen so far."
        return f"No checkpoint has been saved yet.{seen}"
    step = compact(run.state.get("step"))
    return "" if run.state.get("finished", True) else f"Training is not finished: this is its state at step {step}."


def _knobs(training: Training, places: Places) -> list[tuple[str, str]]:
    knobs = training.document.get("knobs")
    return [
        (str(k), places(v if isinstance(v, str) else compact(v, 6)))
        for k, v in (knobs.items() if isinstance(knobs, dict) else ())
    ]


# ------------------------------------------------------------------------------------------------------------- pictures


def _map(found: Contents) -> tuple[Map, Markup] | None:
    there = read_map(found.run.path)
    return None if there is None else (there, markup(drawn(there)))


@dataclass(frozen=True)
class _Sheet:
    """The grid of samples. heads: a class for every column, if the columns have one."""

    picture: Picture
    columns: int
    heads: list[str]
    caption: str


def _grid(samples: Samples) -> _Sheet:
    columns = columns_for(len(samples.classes))
    count = len(samples.x) // columns * columns or len(samples.x)  # whole rows, if there is one
    columns = min(columns, count)
    labels = samples.labels[:count]
    names = [samples.classes[k] if 0 <= k < len(samples.classes) else "" for k in labels]
    cycling = all(name == names[k % columns] for k, name in enumerate(names)) and len(set(names)) > 1
    if cycling:
        how = "Each column was asked for the class above it."
    elif len(set(names)) == 1 and names[0]:
        how = f"All were asked for the class {names[0]}."
    elif any(names):
        how = f"Asked for, row by row: {', '.join(names)}."
    else:
        how = "Drawn without labels."
    which = f"The first {count} of {samples.total:,} samples" if samples.total > count else f"All {count} samples"
    caption = f"{which}, not selected. {how}"
    return _Sheet(sheet(samples.x[:count], columns), columns, names[:columns] if cycling else [], caption)


@dataclass(frozen=True)
class _Animation:
    """still: the last frame, for those who prefer no motion. frames: some of the stills."""

    moving: Picture
    still: Picture
    frames: list[Picture]


def _damaged(found: Contents, what: str, path: Path, remedy: str) -> None:
    found.gaps.append(Gap(what, f"{path.name} is no whole PNG file", remedy))


def _animation(found: Contents) -> _Animation | None:
    path = found.trajectory
    if path is None:
        return None
    moving, stills = picture(path), frames(path, _STILLS)
    if moving is None or not stills:
        run = f"runs/{path.parent.resolve().name}"
        remedy = f"rm {shlex.quote(f'{run}/{path.name}')} && gensys report {shlex.quote(run)}"
        _damaged(found, "the animation of sampling", path, remedy)
        return None
    return _Animation(moving, stills[-1], stills if len(stills) > 1 else [])


def _reconstructions(found: Contents) -> tuple[Picture, str] | None:
    """Originals above their reconstructions, and what they are."""
    if found.reconstructions is not None:
        shown = picture(found.reconstructions)
        if shown is not None:
            return shown, "Images that training never saw, above what the codec makes of them."
        _damaged(
            found,
            "held-out reconstructions",
            found.reconstructions,
            f"gensys evaluate {shlex.quote(f'runs/{found.run.path.resolve().name}')}",
        )
    codec = found.run if found.run.is_codec else found.codec
    if codec is None or not codec.previews:
        return None
    step = max(codec.previews)
    shown = picture(codec.previews[step])
    return (
        None
        if shown is None
        else (shown, f"Images of the training set, above what the codec made of them at step {step:,}.")
    )


def _strip(found: Contents) -> list[tuple[str, Picture]]:
    """(step, picture) of some previews: the first, the last, and what lies evenly between."""
    previews = found.run.previews
    shown = [(f"{step:,}", picture(previews[step])) for step in spread(sorted(previews), _STRIP)]
    return [(step, image) for step, image in shown if image is not None]


# --------------------------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class _Curve:
    name: str
    svg: Markup
    note: str


@dataclass(frozen=True)
class _Curves:
    """The curves of one training: the loss large, everything else small."""

    title: str
    recipe: str
    large: list[_Curve]
    small: list[_Curve]


def _curves(training: Training, title: str) -> _Curves:
    names = [n for n in dict.fromkeys(name for line in training.log for name in line) if n not in _NO_CURVE]
    losses = [n for n in names if n == "loss"] or names[:1]
    made = {name: _curve(training, name, large=name in losses) for name in names}
    return _Curves(
        title,
        Path(str(training.document.get("recipe", ""))).name,
        [c for n, c in made.items() if c is not None and n in losses],
        [c for n, c in made.items() if c is not None and n not in losses][:6],
    )


def _curve(training: Training, name: str, *, large: bool) -> _Curve | None:
    points = [
        (x, y)
        for line in training.log
        if (x := number(line.get("images"))) is not None and (y := number(line.get(name))) is not None
    ]
    if not points:
        return None
    first, last = compact(points[0][1], 3), compact(points[-1][1], 3)
    label = f"{name}: from {first} to {last} over {points[-1][0]:,.0f} rows"
    height, width = (220, 460) if large else (96, 230)
    svg = curves([points], label, linear=name == "lr", height=height, width=width)
    return _Curve(name.replace("_", " "), markup(svg), f"{first} → {last}")
