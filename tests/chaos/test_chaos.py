"""Jobs whose processes are killed, stopped and starved over and over: the result is that of a quiet run, bit for bit.

`make chaos SEED=7 JSON=FILE` disturbs encoding, training and sampling about 130 times, more than a hundred of them with
SIGKILL. The normal run has a short version. `make cluster-test` cuts networks.
"""

import dataclasses
import json
import os
import random
import shutil
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from jobs import RAY, gensys, here, job, leftovers, made, prepare, small_disk, verdict
from killer import FULL, KILL, PAUSE, VICTIMS, disturb, plan

MANY = {
    (KILL, "worker"): 38,
    (KILL, "driver"): 3,
    (KILL, "raylet"): 2,
    (KILL, "coordinator"): 2,
    (PAUSE, "worker"): 3,
    (PAUSE, "driver"): 1,
    (PAUSE, "raylet"): 1,
    (PAUSE, "coordinator"): 1,
    (FULL, "disk"): 1,
}
FEW = {  # Ray Train starts its workers anew for each
    (KILL, "worker"): 8,
    (KILL, "driver"): 2,
    (KILL, "raylet"): 1,
    (KILL, "coordinator"): 1,
    (PAUSE, "worker"): 1,
    (PAUSE, "driver"): 1,
    (PAUSE, "raylet"): 1,
    (PAUSE, "coordinator"): 1,
    (FULL, "disk"): 1,
}
STEPS, SHORT = 300, 60  # of training
SEED = int(os.environ.get("CHAOS_SEED", "0"))
PAUSES = {"encode": "0.3", "sample": "0.15", "train": "0.02"}  # so that there is time for all of it


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("chaos")
    prepare(root)
    return root


