"""Damage to every kind of file that gensys writes: it is found and named, and repaired or refused; logs are survived.

The files are those that a small world of runs and stores has on the disk, so that a new kind cannot be forgotten: a
file that nobody classifies is a failure.
"""

import random
import re
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from jobs import here
from PIL import Image

pytestmark = pytest.mark.slow
TINY = ("precision=fp32", "batch=16", "budget=64", "-q", "--run")
CODEC = ("train", "kl_autoencoder", "data=images", "size=32", "channels=2", "width=8", *TINY, "codec")
FLOW = ("train", "latent_dit", "data=codec/latents.zarr", "width=16", "depth=1", "heads=2", "steps=2", *TINY, "flow")
ENCODE = ("encode", "codec", "--shard", "64", "-q")
SAMPLE = ("sample", "flow", "--seeds", "0:128", "--shard", "64", "-q")
MAKERS = {"codec": CODEC, "codec/latents.zarr": ENCODE, "flow": FLOW, "flow/samples.zarr": SAMPLE}
DAMAGES = ("empty", "half", "flip", "removed")


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def restore(root, before):
    for name in contents(root).keys() - before.keys():
        (root / name).unlink()
    for name, data in before.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A codec's run with its latents, a flow's run with its samples, both scored, and both reports: (folder, files)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("torn")
    generator = np.random.default_rng(0)
    for k in range(120):
        folder = root / "images" / ("cat", "dog", "eel")[k % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (32, 32), np.uint8)).save(folder / f"{k:03d}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for words in (
            *MAKERS.values(),
            ("evaluate", "codec"),
            ("evaluate", "flow"),
            ("report", "codec"),
            ("report", "flow"),
        ):
            code, said = here(*words)
            assert code == 0, said
        yield root, contents(root)
    torch.set_num_threads(threads)


def damaged(data, damage, dice):
    if damage == "half":
        return data[: len(data) // 2]
    if damage == "empty":
        return b""
    place = dice.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << dice.randrange(8)]) + data[place + 1 :]


def ask(*words):
    """The command in this process; whatever happens, no stack trace and no bug."""
    code, said = here(*words)
    assert code in (0, 1, 2), said
    assert "bug of gensys" not in said, said
    assert "Traceback" not in said, said
    return code, said


# What is held of each kind. name: of the file below the world. before: all files as they were.


def a_store(name, before):
    """`verify` finds and names it; repaired, its command makes the same bytes again. Or all of it is refused."""
    store, _, inside = name.partition(".zarr/")
    store += ".zarr"
    code, said = ask("verify", store)
    assert code == 1, f"verify finds nothing: {said}"
    assert re.search(r"shard \d|the store|zarr\.json|not a store", said), said
    ask("verify", store, "--repair")
    code, said = ask(*MAKERS[store])
    if code == 0:
        root = Path(store)
        now, then = (
            contents(root),
            {n[len(store) + 1 :]: data for n, data in before.items() if n.startswith(store + "/")},
        )
        assert now.keys() == then.keys()
        assert [n for n in now if now[n] != then[n]] == []
    else:
        assert inside == "zarr.json", said  # without the group's metadata nothing is known of it
        assert "zarr.json" in said or "store" in said, said


def a_checkpoint(name, before):
    """It is passed over: drawing from it is refused, and training makes it anew with the same bits."""
    run = name.split("/")[0]
    maker = {
        "codec": ("encode", "codec", "--out", "new.zarr", "-q"),
        "flow": ("sample", "flow", "--out", "new.zarr", "-q"),
    }
    code, said = ask(*maker[run])
    assert code == 1, said
    assert "checkpoint" in said, said
    code, said = ask(*MAKERS[run])
    assert code == 0, said
    for other, data in before.items():
        if other.startswith(f"{run}/checkpoints/") and other.endswith(".safetensors"):
            assert Path(other).read_bytes() == data, f"{other} came out different"


