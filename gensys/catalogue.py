"""What there is to choose from: a recipe's help and knobs, and the runs in a folder.

A recipe says everything once, in its source: its docstring is its help, and the comment at the end of a knob's line is
that knob's. Both are read from the text, so that completion and `gensys list` need not import what recipes import.
"""

from __future__ import annotations

import ast
import importlib.resources  # run.recipes reaches it as an attribute
import inspect
import io
import json
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from gensys.errors import ConfigError
from gensys.run import knobs_of, nearest, plain, recipes

__all__ = ["KnobHelp", "RecipeHelp", "comments", "describe", "runs", "source_of"]

_GROUPS = Path(__file__).with_name("knobs.py")


@dataclass(frozen=True)
class KnobHelp:
    """One knob. default: None where `required`."""

    name: str
    type: str
    default: Any
    required: bool
    help: str


@dataclass(frozen=True)
class RecipeHelp:
    """A recipe with its help and where it is written."""

    recipe: str
    help: str
    source: Path
    knobs: list[KnobHelp]


def describe(recipe: str) -> RecipeHelp:
    """A recipe (built in, or file.py:function) with the types that its knobs are read as."""
    source, function = source_of(recipe)
    code = source.read_text() if ":" in recipe else ""
    notes = comments(source, function)
    knobs = [
        KnobHelp(
            name=name,
            type=_kind(plain(knob.annotation)),
            default=None if knob.default is inspect.Parameter.empty else knob.default,
            required=knob.default is inspect.Parameter.empty,
            help=notes.get(name, ""),
        )
        for name, knob in knobs_of(f"{source}:{function}" if code else recipe, code).items()
    ]
    return RecipeHelp(recipe, _docstring(source, function), source, knobs)


def source_of(recipe: str) -> tuple[Path, str]:
    """The file and the name of a recipe's function. Raises ConfigError with the nearest name if there is none."""
    if ":" in recipe:
        file, _, name = recipe.rpartition(":")
        if not Path(file).is_file():
            raise ConfigError(f"the recipe file {file!r} is not there")
        return Path(file).resolve(), name
    if recipe not in recipes():
        raise ConfigError(f"there is no recipe {recipe!r}.{nearest(recipe, list(recipes()))} `gensys list` shows all")
    return Path(str(importlib.resources.files("gensys.recipes"))) / f"{recipe}.py", recipe


def _definition(source: Path, function: str) -> ast.FunctionDef | None:
    body = ast.parse(source.read_text()).body
    return next((n for n in body if isinstance(n, ast.FunctionDef) and n.name == function), None)


def _docstring(source: Path, function: str) -> str:
    """The recipe's help, read from its source."""
    definition = _definition(source, function)
    return "" if definition is None else ast.get_docstring(definition) or ""


def comments(source: Path, function: str) -> dict[str, str]:
    """knob -> the comment at the end of its line, "" if there is none: the source says everything once."""
    definition = _definition(source, function)
    if definition is None:
        return {}
    text, groups = source.read_text(), {}
    for other in (_GROUPS.read_text(), text):  # a recipe's file may have groups of its own
        groups |= {n.name: _fields(n, _comments(other)) for n in ast.parse(other).body if isinstance(n, ast.ClassDef)}
    found, noted = _comments(text), dict[str, str]()
    for p in definition.args.posonlyargs + definition.args.args + definition.args.kwonlyargs:
        group = p.annotation.id if isinstance(p.annotation, ast.Name) else ""
        noted |= groups[group] if group in groups else {p.arg: found.get(p.lineno, "")}
    return noted


def _comments(text: str) -> dict[int, str]:
    """Line number -> the comment at its end."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}


def _fields(group: ast.ClassDef, found: dict[int, str]) -> dict[str, str]:
    """Field -> comment, of a dataclass."""
    fields = [n for n in group.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    return {n.target.id: found.get(n.lineno, "") for n in fields if isinstance(n.target, ast.Name)}


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(str(c) for c in get_args(annotation))
    return {bool: "true | false", str: "text"}.get(annotation, getattr(annotation, "__name__", str(annotation)))


def runs(folder: Path) -> list[dict[str, Any]]:
    """The runs in a folder. A checkpoint's marker is believed without its digests: `list` must wait for no weights."""
    found: list[dict[str, Any]] = []
    for file in sorted(folder.glob("*/run.json")):
        row = {"name": file.parent.name, "recipe": "", "step": None, "finished": False}
        try:
            recipe = json.loads(file.read_text())["recipe"]
            marker = max(file.parent.glob("checkpoints/*/COMMITTED"), default=None)
            state = {} if marker is None else json.loads((marker.parent / "state.json").read_text())
            row |= {"recipe": Path(recipe).name, "step": state.get("step"), "finished": state.get("finished", False)}
            row["state"] = "finished" if row["finished"] else "started" if marker is None else "unfinished"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            row["state"] = "damaged: run.json or state.json cannot be read"
        found.append(row)
    return found
