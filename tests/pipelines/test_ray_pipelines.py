"""Ray's part: the same bytes for any number of workers, whatever happens to them. One Ray session for all tests."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import torch
from gensys.pipelines import features, observer, shards
from gensys.pipelines.crew import Workers
from gensys.pipelines.encode import encode
from gensys.pipelines.pool import Pool
from gensys.pipelines.sample import sample
from gensys.pipelines.session import Session
from gensys.pipelines.train import train
from PIL import Image
from safetensors.torch import save_file

from gensys.data.store import ArraySpec, Store
from gensys.engine.checkpoint import newest, read_state
from gensys.errors import ConfigError, DataError, GensysError, RunError
from gensys.evaluate.classifier import weights_hash
from gensys.evaluate.extractors import lenet
from gensys.nn.lenet import LeNet
from gensys.progress import Screen
from gensys.run import Spec, resolve
from gensys.run_folder import RunFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # importing ray.train warns of ray.data's own options
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SCREEN = Screen(quiet=True)
IMAGES = 300
RECIPE = '''
import torch

from gensys.data.sources import open_source, split
from gensys.engine.loop import Settings
from gensys.engine.optim import Optim
from gensys.run import Run, budget_of
from gensys.systems.kl_autoencoder import kl_autoencoder

def mine(data: str, batch: int = 16, budget: str = "4800", seed: int = 0) -> Run:
    """A codec that saves often."""
    source = open_source(data, 16)
    return Run(
        source=source,
        rows=split(source)[0],
        build=lambda: kl_autoencoder(source.shape, channels=2, widths=(8, 16)),
        settings=Settings(batch, budget_of(budget), Optim(warmup=10), precision="fp32", seed=seed, save_every=0.3,
                          log_every=5, previews=1),
    )
'''


@pytest.fixture(scope="module")
def session():
    """Started once. Jobs of this file are sent whole, since no worker could import it."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with Session(2) as made:
        made.ready()
        yield made
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def pool(session):
    made = Pool(2, session, cpus=0)
    yield made
    made.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """images/, mine.py, the run of a codec, its latents, and the run of a flow on them."""
    root = tmp_path_factory.mktemp("ray")
    generator = np.random.default_rng(0)
    for k in range(IMAGES):
        folder = root / "images" / ("cat", "dog", "eel")[k % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16), np.uint8)).save(folder / f"{k:03d}.png")
    (root / "mine.py").write_text(RECIPE)
    torch.set_num_threads(1)
    tiny = {"size": "16", "channels": "2", "width": "8", "batch": "16", "budget": "64", "precision": "fp32"}
    codec = RunFolder(root / "codec")
    train(
        codec, resolve("kl_autoencoder", {"data": str(root / "images"), **tiny}), workers=0, fresh=False, screen=SCREEN
    )
    encode(codec, root / "latents.zarr", data=None, shard=64, workers=0, screen=SCREEN)
    tiny = {"width": "16", "depth": "2", "heads": "2", "batch": "16", "budget": "64", "steps": "3", "precision": "fp32"}
    spec = resolve("latent_dit", {"data": str(root / "latents.zarr"), **tiny})
    train(RunFolder(root / "flow"), spec, workers=0, fresh=False, screen=SCREEN)
    return root


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def rows(store):
    index = np.arange(len(store))
    return {name: store.read(name, index) for name in store.config.arrays}


