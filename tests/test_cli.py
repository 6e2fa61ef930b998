"""The command line: what it understands, what it says, how it ends. The pipelines are stand-ins."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import click
import gensys.pipelines
import numpy as np
import pytest
from click.testing import CliRunner

from gensys.arguments import SeedRange
from gensys.cli import cli
from gensys.data.store import ArraySpec, Store
from gensys.engine.checkpoint import State
from gensys.errors import ConfigError, RunError, Terminated
from gensys.run_folder import RunFolder
from gensys.terminal import columns, duration, plain, size

RECIPE = '''
from typing import Literal

def mine(
    data: str,  # what to train on
    depth: int = 2,  # blocks
    wide: bool = True,
    lr: float = 1e-3,  # learning rate
    solver: Literal["heun", "euler"] = "heun",
    seed: int = 0,  # of everything
):
    """Nothing real.

    For tests.
    """
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory, with a recipe of the user's in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def calls(monkeypatch):
    """Stand-ins for the pipelines that note how they were called."""
    noted = []

    def stand_in(name, answer):
        def called(*args, **options):
            noted.append((name, args, options))
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return called

    def install(module, **functions):
        fake = ModuleType(f"gensys.pipelines.{module}")
        for name, answer in functions.items():
            setattr(fake, name, stand_in(name, answer))
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
        monkeypatch.setattr(gensys.pipelines, module, fake, raising=False)

    noted_and_install = SimpleNamespace(noted=noted, install=install)
    install("train", train=State(1200, 76800, 125.0, True), plan={"rows": 4500, "estimated_seconds": 65.0})
    return noted_and_install


def ask(*words, code=0):
    """The result of `gensys WORDS`, which must end with `code`."""
    result = CliRunner().invoke(cli, words, prog_name="gensys")
    assert result.exit_code == code, result.output
    if code in (1, 2, 130):
        assert "Traceback" not in result.output
    return result


def complaint(*words, code=2):
    """The one line on stderr with which `gensys WORDS` ends."""
    result = ask(*words, code=code)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("gensys: ")
    return line


# ----------------------------------------------------------------------------------------------------- as a whole


def program(*words, **options):
    return subprocess.run([sys.executable, "-m", "gensys", *words], capture_output=True, text=True, **options)


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom gensys.cli import cli\ncli(['--help'], prog_name='gensys', standalone_mode=False)\n"
        "print([m for m in sys.modules if m.partition('.')[0] in "
        "{'torch', 'ray', 'zarr', 'numpy', 'matplotlib', 'rich', 'PIL', 'jinja2'}])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1] == "[]"


def test_without_arguments_it_says_what_to_try():
    output = ask().stdout
    assert output == ask("--help").stdout
    assert output.index("gensys doctor") < output.index("gensys demo") < output.index("gensys train kl_autoencoder")
    assert "_GENSYS_COMPLETE=bash_source" in output


def test_commands_are_in_the_order_of_work():
    listed = [
        "train",
        "ema",
        "encode",
        "sample",
        "decode",
        "edit",
        "reflow",
        "evaluate",
        "compare",
        "report",
        "verify",
        "data",
        "list",
        "show",
        "doctor",
        "demo",
    ]
    assert cli.list_commands(click.Context(cli))[: len(listed)] == listed
    for name in listed:
        help_line = cli.commands[name].get_short_help_str(limit=1000)
        assert len(help_line) < 65, "it would be cut in the list"
        words = (name, "info") if name == "data" else (name,)
        assert "--json" in ask(*words, "--help").stdout
        assert "--debug" in ask(*words, "--help").stdout


def test_exit_codes_of_the_program(here):
    assert program("list").returncode == 0
    assert program("verify", "mine.py").returncode == 1
    ran = program("lsit")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("gensys: there is no command 'lsit'. Did you mean 'list'? The commands: train,")


def test_a_reader_that_goes_away_is_no_failure():
    command = f"set -o pipefail; {shlex.quote(sys.executable)} -m gensys show latent_dit | true"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert ran.stderr == ""


@pytest.mark.parametrize(
    ("number", "code", "how"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_ctrl_c_and_sigterm_say_what_is_kept(here, number, code, how):
    text = (
        "import sys, time, types, gensys.pipelines\n"
        "def train(*a, **k):\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "gensys.pipelines.train = types.SimpleNamespace(train=train)\n"
        "sys.argv = ['gensys', 'train', './mine.py:mine', 'data=x']\n"
        "from gensys.cli import main\nmain()"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", text], text=True, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert said == (
        f"gensys: {how}. The checkpoints in runs/mine are kept; the same command (without --fresh) goes on from "
        "the newest.\n"
    )


# ----------------------------------------------------------------------------------------------- what is not understood


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("trian digits", "there is no command 'trian'. Did you mean 'train'?"),
        ("--quite", "No such option '--quite'."),
        ("train ./mine.py:mine data=x --worker 3", "No such option '--worker'. Did you mean '--workers'?"),
        ("train ./mine.py:mine --depth 4", "Knobs are written without dashes: depth=VALUE."),
        ("train ./mine.py:mine --workers two", "'two' is neither a number of workers"),
        ("train ./mine.py:mine --workers -1", "'-1' is neither a number of workers"),
        ("train ./mine.py:mine data=x --allow-damaged 2", "2.0 is not in the range 0<=x<=1"),
        ("train ./mine.py:mine data=x --allow-damaged some", "'some' is not a valid float"),
        ("train", "Missing argument 'RECIPE'. `gensys list` shows the recipes."),
        ("train latent_dot", "there is no recipe 'latent_dot'. Did you mean 'latent_dit'?"),
        ("show latent_dot", "there is no recipe 'latent_dot'. Did you mean 'latent_dit'?"),
        ("train depth=4 latent_dit", "'depth=4' is a knob: the recipe comes first"),
        ("train ./mine.py", "name the function in it as well, as in ./mine.py:FUNCTION"),
        ("train ./mine.py:mien data=x", "has no function 'mien'. Did you mean 'mine'?"),
        ("train ./yours.py:mine", "cannot be read"),
        ("show ./yours.py:mine", "is not there"),
        ("train ./mine.py:mine data=x dept=4", "has no knob 'dept'. Did you mean 'depth'?"),
        (
            "train ./mine.py:mine data=x depth",
            "knobs are given as knob=value, without spaces around the =, such",
        ),
        ("train ./mine.py:mine data=x depth = 4", "'depth' is not understood"),
        ("train ./mine.py:mine data=x =4", "'=4' names no knob"),
        ("train ./mine.py:mine data=x depth=4 depth=5", "knob 'depth' is given twice, as '4' and as '5'"),
        ("train ./mine.py:mine data=x seed=1 --seed 2", "--seed is the knob 'seed'"),
        ("train ./mine.py:mine data=x depth=deep", "knob 'depth' is a whole number, got 'deep'"),
        ("train ./mine.py:mine data=x wide=perhaps", "knob 'wide' is true or false, got 'perhaps'"),
        ("train ./mine.py:mine data=x lr=fast", "knob 'lr' is a number, got 'fast'"),
        ("train ./mine.py:mine data=x solver=huen", "is one of heun, euler, got 'huen'. Did you mean 'heun'?"),
        ("train ./mine.py:mine", "needs a value for data: give data=VALUE"),
        ("sample nothing", "nothing is at 'nothing'."),
        ("sample", "Missing argument 'RUN'. `gensys list` shows the runs in ./runs."),
        ("sample . --seeds 5:", "'5:' is neither a number of samples (250) nor a range of them (0:50000)"),
        ("sample . --seeds 9:9", "'9:9' holds no sample"),
        ("sample . --seeds -4", "'-4' holds no sample"),
    ],
)
def test_misuse(here, calls, words, said):
    assert said in complaint(*words.split())
    assert not calls.noted


def test_misuse_names_the_nearest_run(here):
    (here / "runs" / "digits").mkdir(parents=True)
    assert "Did you mean 'runs/digits'?" in complaint("sample", "runs/digit")
    assert "Did you mean 'runs/digits'?" in complaint("evaluate", "digit")


# ------------------------------------------------------------------------------------------------------ what goes wrong


def of_ray(name, cause=None):
    """An exception as Ray raises them; those of tasks have the remote traceback as their text."""
    kind = type(name, (Exception,), {"__module__": "ray.exceptions", "cause": cause})
    return kind("ray::worker died\n  File somewhere\n  more of it")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RunError("the run differs: depth 2 -> 4"), 1, "gensys: the run differs: depth 2 -> 4"),
        (ConfigError("not so"), 2, "gensys: not so"),
        (OSError(errno.ENOSPC, "no space", "/big/x"), 1, "gensys: the disk is full at '/big/x': free some space"),
        (PermissionError(errno.EACCES, "no", "/root"), 1, "gensys: permission is denied at '/root': choose a place"),
        (OSError(errno.EROFS, "ro"), 1, "gensys: the file system is read-only: choose"),
        (
            FileExistsError(errno.EEXIST, "e", "a.txt"),
            1,
            "gensys: a file is where a folder should be at 'a.txt': choose",
        ),
        (
            NotADirectoryError(errno.ENOTDIR, "n", "a/b"),
            1,
            "gensys: a file is where a folder should be at 'a/b': choose",
        ),
        (MemoryError(), 1, "gensys: the memory is used up: take a smaller batch"),
        (
            KeyError("x"),
            1,
            "gensys: this is a bug of gensys: KeyError: 'x'; run again with --debug",
        ),
        (of_ray("RayTaskError", RunError("as it was raised")), 1, "gensys: as it was raised"),
        (of_ray("A", of_ray("B", OSError(errno.ENOSPC, "x"))), 1, "gensys: the disk is full"),
        (of_ray("ActorDiedError"), 1, "gensys: the workers failed (ActorDiedError: ray::worker died): give the same"),
        (Terminated(), 143, "gensys: terminated. The checkpoints in runs/mine are kept; the same command"),
        (KeyboardInterrupt(), 130, "gensys: interrupted. The checkpoints in runs/mine are kept; the same command"),
    ],
)
def test_failures(here, calls, error, code, said):
    calls.install("train", train=error)
    assert complaint("train", "./mine.py:mine", "data=x", code=code).startswith(said)


@pytest.mark.parametrize("words", ["--debug train ./mine.py:mine data=x", "train ./mine.py:mine data=x --debug"])
def test_debug_shows_the_trace(here, calls, words):
    calls.install("train", train=KeyError("x"))
    result = CliRunner().invoke(cli, words.split())
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "KeyError: 'x'" in result.stderr


# --------------------------------------------------------------------------------------------------------------- verbs


def test_train(here, calls):
    (here / "pictures").mkdir()
    line = "train ./mine.py:mine data=pictures depth=7 wide=no --seed 3 --workers 2 --fresh"
    assert ask(*line.split()).stdout.splitlines()[0] == "runs/mine: trained 1,200 steps, 76,800 rows, 2 min 05 s"
    ((name, (folder, spec), options),) = calls.noted
    assert name == "train"
    assert folder.path == Path("runs/mine")
    assert spec.recipe == f"{here}/mine.py:mine"
    assert spec.code == RECIPE
    assert spec.knobs == {
        "data": str(here / "pictures"), "depth": 7, "wide": False, "lr": 1e-3, "solver": "heun", "seed": 3,
    }  # fmt: skip
    assert (options["workers"], options["fresh"], options["screen"].quiet) == (2, True, False)


@pytest.mark.parametrize(
    ("words", "share"), [([], None), (["--allow-damaged", "0.2"], 0.2), (["--allow-damaged", "0"], 0)]
)
def test_the_share_that_may_be_damaged(here, calls, store, words, share):
    (here / "runs" / "codec").mkdir(parents=True)
    (here / "runs" / "codec" / "run.json").write_text("{}")
    calls.install("encode", encode=store)
    ask("train", "./mine.py:mine", "data=x", *words)
    ask("encode", "codec", *words)
    (_, (_, spec), _), (_, _, options) = calls.noted
    assert (spec.damaged, options["damaged"]) == (share, share)


@pytest.mark.parametrize("name", ["a.csv", "part-{000..009}.tar"])
def test_files_travel_as_absolute_paths_too(here, calls, name):
    (here / "a.csv").touch()
    ask("train", "./mine.py:mine", f"data={name}")
    ((_, (_, spec), _),) = calls.noted
    assert spec.knobs["data"] == str(here / name)


@pytest.mark.parametrize(("recipe", "knob"), [("cyclegan", "other"), ("vqgan", "extractor")])
def test_so_do_other_files_that_a_recipe_reads(here, calls, recipe, knob):
    (here / "a").touch()
    ask("train", recipe, f"{knob}=a")
    ((_, (_, spec), _),) = calls.noted
    assert spec.knobs[knob] == str(here / "a")


def test_no_data_are_not_the_current_folder(here, calls):
    ask("train", "./mine.py:mine", "data=")
    ((_, (_, spec), _),) = calls.noted
    assert spec.knobs["data"] == ""


def test_the_name_of_a_data_set_wins_over_a_folder(here, calls):
    (here / "mnist").mkdir()
    ask("train", "./mine.py:mine", "data=mnist")
    ask("train", "./mine.py:mine", "data=./mnist")
    assert [spec.knobs["data"] for _, (_, spec), _ in calls.noted] == ["mnist", str(here / "mnist")]


@pytest.mark.parametrize(
    ("kind", "verb"), [({"kind": "codec"}, "encode"), ({"kind": "model"}, "sample"), ({}, "sample")]
)
def test_train_says_the_one_right_command_that_follows(here, calls, kind, verb):
    (here / "runs" / "mine").mkdir(parents=True)
    (here / "runs" / "mine" / "run.json").write_text(json.dumps({"recipe": "x", "knobs": {}, **kind}))
    assert ask("train", "./mine.py:mine", "data=x").stdout.splitlines()[1] == f"next: gensys {verb} runs/mine"
    calls.install("train", train=State(1200, 76800, 125.0, False))
    assert ask("train", "./mine.py:mine", "data=x").stdout.splitlines()[1] == "next: the same command, which goes on"


@pytest.mark.parametrize(
    ("seconds", "said"), [(8.04, "8.0 s"), (65, "1 min 05 s"), (1322, "22 min"), (7380, "2 h 03 min")]
)
def test_an_estimate_is_no_more_exact_than_it_is(here, calls, seconds, said):
    calls.install("train", plan={"estimated_seconds": seconds, "disk_bytes": 71.3 * 2**20})
    output = ask("train", "./mine.py:mine", "data=x", "--dry-run").stdout
    assert output.splitlines() == [f"  time  about {said}", "  disk  71 MiB"]


def test_train_as_json_and_quiet(here, calls):
    result = ask("train", "./mine.py:mine", "data=x", "--run", "elsewhere", "-q", "--json")
    assert json.loads(result.stdout) == {
        "run": str(here / "elsewhere"), "step": 1200, "images": 76800, "seconds": 125.0, "finished": True, "skipped": 0,
        "score": None,
    }  # fmt: skip
    assert calls.noted[0][2]["screen"].quiet


def test_json_stays_json_when_a_library_prints(here, calls, monkeypatch):
    def chatty(*_, **__):
        print("hello from a library")
        return State()

    monkeypatch.setattr(sys.modules["gensys.pipelines.train"], "train", chatty)
    result = ask("train", "./mine.py:mine", "data=x", "--json")
    assert json.loads(result.stdout)["finished"] is False
    assert "hello from a library" in result.stderr


def test_dry_run_only_plans(here, calls):
    output = ask("train", "./mine.py:mine", "data=x", "--dry-run").stdout
    assert output.splitlines() == ["  rows  4,500", "  time  about 1 min 05 s"]
    assert [name for name, _, _ in calls.noted] == ["plan"]
    assert sorted(os.listdir(here)) == ["mine.py"]


@pytest.fixture
def store(here):
    store = Store.create(here / "s.zarr", {"x": ArraySpec(shape=(2,), dtype="float32")}, 10, 4, 2, {})
    for shard in range(3):
        store.commit(shard, {"x": np.full((len(store.rows_of(shard)), 2), shard, np.float32)})
    store.seal({})
    return store


def test_encode(here, calls, store):
    (here / "runs" / "codec").mkdir(parents=True)
    (here / "runs" / "codec" / "run.json").write_text("{}")
    calls.install("encode", encode=store)
    output = ask("encode", "codec", "--data", "fashion", "--shard", "7").stdout
    assert output == "10 samples of 2 float32 in s.zarr\nnext: gensys train latent_dit data=runs/codec/latents.zarr\n"
    ((_, (folder, out), options),) = calls.noted
    assert (folder.path, out) == (Path("runs/codec"), Path("runs/codec/latents.zarr"))
    assert (options["data"], options["shard"], options["workers"]) == ("fashion", 7, 0)


IMAGES = {"x": ArraySpec((3, 32, 32), "uint8"), "label": ArraySpec((), "int64")}
LATENTS = {name: ArraySpec((4, 8, 8), "float16") for name in ("mean", "logvar")}
CODES = {"codes": ArraySpec((8, 8), "uint16")}


@pytest.mark.parametrize(
    ("arrays", "classes", "said"),
    [
        (IMAGES, ["a"], "3 samples of 3x32x32 uint8 with labels in o.zarr"),
        (IMAGES, [], "3 samples of 3x32x32 uint8 in o.zarr"),
        (LATENTS, [], "3 latents of 4x8x8 float16 in o.zarr"),
        (CODES, [], "3 latents of 8x8 uint16 in o.zarr"),
    ],
)
def test_what_a_store_holds_is_told(here, calls, arrays, classes, said):
    calls.install("sample", sample=Store.create(here / "o.zarr", arrays, 3, 4, 2, {"classes": classes}))
    assert ask("sample", ".", "--out", "o.zarr").stdout == f"{said}\nnext: gensys evaluate o.zarr\n"
    (here / "o.png").touch()
    picture = "; picture: o.png" if "x" in arrays else ""
    assert ask("sample", ".", "--out", "o.zarr").stdout.splitlines()[0] == said + picture


def test_sample(here, calls, store):
    calls.install("sample", sample=store)
    line = "sample . --seeds 5:25 --seed 9 --label 3 steps=40 --data own --out o.zarr --workers 2 --json"
    answer = json.loads(ask(*line.split()).stdout)
    assert answer["arrays"] == {"x": {"dtype": "float32", "shape": [2]}}
    ((_, (folder, out), options),) = calls.noted
    assert (folder.path, out) == (Path(), Path("o.zarr"))
    del options["screen"]
    assert options == {
        "ids": range(5, 25), "seed": 9, "label": "3", "overrides": {"steps": "40"}, "shard": None, "workers": 2,
        "checkpoint": "newest", "table": None, "data": "own", "latents": False, "moments": False,
    }  # fmt: skip


def test_an_interrupted_sample_says_how_to_go_on(here, calls):
    calls.install("sample", sample=KeyboardInterrupt())
    said = complaint("sample", ".", code=130)
    assert said.endswith(
        "interrupted. The finished shards in samples.zarr are kept; the same command makes the others."
    )


def test_evaluate(here, calls):
    metric = {
        "value": 0.12345678, "floor": 0.01, "low": 0.1, "high": 0.15, "unit": "nats", "better": "lower", "n": 2000,
        "about": "how far",
    }  # fmt: skip
    real = metric | {"spread": 0.0025}
    bare = metric | {"floor": None, "low": None, "high": None, "unit": "", "value": "inf"}
    calls.install(
        "evaluate",
        evaluate={
            "metrics": {"fd": metric, "kd": real, "psnr": bare},
            "protocol": {"data": "mnist", "n": 2000},
            "left_out": ["no floors: few rows", "no labels: none"],
            "file": "e.json",
        },
    )
    assert ask("evaluate", ".").stdout.splitlines() == [
        "  metric  value        95 % interval  real data       better  rows",
        "  fd      0.1235 nats  0.1 .. 0.15    0.01            lower   2,000",
        "  kd      0.1235 nats  0.1 .. 0.15    0.01 +- 0.0025  lower   2,000",
        "  psnr    inf                                         lower   2,000",
        "",
        "  fd    how far",
        "  kd    how far",
        "  psnr  how far",
        "",
        "  data  mnist",
        "  n     2,000",
        "",
        "no floors: few rows",
        "no labels: none",
        "",
        "written: e.json",
    ]
    assert json.loads(ask("evaluate", ".", "--json").stdout)["metrics"]["fd"] == metric


@pytest.fixture
def reported(monkeypatch):
    """Notes what makes reports is asked for, and does nothing of it."""
    noted = []

    def noting(name):
        def call(folder, *options, **named):
            noted.append((name, folder, *options, *named.values()))
            return options[0] if options and isinstance(options[0], Path) else Path("report.html")

        return call

    fake = ModuleType("gensys.report")
    vars(fake).update({name: noting(name) for name in ("add_trajectory", "write_report", "write_reports", "watch")})
    vars(fake)["complete"] = lambda folder: not (folder / "samples.zarr").exists()
    monkeypatch.setitem(sys.modules, "gensys.report", fake)
    for module, names in (("gallery", ("add_neighbours", "add_map")), ("tradeoff", ("add_tradeoff",))):
        pipeline = ModuleType(f"gensys.pipelines.{module}")
        vars(pipeline).update({name: noting(name) for name in names})
        monkeypatch.setitem(sys.modules, f"gensys.pipelines.{module}", pipeline)
    return noted


def test_report(here, reported):
    assert ask("report", ".").stdout == f"{here}/report.html\n"
    assert reported == [("add_trajectory", Path(".")), ("write_report", Path("."), None)]
    reported.clear()
    assert ask("report", ".", "--out", "p.html", "--watch", "5").stdout == f"{here}/p.html\n"
    assert [name for name, *_ in reported] == ["watch", "add_trajectory", "write_report"]
    assert reported[0][1:] == (Path("."), 5.0, Path("p.html"))
    assert reported[-1][1:] == (Path("."), Path("p.html"))


def test_report_makes_first_what_is_missing(here, reported):
    (here / "samples.zarr").mkdir()
    ask("report", ".", "--nfe", "2,10")
    assert [name for name, *_ in reported] == [
        "add_trajectory", "add_neighbours", "add_map", "add_tradeoff", "write_report",
    ]  # fmt: skip
    assert reported[3][1:3] == (RunFolder(Path(".")), [2, 10])
    assert "a list of numbers" in ask("report", ".", "--nfe", "2,x", code=2).stderr


def test_a_report_does_without_what_cannot_be_made(here, reported, monkeypatch):
    def fail(folder, screen):
        raise RunError("the data are gone")

    (here / "samples.zarr").mkdir()
    monkeypatch.setattr(sys.modules["gensys.pipelines.gallery"], "add_map", fail)
    result = ask("report", ".")
    assert result.stdout == f"{here}/report.html\n"
    assert "left out of the report: the data are gone" in result.stderr


def test_report_of_several_runs(here, reported):
    assert ask("report", ".", "..").stdout == f"{here}/runs/report.html\n"
    assert reported == [("write_reports", (Path("."), Path("..")), Path("runs/report.html"))]
    assert "'watch' is for one run" in ask("report", ".", "..", "--watch", "5", code=2).stderr
    assert "'nfe' is for one run" in ask("report", ".", "..", "--nfe", "5", code=2).stderr


def test_demo(here, calls):
    stages = [{"stage": "encode", "seconds": 2.5, "detail": "two workers"}]
    calls.install("demo", demo={"seconds": 61, "metrics": {}, "report": here / "report.html", "stages": stages})
    output = ask("demo", "--budget", "20", "--workers", "3").stdout
    assert output.splitlines()[-4:] == [
        "  encode  2.5 s  two workers",
        "",
        "  time    1 min 01 s",
        f"  report  {here}/report.html",
    ]
    ((_, (folder,), options),) = calls.noted
    assert (folder, options["budget"], options["workers"], options["data"]) == (Path("runs/demo"), 20.0, 3, "mnist")
    assert json.loads(ask("demo", "--json").stdout)["report"] == f"{here}/report.html"
    assert calls.noted[1][2]["workers"] >= 1


# ---------------------------------------------------------------------------------------------------------------- looks


def test_verify_and_repair(here, store):
    assert ask("verify", "s.zarr").stdout == "s.zarr: 10 rows in 3 shards, all well (sealed)\n"
    file = next(f for f in (here / "s.zarr" / "x").rglob("*") if f.is_file() and f.suffix != ".json")
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    found = ask("verify", "s.zarr", code=1).stdout
    assert found.startswith("s.zarr: 1 problem\n  shard ")
    assert "its content is not what was committed" in found
    assert len(json.loads(ask("verify", "s.zarr", "--json", code=1).stdout)["problems"]) == 1
    assert "taken back: 1 shard." in ask("verify", "s.zarr", "--repair").stdout
    assert len(store.missing()) == 1
    assert "not committed" in ask("verify", "s.zarr", code=1).stdout


def test_verify_does_not_wait_for_torch(here, store):
    code = (
        "import sys\nfrom gensys.cli import cli\ncli(['verify', 's.zarr'], standalone_mode=False)\n"
        "print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1] == "False"


def test_verify_of_something_else(here):
    assert "is not a store" in complaint("verify", ".", code=1)


def test_list(here):
    assert "none yet" in ask("list").stdout

    def run(name, state=None, recipe="digits"):
        folder = here / "runs" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"recipe": recipe, "knobs": {}}))
        if state:
            checkpoint = folder / "checkpoints" / f"{state['step']:08d}"
            checkpoint.mkdir(parents=True)
            (checkpoint / "state.json").write_text(json.dumps(state))
            (checkpoint / "COMMITTED").write_text("{}")

    run("a", {"step": 1200, "finished": True})
    run("b", {"step": 50, "finished": False}, recipe="/home/me/mine.py:mine")
    run("c")
    (here / "runs" / "d").mkdir()
    (here / "runs" / "d" / "run.json").write_text("{")
    lines = ask("list").stdout.splitlines()
    assert lines[lines.index("runs in ./runs") + 1 :] == [
        "  name  recipe        step",
        "  a     digits        1,200  finished",
        "  b     mine.py:mine  50     unfinished",
        "  c     digits               started",
        "  d                          damaged: run.json or state.json cannot be read",
    ]
    answer = json.loads(ask("list", "--json").stdout)
    assert {"kl_autoencoder", "latent_dit"} <= set(answer["recipes"])
    assert [r["finished"] for r in answer["runs"]] == [True, False, False, False]


def test_show(here):
    assert ask("show", "./mine.py:mine").stdout.splitlines() == [
        "Nothing real.",
        "",
        "For tests.",
        "",
        "  knob    default   type",
        "  data    (needed)  text          what to train on",
        "  depth   2         int           blocks",
        "  wide    true      true | false",
        "  lr      0.001     float         learning rate",
        "  solver  heun      heun | euler",
        "  seed    0         int           of everything",
        "",
        "source: mine.py",
        "train:  gensys train ./mine.py:mine data=...",
    ]
    depth = json.loads(ask("show", "./mine.py:mine", "--json").stdout)["knobs"][1]
    assert depth == {"name": "depth", "type": "int", "default": 2, "required": False, "help": "blocks"}


@pytest.mark.parametrize("recipe", ["kl_autoencoder", "latent_dit"])
def test_built_in_recipes_can_be_shown(recipe):
    knobs = json.loads(ask("show", recipe, "--json").stdout)["knobs"]
    assert [k["name"] for k in knobs if not k["help"]] == []


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("train lat", "latent_dit"),
        ("train latent_dit guidan", "guidance="),
        ("tra", "train"),
        ("train x --wor", "--workers"),
    ],
)
def test_completion(line, wanted):
    environ = os.environ | {"_GENSYS_COMPLETE": "bash_complete", "COMP_WORDS": f"gensys {line}"}
    environ["COMP_CWORD"] = str(len(line.split()))
    assert wanted in program(env=environ).stdout


# ------------------------------------------------------------------------------------------------------------ the parts


@pytest.mark.parametrize(("text", "ids"), [("0:50000", range(50000)), ("250", range(250)), ("7:9", range(7, 9))])
def test_seeds(text, ids):
    assert SeedRange().convert(text, None, None) == ids


def test_figures():
    assert [duration(s) for s in (3.14159, 59.98, 65, 3600 * 2.05)] == [
        "3.1 s",
        "1 min 00 s",
        "1 min 05 s",
        "2 h 03 min",
    ]
    assert [size(n) for n in (512, 4.2 * 2**20, 3 * 2**40)] == ["512 B", "4.2 MiB", "3.0 TiB"]
    assert plain({"a": float("inf"), 1: (Path("x"), None, True)}) == {"a": "inf", "1": ["x", None, True]}


def test_columns_fold_on_a_terminal_only(monkeypatch):
    rows = [["a", "word " * 20], [click.style("long", fg="red"), "b"]]
    assert len(columns(rows).splitlines()) == 2
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setenv("COLUMNS", "60")
    folded = columns(rows).splitlines()
    assert len(folded) == 3
    assert folded[1].startswith(" " * 8 + "word")
    assert max(map(len, folded[:2])) <= 60
