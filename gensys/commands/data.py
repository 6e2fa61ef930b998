"""`gensys data`: what data and stores are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from gensys.arguments import StorePlace
from gensys.commands.wording import combined, number
from gensys.data.where import Where
from gensys.terminal import Answer, Commands, answering, columns, quoted, size

_CLASSES, _REASONS = 20, 10  # that are shown to a person; --json has all


@click.group(cls=Commands, invoke_without_command=True)
@click.pass_context
def data(ctx: click.Context) -> None:
    """Look at data and stores."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@data.command()
@click.argument("store", type=StorePlace(), metavar="STORE")
@answering
def info(store: Where) -> Answer:
    """Tell what a store holds, where it comes from, and how far it is."""
    from gensys.data.info import describe
    from gensys.data.members import stores_in

    answers: list[Answer] = []
    for path in stores_in(store):
        found = describe(path)
        answers.append(Answer(found, _told(path, found)))
    return combined(answers)


def _told(store: Where, found: Mapping[str, Any]) -> str:
    state = "sealed" if found["sealed"] else "not sealed: finish what makes it"
    shards = f"{found['shards_committed']:,} of {found['shards']:,} committed, {found['rows_per_shard']:,} rows each"
    lines = [["kind", f"{found['kind']}{', mirrored' if found.get('mirrored') else ''} ({state})"]]
    counts = ", ".join(f"{n:,} {name}" for name, n in found.get("states", {}).items())
    lines += [["rows", f"{found['rows']:,}" + (f": {counts}" if counts else "")]]
    lines += [["shards", f"{shards}, chunks of {found['rows_per_chunk']}"], ["size", size(found["bytes"])]]
    if "source" in found:
        made = found["source"]
        lines += [["source", f"{made['about']}; content {made['fingerprint'][:12]}"]]
    if "codec" in found:
        made = found["codec"]
        lines += [["codec", f"{made.get('run', 'unknown')}; weights {made.get('weights', 'unknown')[:12]}"]]
    if "codebook" in found:
        lines += [["codebook", f"{found['codebook']:,} codes"]]
    if "updated_from" in found:
        lines += [["updated from", f"the store of content {found['updated_from'][:12]}"]]
    for name, values in found.get("normalisation", {}).items():
        lines += [[f"normalised by {name}", "  ".join(number(float(v)) for v in values)]]
    lines += [[name.replace("_", " "), number(_plain(value))] for name, value in found.get("made_from", {}).items()]
    parts = [f"{quoted(store)}\n{columns(lines)}"]
    rows = [["array", "dtype", "shape", "size"]]
    rows += [[n, a["dtype"], "x".join(map(str, a["shape"])), size(a["bytes"])] for n, a in found["arrays"].items()]
    for member, arrays in found.get("texts", {}).items():
        rows += [
            [f"{member}/{n}", a["dtype"], "x".join(map(str, a["shape"])), size(a["bytes"])] for n, a in arrays.items()
        ]
    parts += [columns(rows)]
    if classes := found.get("classes"):
        shown = [[name, f"{count:,}"] for name, count in list(classes.items())[:_CLASSES]]
        shown += [["...", f"and {len(classes) - _CLASSES:,} more classes (--json)"]] if len(classes) > _CLASSES else []
        parts += [columns([["class", "good rows"], *shown])]
    if reasons := found.get("quarantine"):
        shown = [[f"{r['row']:,}", r["name"], r["reason"]] for r in reasons[:_REASONS]]
        shown += [["...", "", "more in --json"]] if len(reasons) > _REASONS else []
        parts += [columns([["row", "in quarantine", "why"], *shown])]
    return "\n\n".join(parts)


def _plain(value: object) -> object:
    """Containers on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    return ", ".join(str(v) for v in value) if isinstance(value, list) else value