def assert_same_rows(a, b):
    a, b = rows(a), rows(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def draw(root, out, ids=range(200), shard=64, pool=None, seed=0, label=None, table=None):
    return sample(
        RunFolder(root / "flow"), out, ids=ids, seed=seed, label=label, overrides={}, shard=shard, workers=0,
        screen=SCREEN, pool=pool, table=table,
    )  # fmt: skip


def code(root, out, shard=64, pool=None, workers=0):
    return encode(RunFolder(root / "codec"), out, data=None, shard=shard, workers=workers, screen=SCREEN, pool=pool)


# ---------------------------------------------------------------------------------------------------- encode, sample


def test_encoding_gives_the_same_bytes_for_any_number_of_workers(root, tmp_path, pool, session):
    alone = files(root / "latents.zarr")
    code(root, tmp_path / "two.zarr", pool=pool)
    assert files(tmp_path / "two.zarr") == alone
    one = Pool(1, session, cpus=0)
    code(root, tmp_path / "one.zarr", pool=one)
    one.close()
    assert files(tmp_path / "one.zarr") == alone


@pytest.mark.parametrize("shard", [128, 192, 4096])
def test_encoding_gives_the_same_rows_for_any_size_of_shard(root, tmp_path, pool, shard):
    assert_same_rows(code(root, tmp_path / "s.zarr", shard, pool), Store.open(root / "latents.zarr"))


@pytest.mark.parametrize("rows", [0, 200])
def test_sampling_gives_the_same_bytes_for_any_number_of_workers(root, tmp_path, pool, session, rows):
    """Of a table's rows too, a third of which are not guided."""
    lines = [f"{('cat', 'dog', 'eel')[k % 3]},{k * k % 3},{k % 2}\n" for k in range(rows)]
    (tmp_path / "t.csv").write_text("".join(["label,guidance,seed\n", *lines]))
    table = tmp_path / "t.csv" if rows else None
    draw(root, tmp_path / "none.zarr", table=table)
    draw(root, tmp_path / "two.zarr", pool=pool, table=table)
    one = Pool(1, session, cpus=0)
    draw(root, tmp_path / "one.zarr", pool=one, table=table)
    one.close()
    assert files(tmp_path / "none.zarr") == files(tmp_path / "two.zarr") == files(tmp_path / "one.zarr")
    assert (tmp_path / "none.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@pytest.mark.parametrize("verb", [code, draw])
def test_a_shard_is_whole_blocks(root, tmp_path, verb):
    with pytest.raises(ConfigError, match="'shard' must be a multiple of 64, got 100; try 128"):
        verb(root, tmp_path / "s.zarr", shard=100)
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("shard", [128, 256, 4096])
def test_sampling_gives_the_same_rows_for_any_size_of_shard(root, tmp_path, pool, shard):
    assert_same_rows(draw(root, tmp_path / "s.zarr", shard=shard, pool=pool), draw(root, tmp_path / "n.zarr"))


@pytest.mark.parametrize("ids", [range(30, 170), range(64, 128), range(199, 200), range(1, 3)])
def test_a_sample_is_the_same_in_every_range(root, tmp_path, pool, ids):
    part, whole = rows(draw(root, tmp_path / "part.zarr", ids, pool=pool)), rows(draw(root, tmp_path / "whole.zarr"))
    for name in whole:
        np.testing.assert_array_equal(part[name], whole[name][ids.start : ids.stop], err_msg=name)
    assert part["id"].tolist() == list(ids)
    assert part["label"].tolist() == [k % 3 for k in ids]


def test_features_are_the_same_for_any_number_of_workers_and_taken_once(tmp_path, pool, monkeypatch):
    network = LeNet(1, 3).eval()
    (tmp_path / "judge").mkdir()
    save_file(network.state_dict(), tmp_path / "judge" / "a.safetensors")
    (tmp_path / "judge" / "a.json").write_text(json.dumps({"weights": weights_hash(network)}))
    named = features.Named("lenet", str(tmp_path / "judge"), weights_hash(network), (1, 28, 28))
    seen = []
    for name, used in (("here", None), ("there", pool)):
        store = Store.create(tmp_path / f"{name}.zarr", {"x": ArraySpec((1, 28, 28), "uint8")}, 300, 128, 64, {})
        x = np.random.default_rng(0).integers(0, 256, (300, 1, 28, 28), np.uint8)
        for k in range(3):
            store.commit(k, {"x": x[store.rows_of(k).start : store.rows_of(k).stop]})
        store.seal({})
        seen.append(features.seen_of_samples(store, named, lenet(network), workers=0, screen=SCREEN, pool=used))
        monkeypatch.setattr(features.FeaturesJob, "load", None)  # nothing is taken a second time
        again = features.seen_of_samples(store, named, lenet(network), workers=0, screen=SCREEN)
        assert torch.equal(again.features, seen[-1].features)
        monkeypatch.undo()
    assert torch.equal(seen[0].features, seen[1].features)
    assert torch.equal(seen[0].logits, seen[1].logits)
    assert seen[0].features.shape == (300, 64)


def test_seeds_and_labels_matter(root, tmp_path, pool):
    first, other = draw(root, tmp_path / "0.zarr"), draw(root, tmp_path / "1.zarr", seed=1, pool=pool)
    assert not np.array_equal(rows(first)["x"], rows(other)["x"])
    assert set(rows(draw(root, tmp_path / "2.zarr", label=2, pool=pool))["label"]) == {2}


@dataclass(frozen=True)
class Mortal:
    """A job whose worker is killed the first time that it does a certain shard, before or after it was committed."""

    job: object
    shard: int
    after: bool
    mark: str
    signal: int = signal.SIGKILL

    def load(self):
        work = self.job.load()

        def dying(shard):
            if shard != self.shard or Path(self.mark).exists():
                return work(shard)
            if self.after:
                work(shard)
            Path(self.mark).write_text(str(os.getpid()))
            os.kill(os.getpid(), self.signal)
            return 0

        return dying


class Wrapping:
    """A pool that puts something around every job."""

    def __init__(self, pool, wrap):
        self.pool, self.wrap = pool, wrap

    @property
    def counts(self):
        return self.pool.counts

    @property
    def workers(self):
        return self.pool.workers

    def map(self, job, shards, done):
        self.pool.map(self.wrap(job), shards, done)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("make", [code, draw])
def test_a_killed_worker_changes_nothing(root, tmp_path, pool, make, after):
    mark = str(tmp_path / "killed")
    store = make(root, tmp_path / "killed.zarr", pool=Wrapping(pool, lambda job: Mortal(job, 2, after, mark)))
    assert Path(mark).exists()
    assert (pool.counts.deaths, pool.counts.restarts) == (1, 1)
    assert store.verify() == []
    make(root, tmp_path / "quiet.zarr")
    assert files(tmp_path / "killed.zarr") == files(tmp_path / "quiet.zarr")


@pytest.mark.parametrize(("make", "workers"), [(code, 1), (draw, 2)])
def test_a_stopped_worker_holds_no_shard(root, tmp_path, session, monkeypatch, make, workers):
    """SIGSTOP: another does its shard; alone, it is ended for that, even if it is the first and no time is known."""
    monkeypatch.setattr(shards, "LEAST", 5.0)
    monkeypatch.setattr(shards, "UNKNOWN", 5.0)
    mark, pool = tmp_path / "stopped", Pool(workers, session, cpus=0)
    wrapped = Wrapping(pool, lambda job: Mortal(job, 3, False, str(mark), signal.SIGSTOP))
    store = make(root, tmp_path / "stopped.zarr", pool=wrapped)
    assert store.verify() == []
    assert pool.counts.stragglers >= 1
    assert pool.counts.deaths == 0
    assert pool.counts.restarts >= 1
    done = []
    pool.map(Counting(), range(4), done.append)  # who was stopped has been started again
    assert done == [1] * 4
    pool.close()
    deadline = time.monotonic() + 60
    while psutil.pid_exists(int(mark.read_text())) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(int(mark.read_text()))
    make(root, tmp_path / "quiet.zarr")
    assert files(tmp_path / "stopped.zarr") == files(tmp_path / "quiet.zarr")


@dataclass(frozen=True)
class Counting:
    """Nothing but a row."""

    def load(self):
        return lambda shard: 1


@dataclass(frozen=True)
class Deadly:
    """A shard that ends every worker."""

    def load(self):
        return lambda shard: os.kill(os.getpid(), signal.SIGKILL) if shard == 1 else 1


@dataclass(frozen=True)
class Sleeping:
    """Tells its process and takes its time."""

    folder: str

    def load(self):
        def work(shard):
            (Path(self.folder) / str(os.getpid())).touch()
            time.sleep(0.2)
            return 1

        return work


def test_a_shard_that_no_worker_survives_is_told(pool):
    with pytest.raises(GensysError, match="shard 1 ended 3 workers"):
        pool.map(Deadly(), [0, 1, 2], lambda rows: None)


def test_a_worker_killed_from_outside_is_replaced(tmp_path, pool):
    done = []

    def kill():
        while not (found := list(tmp_path.iterdir())):
            time.sleep(0.02)
        os.kill(int(found[0].name), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    pool.map(Sleeping(str(tmp_path)), range(10), done.append)
    killer.join()
    assert done == [1] * 10
    assert len(list(tmp_path.iterdir())) >= 2  # the one that was killed, and who did the rest


@dataclass(frozen=True)
class Damaging:
    """The image is damaged once the pipeline has looked at the data and the workers begin."""

    job: object
    image: str

    def load(self):
        work = self.job.load()
        Path(self.image).write_bytes(Path(self.image).read_bytes()[:60])
        return work


def test_an_image_that_is_damaged_is_told_as_it_is(root, tmp_path, pool):
    folder = tmp_path / "images" / "cat"
    folder.mkdir(parents=True)
    for k in range(3):
        (folder / f"{k}.png").write_bytes((root / "images" / "cat" / f"{3 * k:03d}.png").read_bytes())
    out = tmp_path / "latents.zarr"
    damaged = folder / "1.png"

    with pytest.raises(DataError, match=r"1\.png") as caught:
        encode(RunFolder(root / "codec"), out, data=str(tmp_path / "images"), shard=64, workers=0, screen=SCREEN,
               pool=Wrapping(pool, lambda job: Damaging(job, str(damaged))))  # fmt: skip
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "Traceback" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- train


def tensors(folder):
    at = newest(folder.path / "checkpoints")
    return {file.name: file.read_bytes() for file in at.glob("*.safetensors")}


HOW = ("seconds", "workers", "restarts", "peak_bytes")  # it went, which may differ


def lines(folder):
    found = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    # what is known of a checkpoint is left out: it comes by the clock
    found = [line for line in found if "val_loss" not in line]
    return [{name: value for name, value in line.items() if name not in HOW} for line in found]


def spec_of(root, **knobs):
    return resolve(f"{root / 'mine.py'}:mine", {"data": str(root / "images"), **knobs})


def on_ray(session, folder, spec):
    crew = Workers(2, folder, session)
    try:
        return train(folder, spec, workers=2, fresh=False, screen=SCREEN, crew=crew)
    finally:
        crew.close()


@pytest.fixture(scope="module")
def undisturbed(root, session):
    """Two Ray Train workers on a user's recipe whose file is not there when they load it, with a folder of images."""
    spec = spec_of(root)
    away = (root / "mine.py").rename(root / "away.py")
    folder = RunFolder(root / "undisturbed")
    try:
        state = on_ray(session, folder, spec)
    finally:
        away.rename(root / "mine.py")
    assert (state.step, state.images, state.finished) == (300, 4800, True)
    return folder


def test_two_workers_train_a_users_recipe(undisturbed, root):
    assert isinstance(undisturbed.spec(), Spec)
    assert undisturbed.document()["data"]["name"] == "images"
    assert [line["step"] for line in lines(undisturbed)] == [1, *range(5, 301, 5)]
    assert lines(undisturbed)[-1]["loss"] < lines(undisturbed)[0]["loss"]
    assert not (undisturbed.path / "job.json").exists()
    assert not (undisturbed.path / "STOP").exists()


def test_an_observer_changes_no_bit(undisturbed, root, session, tmp_path):
    folder = RunFolder(tmp_path / "observed")
    crew = Workers(2, folder, session, observe=True)
    try:
        train(folder, spec_of(root), workers=2, fresh=False, screen=SCREEN, crew=crew)
    finally:
        crew.close()
    assert crew.failures == []
    assert tensors(folder) == tensors(undisturbed)
    seen = [json.loads(line)["step"] for line in (folder.path / "observations.jsonl").read_text().splitlines()]
    assert seen == sorted(set(seen))
    assert seen[-1] == 300
    assert {f"{step:08d}.png" for step in seen} == {path.name for path in (folder.path / "samples").iterdir()}
    last = f"samples/{300:08d}.png"
    assert (folder.path / last).read_bytes() == (undisturbed.path / last).read_bytes(), (
        "the picture that is drawn inline"
    )


def test_an_observer_says_what_it_cannot_measure(root, tmp_path):
    folder = RunFolder(tmp_path / "flow")
    shutil.copytree(root / "flow", folder.path)
    looker = observer._Looker(os.getcwd())
    assert looker.look(str(folder.path), 4) is None, "it has been seen"
    found = looker.look(str(folder.path), -1)
    assert found["step"] == 4
    assert "28..64" in found["not_measured"], "the classifier cannot see images so small"


def test_two_workers_train_what_one_process_trains(undisturbed, root, tmp_path):
    """Up to the order of a sum of two halves."""
    folder = RunFolder(tmp_path / "alone")
    train(folder, spec_of(root), workers=0, fresh=False, screen=SCREEN)
    assert lines(folder)[0]["loss"] == pytest.approx(lines(undisturbed)[0]["loss"], rel=1e-4)
    a, b = folder.model().state_dict(), undisturbed.model().state_dict()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0.05, atol=0.02)


def test_two_workers_train_exactly_what_one_process_trains(root, session, tmp_path):
    """The same bytes with parts; the test above needs a tolerance."""
    spec = replace(spec_of(root, budget="640"), parts=4)
    alone, both = RunFolder(tmp_path / "alone"), RunFolder(tmp_path / "both")
    train(alone, spec, workers=0, fresh=False, screen=SCREEN)
    assert on_ray(session, both, spec).finished
    assert tensors(both) == tensors(alone)
    assert lines(both) == lines(alone)
    assert both.document()["parts"] == 4
    assert both.spec() == alone.spec()
    with pytest.raises(RunError, match=r"parts of a step \(--exact\): 4 -> 8"):
        train(alone, replace(spec, parts=8), workers=0, fresh=False, screen=SCREEN)
    with pytest.raises(ConfigError, match=r"'workers' must be at most the 4 parts .* of a step, got 5"):
        train(RunFolder(tmp_path / "five"), spec, workers=5, fresh=False, screen=SCREEN)


def test_a_killed_worker_a_stop_and_another_start_change_nothing(undisturbed, root, session, tmp_path):
    """SIGKILL to a training worker, which Ray Train starts again; then Ctrl-C; then the same command."""
    folder = RunFolder(tmp_path / "disturbed")
    steps = []

    def newer_than(step):
        while (at := newest(folder.path / "checkpoints")) is None or (now := read_state(at).step) <= step:
            time.sleep(0.05)
        steps.append(now)

    def disturb():
        newer_than(0)
        found = [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]
        found[-1].kill()
        newer_than(steps[0] + 20)  # not one that the other worker, still running, may have saved meanwhile
        os.kill(os.getpid(), signal.SIGINT)

    disturbing = threading.Thread(target=disturb, daemon=True)
    disturbing.start()
    with pytest.raises(KeyboardInterrupt):
        on_ray(session, folder, spec_of(root))
    disturbing.join()
    stopped = read_state(newest(folder.path / "checkpoints"))
    assert 0 < steps[0] < steps[1] <= stopped.step < 300
    assert not stopped.finished
    assert on_ray(session, folder, spec_of(root)).finished
    assert tensors(folder) == tensors(undisturbed)
    assert lines(folder) == lines(undisturbed)


def gensys(*words, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "gensys", *words], cwd=cwd, env=environment, **pipes)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_save_and_the_same_command_goes_on(root, tmp_path, number, code):
    """In a process of its own, with the recipe and the data given by relative paths."""
    command = ["train", "./mine.py:mine", "data=images", "--workers", "0", "--run"]
    with gensys(*command, str(tmp_path / "stopped"), cwd=root) as process:
        while newest(tmp_path / "stopped" / "checkpoints") is None:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    stopped = read_state(newest(tmp_path / "stopped" / "checkpoints"))
    assert 0 < stopped.step < 300
    assert "same command" in said
    with gensys(*command, str(tmp_path / "stopped"), cwd=root) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert f"resumes at step {stopped.step}" in said
    quiet = RunFolder(tmp_path / "quiet")
    torch.set_num_threads(1)
    train(quiet, spec_of(root), workers=0, fresh=False, screen=SCREEN)
    assert tensors(RunFolder(tmp_path / "stopped")) == tensors(quiet)
    assert lines(RunFolder(tmp_path / "stopped")) == lines(quiet)
