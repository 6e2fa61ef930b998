"""`gensys list`, `show` and `doctor`: what there is to run, and to run it on."""

from __future__ import annotations

from dataclasses import asdict

import click

from gensys.arguments import RUNS
from gensys.catalogue import describe, runs
from gensys.commands.options import recipe_argument
from gensys.run import recipes
from gensys.terminal import Answer, answering, columns, quoted

_CHOICES = 3  # words of a choice that `show` prints; --json has all


@click.command("list")
@answering
def list_() -> Answer:
    """List the built-in recipes, and the runs in ./runs."""
    known, started = recipes(), runs(RUNS)
    shown = [[name, entry.help, entry.paper] for name, entry in known.items()]
    text = f"recipes\n{columns(shown)}\n\nruns in ./{RUNS}\n"
    rows = [["name", "recipe", "step", ""]]
    rows += [[r["name"], r["recipe"], "" if r["step"] is None else f"{r['step']:,}", r["state"]] for r in started]
    told = {name: asdict(entry) for name, entry in known.items()}
    return Answer({"recipes": told, "runs": started}, text + (columns(rows) if started else "  none yet"))


@click.command()
@recipe_argument
@answering
def show(recipe: str) -> Answer:
    """Show what a recipe is, and all its knobs."""
    found = describe(recipe)
    rows = [["knob", "default", "type", ""]]
    rows += [[k.name, "(needed)" if k.required else _typed(k.default), _short(k.type), k.help] for k in found.knobs]
    needed = "".join(f" {k.name}=..." for k in found.knobs if k.required)
    lines = f"source: {quoted(found.source)}\ntrain:  gensys train {recipe}{needed}"
    return Answer(asdict(found), f"{found.help}\n\n{columns(rows)}\n\n{lines}")


def _short(kind: str) -> str:
    """A type that leaves room for the help: that of a long choice names its first words."""
    words = kind.split(" | ")
    return kind if len(words) <= _CHOICES else " | ".join([*words[:_CHOICES], "..."])


def _typed(value: object) -> str:
    """A default as one would type it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@click.command()
@answering
def doctor() -> Answer:
    """Show what this machine has, what would run, what to install."""
    from gensys.doctor import consultation

    found = consultation()
    return Answer(found.document(), found.text(), 1 if found.problems else 0)
