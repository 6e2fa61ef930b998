"""`gensys verify`: every byte of a store, and what to do about damage."""

from __future__ import annotations

from dataclasses import asdict

import click

from gensys.arguments import StorePlace
from gensys.commands.wording import combined
from gensys.data.where import Where, resolved
from gensys.terminal import Answer, answering, quoted


@click.command()
@click.argument("store", type=StorePlace(), metavar="STORE")
@click.option("--repair", is_flag=True, help="Uncommit damaged shards; the command that wrote them makes them again.")
@answering
def verify(store: Where, repair: bool) -> Answer:
    """Compare every byte of a store with what was committed."""
    from gensys.data.members import stores_in

    return combined([_verify(found, repair) for found in stores_in(store)])


def _verify(store: Where, repair: bool) -> Answer:
    from gensys.data.store import Store

    opened, where = Store.open(store), quoted(store)
    problems = opened.verify()
    document = {
        "store": resolved(store),
        "rows": len(opened),
        "problems": [asdict(p) for p in problems],
    }
    if not problems:
        state = "sealed" if opened.sealed else "all shards are there, not sealed yet: finish what makes it"
        return Answer(document, f"{where}: {len(opened):,} rows in {opened.config.shards} shards, all well ({state})")
    shown = [f"  {p}" for p in problems[:20]]
    shown += [f"  ... and {len(problems) - 20} more (--json lists all)"] if len(problems) > 20 else []
    found = "\n".join([f"{where}: {len(problems)} problem{'s' if len(problems) > 1 else ''}", *shown])
    if not repair:
        return Answer(document, f"{found}\nnext: gensys verify {where} --repair, then the command that made it", 1)
    removed = opened.repair(problems)
    count = f"{len(removed)} shard{'s' if len(removed) != 1 else ''}"
    again = f"taken back: {count}. Give the command that made the store again: it makes what is missing and seals it"
    return Answer(document | {"taken_back": removed}, f"{found}\n{again}")
