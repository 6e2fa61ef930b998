"""The command line: the program `gensys` and its commands (gensys/commands).

Nothing heavy is imported until a command needs it: `gensys --help` must not wait for torch.
"""

from __future__ import annotations

import sys

import click

from gensys.bench.command import bench
from gensys.commands.compare import compare
from gensys.commands.data import data
from gensys.commands.decode import decode
from gensys.commands.demo import demo
from gensys.commands.edit import edit
from gensys.commands.ema import ema
from gensys.commands.encode import encode
from gensys.commands.evaluate import evaluate
from gensys.commands.look import doctor, list_, show
from gensys.commands.reflow import reflow
from gensys.commands.report import report
from gensys.commands.sample import sample
from gensys.commands.train import train
from gensys.commands.verify import verify
from gensys.terminal import Commands, debug_option

__all__ = ["cli", "main"]

FIRST_STEPS = (
    ("gensys doctor", "what this machine has, and what would run on it"),
    ("gensys demo", "train, encode, sample, evaluate, report, in minutes"),
    ("gensys list", "the recipes, and the runs in ./runs"),
    ("gensys show latent_dit", "a recipe and its knobs"),
    ("gensys train kl_autoencoder", "train it; the same command also resumes it"),
)
COMPLETION = (
    'Completion: eval "$(_GENSYS_COMPLETE=bash_source gensys)" in ~/.bashrc (zsh_source, fish_source likewise).'
)


class Epilogue(Commands):
    """Ends the help with what to try first."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("First commands to try"):
            formatter.write_dl(FIRST_STEPS)
        formatter.write(f"\n{COMPLETION}\n")


@click.group(
    cls=Epilogue,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="gensys", message="%(prog)s %(version)s")
@debug_option
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Train, encode, sample and score generative models. Any number of workers gives the same latents and samples."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


COMMANDS = (
    train,
    ema,
    encode,
    sample,
    decode,
    edit,
    reflow,
    evaluate,
    compare,
    report,
    verify,
    data,
    list_,
    show,
    doctor,
    demo,
)
for command in (*COMMANDS, bench):
    cli.add_command(command)


def main(verb: str | None = None) -> None:
    """The program `gensys`. Its name is fixed: completion and messages must not say "python -m gensys".

    verb: prepended to what was typed, for the files in pipelines/ that `ray submit` runs as programs.
    """
    cli(args=[verb, *sys.argv[1:]] if verb else None, prog_name="gensys")
