"""A run: a recipe with its knobs. Where everything that comes of it lives: run_folder.py.

A recipe is a Python function. Its annotated keyword defaults are the knobs, its docstring is its help, its body is the
configuration, and it returns a frozen `Run`. A parameter that is a frozen dataclass is a group of knobs that recipes
share (gensys/knobs.py): each of its fields is a knob, and the recipe's default for it holds their defaults. Only a
`Spec` (the recipe's name and the value of every knob) travels to workers and onto the disk; whoever receives it calls
the recipe again.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.resources
import inspect
import math
import re
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from gensys.errors import ConfigError, GensysError

if TYPE_CHECKING:  # a recipe is loaded only when it is used: `gensys list` must not wait for torch
    from torch import Tensor

    from gensys.core import Generative
    from gensys.data.sources import Source
    from gensys.engine.loop import Budget, Settings

__all__ = [
    "TRAINED",
    "Entry",
    "Knob",
    "Needs",
    "Run",
    "Spec",
    "Trained",
    "budget_of",
    "knobs_of",
    "nearest",
    "parse",
    "plain",
    "read_recipe",
    "recipes",
    "resolve",
    "seconds_of",
]

Knob = bool | int | float | str
T = TypeVar("T")

TRAINED = "a trained run"
Trained = Annotated[str, TRAINED]
"""The type of a knob that names a run. `run_folder.pinned` writes beside its folder which weights it had when the knob
was given, FOLDER@DIGEST, so that whatever goes on from them says so once the run holds others."""


@dataclass(frozen=True)
class Needs:
    """In the type of a knob, what it takes to have an effect: eta: Annotated[float, Needs("solver=ddim", test)].

    what: told to whoever gave the knob in vain. met: (the values of all knobs, the data) -> whether it has an effect.
    A default is never in vain: it waits for what it needs.
    """

    what: str
    met: Callable[[Mapping[str, Any], Source], bool]


@dataclass(frozen=True)
class Run:
    """What a recipe returns.

    source: the data. rows: those to train on. build: makes the untrained model. settings: how the loop trains it.
    retune: the knobs that do not change the weights and may be given anew when sampling, such as the solver's steps.
    """

    source: Source
    rows: Tensor
    build: Callable[[], Generative]
    settings: Settings
    retune: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Spec:
    """What travels. recipe: a built-in name or /path/to/file.py:function; code: that file's text, for workers.
    parts: how a step is computed, see `engine.loop.Settings`; it goes with every recipe. damaged: the largest share of
    the data's rows that may be beyond reading, None = what `data.quarantine` allows. given: the knobs that were asked
    for by name, which are refused where they have no effect, see `Needs`.
    """

    recipe: str
    knobs: Mapping[str, Knob]
    code: str = ""
    parts: int = 0
    damaged: float | None = None
    given: tuple[str, ...] = field(default=(), compare=False)  # how it was asked for, not what it is

    def load(self) -> Run:
        """Call the recipe. Raises ConfigError if its knobs do not fit together."""
        function = _function(self.recipe, self.code)
        run = self._blaming_knobs(lambda: function(**_grouped(function, self.recipe, self.knobs)))
        self._refuse_idle(_knobs(function, self.recipe), run.source)
        return replace(run, settings=replace(run.settings, parts=self.parts)) if self.parts else run

    def _refuse_idle(self, knobs: Mapping[str, inspect.Parameter], source: Source) -> None:
        for name in self.given:
            value, needs = self.knobs[name], [n for n in get_args(knobs[name].annotation) if isinstance(n, Needs)]
            for need in needs if value != knobs[name].default else ():
                if not need.met(self.knobs, source):
                    raise ConfigError(
                        f"knob {name!r} is {value!r}, and has no effect here: it needs {need.what}. Give that, or "
                        f"leave {name!r} out"
                    )

    def model(self, run: Run | None = None) -> Generative:
        """The untrained model. Raises ConfigError if the knobs do not fit together."""
        return self._blaming_knobs((run or self.load()).build)

    def _blaming_knobs(self, make: Callable[[], T]) -> T:
        try:
            return make()
        except GensysError:
            raise
        except Exception as error:  # of the user's own program, or a part that refuses a value; all else goes on below
            if self.code:  # the user's own program: say where in it
                frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in self.recipe]
                line = f", line {frames[-1].lineno}" if frames else ""
                text = f"the recipe {self.recipe!r} failed{line}: {type(error).__name__}: {error}"
                raise ConfigError(text) from error
            if isinstance(error, ValueError):  # how a part refuses an argument, here the value of a knob
                raise ConfigError(f"the knobs of {self.recipe!r} do not fit together: {error}") from error
            raise

    def with_knobs(self, knobs: Mapping[str, Knob]) -> Spec:
        return replace(self, knobs={**self.knobs, **knobs})


def nearest(word: str, among: list[str]) -> str:
    """' Did you mean ...?' if something is close, else ''."""
    close = difflib.get_close_matches(word, among, n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


@dataclass(frozen=True)
class Entry:
    """A built-in recipe in a list. paper: "Ho et al., 2020, arXiv:2006.11239", where its help names one."""

    help: str
    paper: str


def recipes() -> dict[str, Entry]:
    """The built-in recipes, without importing them: what the first line of their help says, and the paper in it."""
    found = {}
    for file in importlib.resources.files("gensys.recipes").iterdir():
        name, _, suffix = file.name.rpartition(".")
        if suffix == "py" and name != "__init__":
            tree = ast.parse(file.read_text())
            function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
            text = ast.get_docstring(function) or ""
            found[name] = Entry(text.split("\n")[0], _paper(text))
    return dict(sorted(found.items()))


def _paper(text: str) -> str:
    """The first source that a help names in full: authors, year, "title", arXiv:number -> its short form."""
    found = re.search(r'^([A-Z](?:[^".]|al\.)*?), (\d{4}),\s+"[^"]+",\s+(arXiv:[\d.]+\d)', text, re.MULTILINE)
    if found is None:
        return ""
    authors = re.split(r", | and ", " ".join(found[1].split()))
    short = authors[0] if len(authors) == 1 else " and ".join(authors) if len(authors) == 2 else f"{authors[0]} et al."
    return f"{short}, {found[2]}, {found[3]}"


def _function(recipe: str, code: str = "") -> Callable[..., Run]:
    """The recipe's function. A recipe in a file is executed, from `code` if given: it is the user's own program."""
    if ":" not in recipe:
        if recipe not in recipes():
            raise ConfigError(
                f"there is no recipe {recipe!r}.{nearest(recipe, list(recipes()))} `gensys list` shows all; a recipe "
                f"of your own is given as ./file.py:function"
            )
        return getattr(importlib.import_module(f"gensys.recipes.{recipe}"), recipe)
    file, _, name = recipe.rpartition(":")
    text = code or read_recipe(Path(file))
    module = types.ModuleType("gensys_user_recipe")
    module.__file__ = file
    sys.modules[module.__name__] = module  # dataclasses and annotations look their module up
    try:
        exec(compile(text, file, "exec"), module.__dict__)
    except Exception as error:  # whatever the user's file raises is told as one paragraph, with its cause attached
        raise ConfigError(
            f"the recipe file {file!r} failed while it was read: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, name, None)
    if not inspect.isfunction(function):
        functions = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__]
        raise ConfigError(
            f"{file!r} has no function {name!r}.{nearest(name, functions)} It has: {', '.join(functions)}"
        )
    return function


def read_recipe(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the recipe file {str(file)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the recipe file {str(file)!r} cannot be read: it is not UTF-8 text ({error})") from error


def resolve(recipe: str, overrides: Mapping[str, str]) -> Spec:
    """A recipe's name and knob=value texts -> the Spec with every knob's value.

    Raises: ConfigError for an unknown recipe or knob (with the nearest valid name) or a value of the wrong type.
    """
    code = ""
    if ":" in recipe:
        file, _, name = recipe.rpartition(":")
        path = Path(file).resolve()
        code = read_recipe(path)
        recipe = f"{path}:{name}"
    knobs = knobs_of(recipe, code)
    values = {name: parameter.default for name, parameter in knobs.items()}
    for name in overrides:
        if name not in knobs:
            raise ConfigError(
                f"recipe {recipe!r} has no knob {name!r}.{nearest(name, list(knobs))} Its knobs: {', '.join(knobs)}"
            )
    values |= {name: parse(name, text, knobs[name].annotation) for name, text in overrides.items()}
    missing = [name for name, value in values.items() if value is inspect.Parameter.empty]
    if missing:
        raise ConfigError(f"recipe {recipe!r} needs a value for {', '.join(missing)}: give {missing[0]}=VALUE")
    return Spec(recipe, values, code, given=tuple(overrides))


def knobs_of(recipe: str, code: str = "") -> dict[str, inspect.Parameter]:
    """The knobs of a recipe: its parameters, and the fields of those that are groups, with annotations as types."""
    return _knobs(_function(recipe, code), recipe)


def _knobs(function: Callable[..., Run], recipe: str) -> dict[str, inspect.Parameter]:
    found: dict[str, inspect.Parameter] = {}
    for name, parameter in _parameters(function, recipe).items():
        for knob in _members(name, parameter):
            if knob.name in found:
                raise ConfigError(f"the recipe {recipe!r} has two knobs {knob.name!r}: rename one")
            found[knob.name] = knob
    return found


def _members(name: str, parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """A parameter as knobs: itself, or the fields of the group that it is."""
    group = parameter.annotation
    if not (isinstance(group, type) and is_dataclass(group)):
        return [parameter]
    if not isinstance(parameter.default, group):
        raise ConfigError(f"the parameter {name!r} is a group of knobs: give it a default, {name} = {group.__name__}()")
    hints = get_type_hints(group, include_extras=True)
    return [
        parameter.replace(name=f.name, default=getattr(parameter.default, f.name), annotation=hints[f.name])
        for f in fields(group)
    ]


def _grouped(function: Callable[..., Run], recipe: str, knobs: Mapping[str, Knob]) -> dict[str, Any]:
    """The arguments of a recipe: knobs, and groups made of knobs. What is no knob is passed on, to be refused."""
    rest, arguments = dict(knobs), dict[str, Any]()
    for name, parameter in _parameters(function, recipe).items():
        if is_dataclass(parameter.annotation):
            own = {knob.name for knob in _members(name, parameter)}
            arguments[name] = replace(parameter.default, **{k: rest.pop(k) for k in own & rest.keys()})
    return arguments | rest


def _parameters(function: Callable[..., Run], recipe: str) -> dict[str, inspect.Parameter]:
    """The parameters of a recipe, with annotations as types."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception as error:  # annotations are evaluated: what they name may not exist
        raise ConfigError(
            f"the knobs of {recipe!r} have an annotation that means nothing: {type(error).__name__}: {error}"
        ) from error
    parameters = inspect.signature(function).parameters
    return {name: p.replace(annotation=hints.get(name, str)) for name, p in parameters.items()}