@pytest.fixture
def ray_folder():
    """Where Ray keeps its sessions. Its sockets' paths must be short; nothing of it stays."""
    folder = Path(tempfile.mkdtemp(prefix="gx-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)
    assert not folder.exists()


@pytest.fixture
def quiet(root, tmp_path):
    """name, steps, workers -> what the same command leaves undisturbed."""

    def run(name, steps, workers):
        undisturbed = job(name, root, tmp_path / f"quiet-{name}", workers, steps)
        if workers:
            done = gensys(*undisturbed.words, cwd=undisturbed.folder, **RAY)
            assert done.returncode == 0, done.stderr
        else:
            code, said = here(*undisturbed.words)
            assert code == 0, said
        return made(undisturbed)

    return run


def table(stories):
    """kind x victim x job: how often, the seconds until the job had come further (mean, longest), new starts."""
    cells = defaultdict(list)
    for story in stories:
        for event in story.events:
            cells[event.kind, event.victim, story.job].append(event)
    lines = [f"{'what':<17} {'whom':<12} {'job':<7} {'count':>5} {'mean s':>7} {'max s':>6} {'new starts':>10}"]
    for (kind, victim, name), events in sorted(cells.items(), key=lambda cell: (cell[0][2], VICTIMS.index(cell[0][1]))):
        seconds = [event.seconds for event in events if event.seconds is not None] or [float("nan")]
        mean, longest, starts = sum(seconds) / len(seconds), max(seconds), sum(event.restarts for event in events)
        lines.append(f"{kind:<17} {victim:<12} {name:<7} {len(events):>5} {mean:>7.1f} {longest:>6.1f} {starts:>10}")
    lines += [
        f"{story.job}: {story.seconds:.0f} s, {len(story.events)} disturbances, {story.kills} of them kills, "
        f"{len(story.said) - 1} new starts of the driver"
        for story in stories
    ]
    return "\n".join(lines)


def check(disturbed, story, bytes_of_quiet):
    """All that must hold of a job that is through."""
    assert leftovers(disturbed.folder) == [], f"processes of {disturbed.name} outlive it"
    result = verdict(disturbed, bytes_of_quiet)
    assert result.clean, (result, story.events)
    return result


def all_at_once(jobs, counts, seed, ray_folder, pauses):
    """Disturb jobs side by side: while one waits for Ray to see that something is gone, the others go on."""

    def run(name):
        (ray_folder / name[0]).mkdir()
        environment = {**RAY, "RAY_TMPDIR": str(ray_folder / name[0]), "CHAOS_PAUSE": pauses[name]}
        dice = random.Random(f"{seed} {name}")
        return disturb(jobs[name], plan(dice, counts[name]), dice, environment)

    with ThreadPoolExecutor(len(jobs)) as threads:
        return list(threads.map(run, jobs))


@pytest.mark.chaos
def test_a_hundred_kills_change_no_byte(root, tmp_path, ray_folder, quiet):
    counts = {"encode": dict(MANY), "sample": dict(MANY), "train": dict(FEW)}
    with ExitStack() as disks:
        jobs = {}
        for name in counts:
            why = disks.enter_context(small_disk(tmp_path / f"disk-{name}", "64m"))
            if why:
                print(f"no full disk: {why}")
                del counts[name][FULL, "disk"]
            jobs[name] = job(name, root, tmp_path / name, 2, STEPS, None if why else tmp_path / f"disk-{name}")
        stories = all_at_once(jobs, counts, SEED, ray_folder, PAUSES)
        kills = sum(story.kills for story in stories)
        print(f"\nseed {SEED}\n{table(stories)}", flush=True)
        book = [(story, check(jobs[story.job], story, quiet(story.job, STEPS, 0))) for story in stories]
    print(f"{kills} kills; nothing lost, nothing twice, no byte differs", flush=True)
    if target := os.environ.get("CHAOS_JSON"):
        found = [{**dataclasses.asdict(story), "left": dataclasses.asdict(left)} for story, left in book]
        Path(target).write_text(json.dumps({"seed": SEED, "kills": kills, "jobs": found}, indent=2) + "\n")
    assert [story.missed for story in stories] == [[], [], []]
    assert kills >= 100


@pytest.mark.chaos
@pytest.mark.parametrize("name", ["encode", "sample"])
def test_without_the_commit_protocol_the_same_is_caught(tmp_path, ray_folder, name):
    """The negative control: a harness that cannot fail would show nothing."""
    prepare(tmp_path, broken=True)
    undisturbed = job(name, tmp_path, tmp_path / "quiet", 0)
    for words in (undisturbed.words, ("verify", str(undisturbed.folder / f"{name}.zarr"))):
        code, said = here(*words)
        assert code == 0, said

    disturbed = job(name, tmp_path, tmp_path / "disturbed", 2)
    dice = random.Random(f"{SEED} control {name}")
    environment = {**RAY, "RAY_TMPDIR": str(ray_folder), "CHAOS_PAUSE": "0.3"}
    story = disturb(disturbed, plan(dice, {(KILL, "worker"): 8, (KILL, "driver"): 1}), dice, environment)
    leftovers(disturbed.folder)
    result = verdict(disturbed, made(undisturbed))
    print(f"\n{table([story])}\ncontrol: {len(result.differing)} files differ, {len(result.absent)} rows are absent")
    assert [name for name in result.differing if "/c." in name], "nothing was torn: the harness shows nothing"


@pytest.mark.slow
def test_a_handful_of_kills_changes_no_byte(root, tmp_path, ray_folder, quiet):
    """The three jobs at once; training in one process, which is the driver and is killed itself."""
    counts = {
        "encode": {(KILL, "worker"): 3},
        "sample": {(KILL, "worker"): 2, (PAUSE, "worker"): 1},
        "train": {(KILL, "driver"): 2},
    }
    jobs = {name: job(name, root, tmp_path / name, 0 if name == "train" else 2, SHORT) for name in counts}

    stories = all_at_once(jobs, counts, 0, ray_folder, dict.fromkeys(jobs, "0.03"))
    print(f"\n{table(stories)}")
    for story in stories:
        check(jobs[story.job], story, quiet(story.job, SHORT, 0))
        assert not story.missed
