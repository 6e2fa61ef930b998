"""What is typed after a command: recipes, places, ranges of samples, knobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from gensys.catalogue import comments, source_of
from gensys.data.where import Where, is_url
from gensys.errors import ConfigError
from gensys.run import nearest, recipes
from gensys.run_folder import RunFolder

__all__ = [
    "RUNS",
    "CrewSize",
    "NewStore",
    "Place",
    "RecipeName",
    "SeedRange",
    "StorePlace",
    "absolute",
    "complete_knob",
    "overrides",
]

RUNS = Path("runs")


class RecipeName(click.ParamType):
    """A built-in recipe, or ./file.py:function."""

    name = "recipe"

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        return "`gensys list` shows the recipes."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if "=" in value and ":" not in value:
            raise ConfigError(f"{value!r} is a knob: the recipe comes first, as in `gensys train RECIPE {value}`")
        if value.endswith(".py"):
            raise ConfigError(f"{value!r} is a file: name the function in it as well, as in {value}:FUNCTION")
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(n, help=e.help) for n, e in recipes().items() if n.startswith(incomplete)]


class Place(click.ParamType):
    """A run's folder, or its name below ./runs; or something else that exists, such as a store."""

    name = "path"

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        return "`gensys list` shows the runs in ./runs."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if is_url(value):
            return self.fail(f"{value!r} is in a bucket: this takes a path of this machine", param, ctx)
        path = Path(value).expanduser()
        if path.exists():
            return path
        if RunFolder(RUNS / path).exists:
            return RUNS / path
        names = [str(RUNS / p.name) for p in RUNS.iterdir() if p.is_dir()] if RUNS.is_dir() else []
        return self.fail(
            f"nothing is at {value!r}.{nearest(value, names) or nearest(f'runs/{value}', names)}", param, ctx
        )

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="dir")]


class StorePlace(Place):
    """The same, or the URL of a store in a bucket, which stays a text."""

    name = "path or URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if is_url(value) else super().convert(value, param, ctx)


class NewStore(click.ParamType):
    """Where a store is to be made: a path, or a URL, which stays a text."""

    name = "path or URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Where:
        return value if is_url(value) else Path(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


def complete_knob(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """knob= for the knobs of the recipe that was typed, read from its source."""
    recipe = ctx.params.get("recipe")
    if not recipe or "=" in incomplete:
        return []
    source, function = source_of(recipe)
    return [CompletionItem(f"{n}=", help=h) for n, h in comments(source, function).items() if n.startswith(incomplete)]


class CrewSize(click.ParamType):
    """N workers, or MIN:MAX, as many as there is room for: (least, most), least = 0 for a number that stays."""

    name = "workers"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "N|MIN:MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        least, colon, most = str(value).rpartition(":")
        if not most.isdecimal() or (colon and not (least.isdecimal() and 1 <= int(least) <= int(most))):
            return self.fail(f"{value!r} is neither a number of workers, as 2, nor a range, as 1:4", param, ctx)
        return int(least or 0), int(most)


class SeedRange(click.ParamType):
    """FIRST:END (END not included) or N, which is 0:N, as a range of sample numbers."""

    name = "range"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "N|FIRST:END"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> range:
        if isinstance(value, range):
            return value
        first, colon, end = str(value).partition(":")
        try:
            ids = range(int(first), int(end)) if colon else range(int(first))
        except ValueError:
            self.fail(f"{value!r} is neither a number of samples (250) nor a range of them (0:50000)", param, ctx)
        if not ids or ids.start < 0:
            self.fail(f"{value!r} holds no sample: give FIRST:END with 0 <= FIRST < END", param, ctx)
        return ids


def overrides(knobs: Sequence[str], seed: int | None = None) -> dict[str, str]:
    """knob=value texts, and --seed as the knob of that name -> {knob: value text}."""
    found: dict[str, str] = {}
    for text in [*knobs, *([] if seed is None else [f"seed={seed}"])]:
        name, equals, value = text.partition("=")
        if not equals or not name:
            _not_a_knob(text)
        if name in found:
            how = " (--seed is the knob 'seed')" if name == "seed" and seed is not None else ""
            raise ConfigError(f"knob {name!r} is given twice, as {found[name]!r} and as {value!r}{how}: give it once")
        found[name] = value
    return found


def _not_a_knob(text: str) -> NoReturn:
    if text.startswith("=") or not text:
        raise ConfigError(f"{text!r} names no knob: knobs are given as knob=value, without spaces around the =")
    raise ConfigError(
        f"{text!r} is not understood: knobs are given as knob=value, without spaces around the =, such as {text}=VALUE"
    )


def absolute(data: str) -> str:
    """A path as an absolute one, since workers may run elsewhere; a URL and the name of a data set stay as they are."""
    from gensys.doctor import DATA

    if is_url(data):
        return data
    path = Path(data).expanduser()
    return str(path.resolve()) if data and data not in DATA and (path.exists() or "{" in path.name) else data