def plain(kind: Any) -> Any:
    """The type of a knob's values, without what else its annotation says."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def parse(name: str, text: str, kind: Any) -> Knob:
    """Text -> the knob's type: bool, int, float, str or a Literal of strings."""
    kind = plain(kind)
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if get_origin(kind) is Literal:
            if text not in get_args(kind):
                choices = [str(c) for c in get_args(kind)]
                raise ConfigError(
                    f"knob {name!r} is one of {', '.join(choices)}, got {text!r}.{nearest(text, choices)}"
                )
            return text
        value = kind(text)
        if value != value:  # nan: no number, and never equal to itself when a run is resumed
            raise ValueError(text)
        return value
    except (KeyError, ValueError, TypeError) as error:
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, str(kind))
        raise ConfigError(f"knob {name!r} is {wanted}, got {text!r}") from error


def budget_of(text: str) -> Budget:
    """ "90s", "10m", "2h": seconds of training; "cpu:10m": of the processor's time. "64000", "500k", "2M": images (rows
    seen)."""
    from gensys.engine.loop import Budget

    time = text.removeprefix("cpu:")
    if (seconds := _amount(time, {"s": 1, "m": 60, "h": 3600})) is not None:
        return Budget(seconds=seconds, cpu=time != text)
    if (images := _amount(text, {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000})) is not None:
        return Budget(images=max(1, round(images)))
    raise ConfigError(
        f"'budget' is a time (90s, 10m, 2h; cpu:10m: of the processor) or a number of images (64000, 500k, 2M), got "
        f"{text!r}"
    )


def seconds_of(text: str) -> float:
    """A time: "240", "90s", "4m", "2h"."""
    if (seconds := _amount(text, {"": 1, "s": 1, "m": 60, "h": 3600})) is None:
        raise ConfigError(f"a time is given as 240, 90s, 4m or 2h, got {text!r}")
    return seconds


def _amount(text: str, units: Mapping[str, int]) -> float | None:
    """A positive, finite number with one of the units, or None."""
    number, unit = (text[:-1], text[-1]) if text[-1:].isalpha() else (text, "")
    try:
        amount = float(number)
    except ValueError:
        return None
    amount *= units.get(unit, 0)
    return amount if 0 < amount < math.inf else None
