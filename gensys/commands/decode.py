"""`gensys decode`: sampled latents into a store of samples."""

from __future__ import annotations

from pathlib import Path

import click

from gensys.arguments import Place
from gensys.commands.options import out_option, quiet_option, screen, workers_option
from gensys.commands.wording import store_answer
from gensys.terminal import Answer, answering, keeping, quoted


@click.command()
@click.argument("store", type=Place(), metavar="STORE")
@out_option
@workers_option()
@quiet_option
@answering
def decode(store: Path, out: Path | None, workers: int, quiet: bool) -> Answer:
    """Decode sampled latents into a store of samples.

    STORE is what gensys sample --latents wrote. The samples, the same as without --latents, go into samples.zarr beside
    it unless --out names another.
    """
    from gensys.pipelines.decode import decode as pipeline

    out = out or store.with_name("samples.zarr")
    keeping(f"The finished shards in {quoted(out)} are kept; the same command makes the others.")
    shown = screen(quiet)
    return store_answer(
        pipeline(store, out, workers=workers, screen=shown), f"gensys evaluate {quoted(out)}", shown.counts
    )
