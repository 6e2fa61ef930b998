"""The command line: one function a command, which reads what was typed, calls the pipeline and tells what came of it.

Nothing heavy is imported until a command needs it: `gensys --help` must not wait for torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gensys.arguments import RUNS, Place, RecipeName, SeedRange, absolute, complete_knob, overrides
from gensys.bench.command import bench
from gensys.catalogue import describe, runs
from gensys.run import RunFolder, recipes, resolve, seconds_of
from gensys.terminal import Answer, Commands, answering, columns, debug_option, duration, keeping, quoted, size

if TYPE_CHECKING:
    from gensys.data.store import Store
    from gensys.progress import Screen

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


# --------------------------------------------------------------------------------------------- arguments and options


recipe_argument = click.argument("recipe", type=RecipeName())
knobs_argument = click.argument("knobs", nargs=-1, metavar="[KNOB=VALUE]...", shell_complete=complete_knob)
run_argument = click.argument("run", type=Place(), metavar="RUN")
out_option = click.option("--out", type=click.Path(path_type=Path), help="The store to write.")
shard_option = click.option(
    "--shard",
    type=click.IntRange(1),
    metavar="N",
    default=None,
    help="Rows per shard, a multiple of 64; a worker makes one at a time.  [default: by the number of rows]",
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Show no progress.")


def workers_option(default: int | None = 0) -> Any:
    """--workers; None = as many as there are cores, and at least one."""
    return click.option(
        "--workers",
        type=click.IntRange(1 if default is None else 0),
        metavar="N",
        default=default,
        show_default="the cores" if default is None else True,
        help="Ray workers." if default is None else "Ray workers; 0 = in this process, without Ray.",
    )


def _screen(quiet: bool) -> Screen:
    from gensys.progress import Screen

    return Screen(quiet)


# ----------------------------------------------------------------------------------------------------------- the verbs


@cli.command()
@recipe_argument
@knobs_argument
@workers_option()
@click.option("--seed", type=int, metavar="N", help="The knob 'seed'.")
@click.option("--run", type=click.Path(path_type=Path), metavar="DIR", help="The run's folder.  [default: runs/RECIPE]")
@click.option("--fresh", is_flag=True, help="Start anew, even if the run is there.")
@click.option(
    "--exact",
    "parts",
    type=click.IntRange(1),
    metavar="[PARTS]",
    is_flag=False,
    flag_value=8,
    help="Compute each step in PARTS parts (8): the same bits for any number of workers that divides it.",
)
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and write nothing.")
@quiet_option
@answering
def train(
    recipe: str,
    knobs: Sequence[str],
    workers: int,
    seed: int | None,
    run: Path | None,
    fresh: bool,
    parts: int | None,
    dry_run: bool,
    quiet: bool,
) -> Answer:
    """Train a recipe, or resume it.

    RECIPE is a name that `gensys list` shows, or ./file.py:function. Its knobs are set as knob=value; `gensys show
    RECIPE` explains them.
    """
    texts = overrides(knobs, seed)
    if "data" in texts:
        texts["data"] = absolute(texts["data"])
    spec = replace(resolve(recipe, texts), parts=parts or 0)
    folder = RunFolder(run or RUNS / recipe.rpartition(":")[2])
    where = quoted(folder.path)

    from gensys.pipelines import train as pipeline

    if dry_run:
        plan = pipeline.plan(spec, workers)
        return Answer(plan, _facts(plan))
    keeping(f"The checkpoints in {where} are kept; the same command (without --fresh) goes on from the newest.")
    state = pipeline.train(folder, spec, workers=workers, fresh=fresh, screen=_screen(quiet))
    done = "trained" if state.finished else "stopped, unfinished, after"
    following = f"gensys {'encode' if _is_codec(folder.path) else 'sample'} {where}"
    return Answer(
        {"run": folder.path.resolve(), **asdict(state)},
        f"{where}: {done} {state.step:,} steps, {state.images:,} rows, {duration(state.seconds)}\n"
        f"next: {following if state.finished else 'the same command, which goes on'}",
    )


def _is_codec(run: Path) -> bool:
    from gensys.report.reading import training

    return training(run).is_codec


@cli.command()
@run_argument
@click.option("--data", help="What to encode.  [default: the run's training data]")
@out_option
@shard_option
@workers_option()
@quiet_option
@answering
def encode(run: Path, data: str | None, out: Path | None, shard: int | None, workers: int, quiet: bool) -> Answer:
    """Encode data into a store of latents.

    RUN is the run of a codec, such as kl_autoencoder. The store is RUN/latents.zarr unless --out names another.
    """
    from gensys.pipelines.encode import encode as pipeline

    out = out or run / "latents.zarr"
    keeping(f"The finished shards in {quoted(out)} are kept; the same command makes the others.")
    data = None if data is None else absolute(data)
    store = pipeline(RunFolder(run), out, data=data, shard=shard, workers=workers, screen=_screen(quiet))
    return _store_answer(store, f"gensys train latent_dit data={quoted(out)}")


@cli.command()
@run_argument
@knobs_argument
@click.option("--seeds", "ids", type=SeedRange(), default="64", show_default=True, help="Which samples to draw.")
@click.option(
    "--seed",
    type=int,
    metavar="N",
    default=0,
    show_default=True,
    help="Another seed gives other samples.",
)
@click.option("--label", type=click.IntRange(0), metavar="N", help="Class to draw.  [default: every class in turn]")
@out_option
@shard_option
@workers_option()
@quiet_option
@answering
def sample(
    run: Path,
    knobs: Sequence[str],
    ids: range,
    seed: int,
    label: int | None,
    out: Path | None,
    shard: int | None,
    workers: int,
    quiet: bool,
) -> Answer:
    """Draw samples into a store.

    The store is RUN/samples.zarr unless --out names another. The knobs that do not touch the weights, such as steps=40,
    may be given anew. Sample i depends on the run, the seed, i, and the label and knobs asked for: any range, any
    number of workers and any size of shard give the same images.
    """
    from gensys.pipelines.sample import sample as pipeline

    out = out or run / "samples.zarr"
    keeping(f"The finished shards in {quoted(out)} are kept; the same command makes the others.")
    store = pipeline(
        RunFolder(run),
        out,
        ids=ids,
        seed=seed,
        label=label,
        overrides=overrides(knobs),
        shard=shard,
        workers=workers,
        screen=_screen(quiet),
    )
    return _store_answer(store, f"gensys evaluate {quoted(out)}")


def _store_answer(store: Store, following: str) -> Answer:
    arrays = {name: {"dtype": spec.dtype, "shape": list(spec.shape)} for name, spec in store.config.arrays.items()}
    name, what = ("mean", "latent") if "mean" in arrays else ("x", "sample")
    text = f"{len(store):,} {what}{'' if len(store) == 1 else 's'} of {'x'.join(map(str, arrays[name]['shape']))} "
    text += (
        f"{arrays[name]['dtype']}{' with labels' if store.attributes.get('classes') else ''} in {quoted(store.path)}"
    )
    picture = store.path.with_suffix(".png")
    text += f"; picture: {quoted(picture)}" if what == "sample" and picture.exists() else ""
    return Answer(
        {"store": store.path.resolve(), "rows": len(store), "shards": store.config.shards, "arrays": arrays},
        f"{text}\nnext: {following}",
    )


@cli.command()
@click.argument("target", type=Place(), metavar="RUN|STORE")
@quiet_option
@answering
def evaluate(target: Path, quiet: bool) -> Answer:
    """Score a run or a store of samples.

    Metrics with their 95 % intervals, what real data score, and the protocol they were taken under.
    """
    from gensys.pipelines.evaluate import evaluate as pipeline

    result = pipeline(target, screen=_screen(quiet))
    return Answer(
        result,
        f"{_scores(result['metrics'])}\n\n{_facts(result['protocol'])}\n\nwritten: {quoted(Path(result['file']))}",
    )


def _scores(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """The numbers, then what each one is."""
    rows = [["metric", "value", "95 % interval", "real data", "better", "rows"]]
    for name, metric in metrics.items():
        interval = "" if metric["low"] is None else f"{_number(metric['low'])} .. {_number(metric['high'])}"
        value = f"{_number(metric['value'])} {metric['unit']}".rstrip()
        rows.append([name, value, interval, _number(metric["floor"]), metric["better"], f"{metric['n']:,}"])
    about = columns([[name, metric["about"]] for name, metric in metrics.items()])
    return f"{columns(rows)}\n\n{about}"


@cli.command()
@run_argument
@answering
def report(run: Path) -> Answer:
    """Write the report.html of a run from what is in its folder.

    The animation of sampling, trajectory.png, is drawn first if it is not there.
    """
    from gensys.report import add_trajectory, write_report

    add_trajectory(run)
    path = write_report(run)
    return Answer({"report": path.resolve()}, str(path.resolve()))


@cli.command()
@click.argument("store", type=Place(), metavar="STORE")
@click.option("--repair", is_flag=True, help="Uncommit damaged shards; the command that wrote them makes them again.")
@answering
def verify(store: Path, repair: bool) -> Answer:
    """Compare every byte of a store with what was committed."""
    from gensys.data.store import Store

    opened, where = Store.open(store), quoted(store)
    problems = opened.verify()
    document = {"store": store.resolve(), "rows": len(opened), "problems": [asdict(p) for p in problems]}
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


# ------------------------------------------------------------------------------------------------------ to look around


@cli.command("list")
@answering
def list_() -> Answer:
    """List the built-in recipes, and the runs in ./runs."""
    known, started = recipes(), runs(RUNS)
    text = f"recipes\n{columns(list(known.items()))}\n\nruns in ./{RUNS}\n"
    rows = [["name", "recipe", "step", ""]]
    rows += [[r["name"], r["recipe"], "" if r["step"] is None else f"{r['step']:,}", r["state"]] for r in started]
    return Answer({"recipes": known, "runs": started}, text + (columns(rows) if started else "  none yet"))


@cli.command()
@recipe_argument
@answering
def show(recipe: str) -> Answer:
    """Show what a recipe is, and all its knobs."""
    found = describe(recipe)
    rows = [["knob", "default", "type", ""]]
    rows += [[k.name, "(needed)" if k.required else _typed(k.default), k.type, k.help] for k in found.knobs]
    needed = "".join(f" {k.name}=..." for k in found.knobs if k.required)
    lines = f"source: {quoted(found.source)}\ntrain:  gensys train {recipe}{needed}"
    return Answer(asdict(found), f"{found.help}\n\n{columns(rows)}\n\n{lines}")


def _typed(value: object) -> str:
    """A default as one would type it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@cli.command()
