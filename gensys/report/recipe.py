"""How to make a run again: the command lines, from what the folder says about itself."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gensys.report.reading import Contents, Training, number

__all__ = ["Places", "commands", "timed_budget", "train"]

_WIDTH = 96


class Places:
    """Writes runs/NAME for the folder of a run, wherever it lies: a report is read on other machines than it was made
    on, and a home directory is nobody's business."""

    def __init__(self, found: Contents) -> None:
        name = found.run.path.resolve().name
        known = {str(found.run.path.resolve()): f"runs/{name}"}
        if found.drawn is not None and isinstance(recorded := found.drawn.about.get("run"), str):
            known[recorded] = f"runs/{name}"
        if found.codec is not None:
            codec = found.codec.path.resolve()
            above = f"{codec.parent.name}/" if codec.name == name else ""  # two folders of one name are not one folder
            known.setdefault(str(codec), f"runs/{above}{codec.name}")
            if codec.parent == found.run.path.resolve():
                known[str(codec)] = f"runs/{name}/{found.codec.path.name}"
        data = _knobs(found.run).get("data")
        if isinstance(data, str) and Path(data).is_absolute() and Path(data).parent.name == name:
            known.setdefault(str(Path(data).parent), f"runs/{name}")  # of a folder that was moved since
        self._known = {path: name for path, name in known.items() if Path(path).is_absolute() and path != "/"}
        innermost_first = sorted(self._known, key=len, reverse=True)
        # a whole path, or the beginning of one: /runs/demo must not be found in /runs/demo2
        self._paths = re.compile(rf"(?:{'|'.join(map(re.escape, innermost_first))})(?![\w-]|\.\w)")

    def __call__(self, text: object) -> str:
        """Any text with the folders in it renamed."""
        return self._paths.sub(lambda match: self._known[match[0]], str(text))


def _knobs(training: Training) -> dict[str, Any]:
    knobs = training.document.get("knobs")
    return knobs if isinstance(knobs, dict) else {}


def timed_budget(training: Training) -> bool:
    """Whether the run ends after a time: then it ends elsewhere at another step."""
    return str(_knobs(training).get("budget", "")).endswith(("s", "m", "h"))


def commands(found: Contents, places: Places) -> list[tuple[str, str]]:
    """(what it does, the command line) for every stage whose result is in the folder."""
    run = places(found.run.path.resolve())
    steps: list[tuple[str, str]] = []
    if found.codec is not None:
        codec, latents = (
            places(found.codec.path.resolve()),
            places(_knobs(found.run).get("data", f"{run}/latents.zarr")),
        )
        steps.append(("train the codec", train(found.codec, codec, places)))
        data = places(found.latents.get("data") or "")
        options = [f"--data {shlex.quote(data)}"] if data else []
        options += ["--mirror"] if found.latents.get("mirror") else []
        steps.append(
            ("encode the data", _line(["gensys encode", shlex.quote(codec), *options, f"--out {shlex.quote(latents)}"]))
        )
    steps.append(("train the model" if found.codec is not None else "train", train(found.run, run, places)))
    if found.drawn is not None:
        steps.append(("draw the samples", _sample(found, run)))
    if found.evaluation is not None:
        options = found.evaluation.get("options")
        words = [shlex.quote(places(word)) for word in options] if isinstance(options, list) else []
        steps.append(("score them", _line([f"gensys evaluate {shlex.quote(run)}", *words])))
    steps.append(("write this page", f"gensys report {shlex.quote(run)}"))
    return steps


def train(training: Training, folder: str, places: Places) -> str:
    """The command line that trains, or goes on with, a run."""
    recipe = places(training.document.get("recipe", "RECIPE"))
    knobs = [shlex.quote(f"{name}={_typed(places, value)}") for name, value in _knobs(training).items()]
    parts, damaged = number(training.document.get("parts")), number(training.document.get("damaged"))
    options = [f"--exact {parts:.0f}"] if parts else []
    options += [] if damaged is None else [f"--allow-damaged {damaged:g}"]
    return _line([f"gensys train {shlex.quote(recipe)}", *knobs, *options, f"--run {shlex.quote(folder)}"])


def _sample(found: Contents, run: str) -> str:
    assert found.drawn is not None
    about: Mapping[str, Any] = found.drawn.about
    first = int(number(about.get("first")) or 0)
    words = ["gensys sample", shlex.quote(run)]
    trained, used = _knobs(found.run), about.get("knobs")
    if isinstance(used, dict):
        words += [shlex.quote(f"{name}={value}") for name, value in used.items() if trained.get(name) != value]
    words += [f"--seeds {first}:{first + found.drawn.total}", f"--seed {shlex.quote(str(about.get('seed', 0)))}"]
    words += [f"--label {shlex.quote(str(about['label']))}"] if about.get("label") is not None else []
    if isinstance(images := about.get("data"), list) and images:
        words.append(f"--data {shlex.quote(str(images[0]))}")
    words += ["--table FILE"] if about.get("table") is not None else []
    words += [f"--checkpoint {found.checkpoint}"] if found.checkpoint else []
    return _line(words)


def _typed(places: Places, value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else places(value)


def _line(words: list[str]) -> str:
    """Words as a command line that is broken, as a shell reads it, where it gets long."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 3 > _WIDTH:
            lines[-1] += " \\"
            lines.append("    " + word)
        else:
            lines[-1] += " " + word
    return "\n".join(lines)