def a_configuration(name, before):
    """Whoever needs it refuses, and names it."""
    run = name.split("/")[0]
    words = {
        "codec": ("encode", "codec", "--out", "new.zarr", "-q"),
        "flow": ("sample", "flow", "--out", "new.zarr", "-q"),
    }
    if b'"digest"' not in (Path(name).read_bytes() if Path(name).exists() else b'"digest"'):
        return  # the name of the digest was hit, the rest is whole
    for command in (words[run], ("report", run)):
        code, said = ask(*command)
        assert code != 0, said
        assert "run.json" in said, said


def an_evaluation(name, before):
    """The report says that it is missing or damaged; scoring again makes it."""
    run = name.split("/")[0]
    code, said = ask("report", run)
    assert code == 0, said
    page = (Path(run) / "report.html").read_text()
    there = Path(name).read_bytes() if Path(name).exists() else b""
    assert "evaluation.json" in page or (b'"digest"' not in there and len(there) == len(before[name]))
    code, said = ask("evaluate", run)
    assert code == 0, said


def a_classifier(name, before):
    """Scoring trains it again rather than to use it."""
    code, said = ask("evaluate", "flow")
    assert code == 0, said
    assert {n: Path(n).read_bytes() for n in before if n.startswith("flow/judge/")} == {
        n: data for n, data in before.items() if n.startswith("flow/judge/")
    }


def features(name, before):
    """They are taken again, or, where nothing is known of them any more, it is said what to remove."""
    code, said = ask("evaluate", "flow")
    assert code == 0 or "remove that folder" in said, said
    if code == 0:
        assert {n: Path(n).read_bytes() for n in before if "/digests/features" in n} == {
            n: data for n, data in before.items() if "/digests/features" in n
        }


def a_log(name, before):
    """No result depends on it: the report is written, runs are listed, and training goes on."""
    run = name.split("/")[0]
    for marker in Path(run).glob("checkpoints/*/COMMITTED"):
        marker.unlink()  # so that there is something to do
    for words in (("report", run), ("list",), MAKERS[run]):
        code, said = ask(*words)
        assert code == 0, said


def a_picture(name, before):
    """For people: the report shows it or says that it cannot."""
    code, said = ask("report", name.split("/")[0])
    assert code == 0, said


KINDS = (
    ("*/digests/features*", features),
    ("*.zarr/*", a_store),
    ("*/checkpoints/*", a_checkpoint),
    ("*/run.json", a_configuration),
    ("*/evaluation.json", an_evaluation),
    ("*/judge/*", a_classifier),
    ("*/env.json", a_log),
    ("*/metrics.jsonl", a_log),
    ("*/log.txt", a_log),
    ("*/costs.jsonl", a_log),
    ("*/tensorboard/*", a_log),
    ("*/.lock", a_log),
    ("*/map.json", a_picture),
    ("*/trajectory.json", a_picture),
    ("*/neighbours.json", a_picture),
    ("*.png", a_picture),
    ("*/report.html", a_picture),
)


def kind_of(name):
    return next((check for pattern, check in KINDS if fnmatch(name, pattern)), None)


def representatives(files):
    """One file of those that differ in numbers alone."""
    return {re.sub(r"\d+", "#", name): name for name in files if not name.startswith("images/")}


def test_every_file_has_a_kind(world):
    _, files = world
    assert [name for name in representatives(files).values() if kind_of(name) is None] == []
    assert {check for _, check in KINDS} == {kind_of(name) for name in representatives(files).values()}


@pytest.mark.parametrize(
    "damage", [pytest.param(d, marks=() if d == "flip" else pytest.mark.exhaustive) for d in DAMAGES]
)
def test_damage_is_found_named_and_repaired_or_refused(world, damage):
    root, before = world
    wrong = []
    for shape, name in representatives(before).items():
        if damage != "removed" and not before[name]:
            continue
        if damage == "removed":
            (root / name).unlink()
        else:
            (root / name).write_bytes(damaged(before[name], damage, random.Random(f"{damage} {shape}")))
        try:
            kind_of(name)(name, before)
        except AssertionError as error:
            wrong.append(f"{name}: {' '.join(str(error).split())[:400]}")
        finally:
            restore(root, before)
    assert not wrong, "\n".join(wrong)
