"""`gensys decode`: sampled latents into a store of samples."""

from __future__ import annotations

import click

from gensys.arguments import StorePlace
from gensys.commands.options import out_option, quiet_option, screen, workers_option
from gensys.commands.wording import next_verb, store_answer
from gensys.data.where import Where, beside
from gensys.terminal import Answer, answering, keeping, quoted


@click.command()
@click.argument("store", type=StorePlace(), metavar="STORE")
@out_option
@workers_option()
@quiet_option
@answering
def decode(store: Where, out: Where | None, workers: int, quiet: bool) -> Answer:
    """Decode sampled latents into a store of samples.

    STORE is what gensys sample --latents wrote. The samples, the same as without --latents, go into samples.zarr beside
    it unless --out names another.
    """
    from gensys.pipelines.decode import decode as pipeline

    out = out or beside(store, "samples.zarr")
    keeping(f"The finished shards in {quoted(out)} are kept; the same command makes the others.")
    shown = screen(quiet)
    return store_answer(
        pipeline(store, out, workers=workers, screen=shown), f"gensys {next_verb(out)} {quoted(out)}", shown.counts
    )