@answering
def doctor() -> Answer:
    """Show what this machine has, what would run, what to install."""
    from gensys.doctor import consultation

    found = consultation()
    return Answer(found.document(), found.text(), 1 if found.problems else 0)


@cli.command()
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    metavar="DIR",
    default=RUNS / "demo",
    show_default=True,
    help="The folder.",
)
@click.option("--data", default="mnist", show_default=True, help="mnist, fashion or a folder of images.")
@click.option("--budget", metavar="TIME", default="4m", show_default=True, help="For all of it: 240, 90s, 4m.")
@click.option(
    "--samples", type=click.IntRange(1), metavar="N", default=1000, show_default=True, help="How many to draw."
)
@workers_option(None)
@quiet_option
@answering
def demo(run: Path, data: str, budget: str, samples: int, workers: int | None, quiet: bool) -> Answer:
    """Do all of it on this machine, in minutes.

    Trains a codec and a flow on its latents, samples, evaluates and writes a report. What is finished is not redone.
    """
    from gensys.doctor import cores
    from gensys.pipelines.demo import demo as pipeline

    keeping(f"What is finished in {quoted(run)} is kept; the same command goes on from there.")
    workers = cores() if workers is None else workers
    data = absolute(data)
    result = pipeline(
        run, data=data, budget=seconds_of(budget), workers=workers, samples=samples, screen=_screen(quiet)
    )
    stages = columns([[s["stage"], duration(s["seconds"]), s["detail"]] for s in result["stages"]])
    rest = _facts({name: value for name, value in result.items() if name not in ("stages", "metrics")})
    return Answer(result, f"{_scores(result['metrics'])}\n\n{stages}\n\n{rest}")


cli.add_command(bench)


def _facts(facts: Mapping[str, object]) -> str:
    """Names and values; where a name ends in a unit, the value gets it."""
    return columns(list(_flat(facts)))


def _flat(facts: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in facts.items():
        title = prefix + name.replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{title}, ")
        elif isinstance(value, int | float) and not isinstance(value, bool) and "seconds" in name:
            if name == "estimated_seconds":
                whole = duration(round(value / 60) * 60).removesuffix(" 00 s")
                yield "time", f"about {whole if value >= 600 else duration(value)}"
            else:
                yield title.replace("seconds", "time"), duration(value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and "bytes" in name:
            yield title.removesuffix(" bytes"), size(value)
        else:
            yield title, _number(value)


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return (
        f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else "" if value is None else str(value)
    )


def main(verb: str | None = None) -> None:
    """The program `gensys`. Its name is fixed: completion and messages must not say "python -m gensys".

    verb: prepended to what was typed, for the files in pipelines/ that `ray submit` runs as programs.
    """
    cli(args=[verb, *sys.argv[1:]] if verb else None, prog_name="gensys")
