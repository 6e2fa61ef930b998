"""How the command line reads what is typed and says what came of it: strict, in one line, without a stack trace.

    0   done
    1   failed: a paragraph on stderr says what happened and what to do
    2   not understood: an unknown command, option, recipe or knob, or a value of the wrong kind
    130 interrupted by Ctrl-C: a line says what was kept and how to go on
    143 terminated by SIGTERM, as schedulers send it before they take a machine away: the same

stdout carries the answer alone, as text or, with --json, as one JSON object; everything else goes to stderr.
"""

from __future__ import annotations

import errno
import functools
import json
import math
import os
import shutil
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from gensys.errors import ConfigError, GensysError, Terminated
from gensys.run import nearest

__all__ = ["Answer", "Commands", "answering", "columns", "debug_option", "duration", "keeping", "quoted", "size"]

_DEBUG, _KEPT = "gensys.debug", "gensys.kept"  # keys of click's store that a command shares with its group


# ------------------------------------------------------------------------------------------------------------ failures


class Failure(click.ClickException):
    """An end with a message; the subclasses differ in the exit code."""

    def show(self, file: Any = None) -> None:
        click.echo(f"gensys: {self.message}", file=file or sys.stderr)


class Misused(Failure):
    """What was typed is not understood."""

    exit_code = 2


class Interrupted(Failure):
    """Ctrl-C: the shell's convention for it is 128 + the signal's number."""

    exit_code = 130


class Ended(Failure):
    """SIGTERM, by the same convention: 128 + 15. A scheduler sees a process that did as it was told."""

    exit_code = 143


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, instead of ending the process where it stands."""

    def end(signum: int, frame: object) -> None:
        raise Terminated

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a file is where a folder should be",
    errno.EEXIST: "a file is where a folder should be",  # so says mkdir
    errno.EISDIR: "a folder is where a file should be",
    errno.ENAMETOOLONG: "the name is too long",
}


def _disk(error: OSError) -> str:
    where = f" at {str(error.filename)!r}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        how = "free some space and give the same command again: what was committed is kept, and it goes on from there"
    else:
        how = "choose a place that you can write to, with --run or --out, or change the permissions"
    return f"{_DISK[error.errno or 0]}{where}: {how}"


def _unwrapped(error: BaseException) -> BaseException:
    """What a worker raised, out of Ray's exceptions around it (known by their module: Ray is not imported here)."""
    for _ in range(8):  # they may be nested, a task in a task, and must not be a ring
        cause = getattr(error, "cause", None)
        if not _of_ray(error) or not isinstance(cause, BaseException):
            break
        error = cause
    return error


def _of_ray(error: BaseException) -> bool:
    return any(kind.__module__.partition(".")[0] == "ray" for kind in type(error).__mro__)


def explained(error: BaseException) -> Failure:
    """The exception -> the failure that a person sees."""
    error = _unwrapped(error)
    name, text = type(error).__name__, " ".join(" ".join([str(error), *getattr(error, "__notes__", [])]).split())
    if _of_ray(error):
        first = (str(error).strip() or name).splitlines()[0]
        return Failure(
            f"the workers failed ({name}: {first}): give the same command again, or with --workers 0, which works in "
            f"this process without Ray; --debug shows the whole trace"
        )
    if isinstance(error, ConfigError):
        return Misused(text)
    if isinstance(error, GensysError):
        return Failure(text)
    if isinstance(error, OSError) and error.errno in _DISK:
        return Failure(_disk(error))
    if isinstance(error, MemoryError):
        return Failure("the memory is used up: take a smaller batch or shard, or fewer workers")
    return Failure(f"this is a bug of gensys: {name}: {text}; run again with --debug for the whole trace")


def _misused(error: click.UsageError) -> Failure:
    """click's three lines as one: what is wrong, the nearest right thing, where to read on."""
    text = error.format_message()
    takes_knobs = error.ctx is not None and any(p.name == "knobs" for p in error.ctx.command.params)
    if isinstance(error, click.NoSuchOption) and takes_knobs and not error.possibilities:
        text += f" Knobs are written without dashes: {error.option_name.lstrip('-')}=VALUE."
    text = text if text.endswith((".", "?", ")")) else f"{text}."
    return Misused(text + (f" `{error.ctx.command_path} --help` shows what there is." if error.ctx is not None else ""))


