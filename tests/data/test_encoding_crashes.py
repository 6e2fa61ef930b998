"""An update that is killed: at any instant the store is the old one or the new one, and the same command ends well."""

import multiprocessing
import shutil
import signal

import pytest
from fatal import Fatal
from toy import Items, files, run

from gensys import durable
from gensys.data.store import Store

ITEMS = {f"cat/{k:02d}": f"content {k}" for k in range(21)}
NEW = {name: "changed" if name == "cat/03" else content for name, content in ITEMS.items() if name != "cat/04"}
NEW |= {"cat/98": "new", "dog/1": "new"}
POINTS = ("fsync", "link", "rename", "replace", "mkdir", "rmdir", "unlink")  # whatever becomes visible, durable or gone


def update(out, exchanging):
    if not exchanging:
        durable.exchange = lambda a, b: False
    run(out, Items(NEW), update=True)


def die_at(out, exchanging, point, counter):
    """Update, and be killed at the `point`-th call that matters; returns having counted them if it lives."""
    fatal = Fatal(point)
    fatal.wrap_system(POINTS)
    durable.exchange = fatal.wrap(durable.exchange)
    update(out, exchanging)
    counter.value = fatal.calls


def start(processes, *arguments):
    process = processes.Process(target=die_at, args=arguments)
    process.start()
    process.join(60)
    code = process.exitcode
    process.close()
    return code


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["zarr", "torch", "gensys.data.encoding"])
    return context


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """The store before, and after an update that nobody disturbed."""
    root = tmp_path_factory.mktemp("quiet")
    run(root / "old" / "z.zarr", Items(ITEMS))
    run(root / "new" / "z.zarr", Items(ITEMS))
    update(root / "new" / "z.zarr", True)
    return root / "old" / "z.zarr", files(root / "old" / "z.zarr"), files(root / "new" / "z.zarr")


def check(out, before, after):
    if out.exists():
        assert files(out) in (before, after)
        assert Store.open(out).verify() == []
    update(out, True)
    assert files(out) == after
    assert [p.name for p in out.parent.iterdir()] == [out.name]


@pytest.mark.exhaustive
@pytest.mark.parametrize("exchanging", [True, False])
def test_killed_at_every_point(tmp_path, processes, quiet, exchanging):
    """Before each call that makes something visible, durable or gone: a process for every one."""
    old, before, after = quiet
    counter = processes.Value("i", -1)
    shutil.copytree(old, tmp_path / "whole" / old.name)
    assert start(processes, tmp_path / "whole" / old.name, exchanging, -1, counter) == 0
    assert files(tmp_path / "whole" / old.name) == after
    assert counter.value > 50
    for point in range(counter.value):
        out = tmp_path / str(point) / old.name
        shutil.copytree(old, out)
        assert start(processes, out, exchanging, point, counter) == -signal.SIGKILL
        check(out, before, after)
        shutil.rmtree(out.parent)


@pytest.mark.parametrize("exchanging", [True, False])
def test_killed_over_and_over(tmp_path, processes, quiet, exchanging):
    """One store, and processes that live for a few calls more than the one before, until one gets to the end."""
    old, before, after = quiet
    out, kills, counter = tmp_path / old.name, 0, processes.Value("i", -1)
    shutil.copytree(old, out)
    while start(processes, out, exchanging, 10 + 9 * kills, counter) != 0:
        kills += 1
        if out.exists():
            assert files(out) in (before, after)
    assert kills >= 4
    check(out, before, after)