# ------------------------------------------------------------------------------------------------------------ commands


class Commands(click.Group):
    """A group that lists its commands in the order of work, and that turns every error into one message."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            near = nearest(name, list(self.commands))
            raise click.UsageError(f"there is no command {name!r}.{near} The commands: {', '.join(self.commands)}.")
        return super().resolve_command(ctx, args)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise _misused(error) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _terminable():
                return super().invoke(ctx)
        except click.UsageError as error:
            raise _misused(error) from error
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise  # click ends these well; a reader such as `head` that has gone away is no failure of ours
        except (KeyboardInterrupt, click.Abort) as error:
            _trace(ctx, error)
            how, kind = ("terminated", Ended) if isinstance(error, Terminated) else ("interrupted", Interrupted)
            raise kind(f"{how}. {ctx.meta.get(_KEPT, 'Nothing was being written.')}") from error
        # The one place where everything ends up that nobody else caught: a user should meet a sentence and an exit
        # code, not our stack. Nothing is hidden: the type and the text are shown, and --debug shows all of it.
        except Exception as error:
            _trace(ctx, error)
            raise explained(error) from error


def _trace(ctx: click.Context, error: BaseException) -> None:
    if ctx.meta.get(_DEBUG):
        traceback.print_exception(error)


def keeping(text: str) -> None:
    """Says from now on, should the user interrupt: what is kept, and how to go on."""
    click.get_current_context().meta[_KEPT] = text


def _debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_DEBUG] = True


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, is_eager=True, callback=_debug, help="Show stack traces of errors."
)


@dataclass(frozen=True)
class Answer:
    """What a command found out. document: for --json. text: for a person. code: the exit code."""

    document: Mapping[str, Any]
    text: str
    code: int = 0


def answering(function: Callable[..., Answer]) -> Callable[..., None]:
    """Adds --json and --debug to a command and prints the Answer that it returns."""

    @debug_option
    @click.option("--json", "as_json", is_flag=True, help="Answer with one JSON object on stdout.")
    @functools.wraps(function)
    def command(*args: Any, as_json: bool, **options: Any) -> None:
        # A library that prints must not spoil the JSON: until the answer is known, stdout is stderr.
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            answer = function(*args, **options)
        click.echo(json.dumps(plain(answer.document), indent=2, allow_nan=False) if as_json else answer.text)
        if answer.code:
            click.get_current_context().exit(answer.code)

    return command


def plain(value: Any) -> Any:
    """The value as strict JSON can hold it: paths as text, numbers that are not finite as "inf", "nan"."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset | range):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


# ------------------------------------------------------------------------------------------------------ what is shown


def columns(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Rows as aligned columns; on a terminal the last column is folded to fit, elsewhere lines stay whole for grep."""
    count = max((len(row) for row in rows), default=0)
    widths = [max((len(click.unstyle(row[i])) for row in rows if i < len(row)), default=0) for i in range(count - 1)]
    left = len(indent) + sum(widths) + 2 * len(widths)
    room = max(shutil.get_terminal_size().columns - left, 24) if sys.stdout.isatty() else 10_000
    lines: list[str] = []
    for row in rows:
        cells = [cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(row, widths, strict=False)]
        last = row[count - 1] if len(row) == count else ""
        folded = textwrap.wrap(last, room, break_on_hyphens=False, break_long_words=False) or [""]
        lines.append((indent + "  ".join([*cells, folded[0]])).rstrip())
        lines += [" " * left + line for line in folded[1:]]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """12.3 s, 4 min 05 s, 2 h 03 min."""
    if seconds < 59.95:  # above, it would be rounded to 60.0 s
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """A number of bytes for a person: 512 B, 4.2 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def quoted(path: Path | str) -> str:
    """A path as one would type it: relative where it lies below the current directory. A URL stays as it is."""
    if "://" in str(path):
        return str(path)
    absolute, here = Path(os.path.abspath(path)), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)
