"""A cluster that really starts, on hosts made of namespaces: `ray up`, `ray submit`, `ray job submit`, `ray down`."""

import json
import secrets
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from hosts import Hosts, missing

from gensys.engine import log
from gensys.engine.checkpoint import newest, read_state

pytestmark = pytest.mark.cluster

REPOSITORY = Path(__file__).parents[2]
SWITCH = "RAY_UP_enable_autoscaler_v2=0"  # cluster/README.md says why
QUICK = (  # a host that is cut off is given up after seconds instead of a minute
    "export RAY_health_check_initial_delay_ms=1000 RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=1000 "
    "RAY_health_check_failure_threshold=3 RAY_gcs_rpc_server_reconnect_timeout_s=10; "
)
STEPS = 200
RECIPE = f"""
from gensys.data.sources import open_source, split
from gensys.engine.loop import Settings
from gensys.engine.optim import Optim
from gensys.run import Run, budget_of
from gensys.systems.kl_autoencoder import kl_autoencoder

def mine(seed: int = 0) -> Run:
    \"\"\"A codec that saves often and logs every step.\"\"\"
    source = open_source("mnist")
    return Run(
        source=source,
        rows=split(source)[0],
        build=lambda: kl_autoencoder(source.shape, channels=2, widths=(8, 16)),
        settings=Settings(16, budget_of("{16 * STEPS}"), Optim(warmup=10), precision="fp32", seed=seed, save_every=0.5,
                          log_every=1, previews=1),
    )
"""
TINY = ["data=mnist", "width=8", "channels=2", "batch=16", "budget=320", "precision=fp32"]


def transcript(hosts, host, *words, timeout=300):
    """Run, and print what was typed and said: `pytest -s` shows it."""
    begun = time.monotonic()
    ran = hosts.run(host, *words, timeout=timeout)
    print(f"\n$ {' '.join(words)}   [{time.monotonic() - begun:.1f} s, status {ran.returncode}]\n{ran.stdout[-3000:]}")
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    return ran.stdout


def until(what, seconds, then):
    end = time.monotonic() + seconds
    while not then():
        assert time.monotonic() < end, f"{what} took more than {seconds} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def hosts():
    if why := missing():
        pytest.skip(why)
    with Hosts(Path("/var/tmp") / f"gensys-cluster-{secrets.token_hex(3)}", 3) as made:
        yield made


@pytest.fixture(scope="module")
def config(hosts):
    """cluster/local.yaml, with what it says to change changed, and health checks that take seconds."""
    told = yaml.safe_load((REPOSITORY / "cluster" / "local.yaml").read_text())
    told["provider"] |= {"head_ip": hosts.address(1), "worker_ips": [hosts.address(2), hosts.address(3)]}
    told["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
    for role, cpus in (("head", 1), ("worker", 1)):
        commands = told[f"{role}_start_ray_commands"]
        commands[-1] = f"{QUICK}{commands[-1].strip()} --num-cpus={cpus} --object-store-memory=100000000"
    path = hosts.root / "local.yaml"
    path.write_text(yaml.safe_dump(told))
    home = hosts.root / "host0" / "home"
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    (home / ".ray" / "auth_token").chmod(0o600)
    return str(path)


def whole(hosts):
    """Wait for all hosts; one that was cut off is started again by Ray's autoscaler."""
    begun = time.monotonic()
    until("that all hosts join", 180, lambda: "3 local.cluster.node" in hosts.run(1, "ray", "status").stdout)
    print(f"all hosts are there [{time.monotonic() - begun:.1f} s]")


@pytest.fixture(scope="module")
def cluster(hosts, config):
    transcript(hosts, 0, "env", SWITCH, "ray", "up", "-y", "--no-config-cache", "--disable-usage-stats", config)

    whole(hosts)
    yield config
    transcript(hosts, 0, "env", SWITCH, "ray", "down", "-y", config)


def test_a_script_is_submitted_and_trains_on_two_hosts(hosts, cluster):
    run = hosts.root / "runs" / "codec"
    words = ["kl_autoencoder", *TINY, "--run", str(run), "--workers", "2", "--exact", "4"]
    program = str(REPOSITORY / "pipelines" / "train.py")
    transcript(hosts, 0, "env", SWITCH, "ray", "submit", cluster, program, "--", *words)
    assert json.loads(next((run / "checkpoints").glob("*/state.json")).read_text())["images"] == 320

    alone = hosts.root / "runs" / "alone"
    transcript(hosts, 0, "gensys", "train", "kl_autoencoder", *TINY, "--run", str(alone), "--exact", "4")
    for file in ("model.safetensors", "average.safetensors", "optim.safetensors"):
        (a,), (b,) = ((folder / "checkpoints").glob(f"*/{file}") for folder in (run, alone))
        assert a.read_bytes() == b.read_bytes(), file


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.skipif(find_spec("aiohttp") is None, reason="takes pip install 'gensys[cluster]'")
def test_a_job_is_submitted(hosts, cluster):
    job = ["gensys", "sample", str(hosts.root / "runs" / "codec"), "--seeds", "0:64", "--workers", "0"]
    out = str(hosts.root / "samples.zarr")
    submit = ["ray", "job", "submit", "--address", "http://127.0.0.1:8265", "--", *job, "--out", out]
    transcript(hosts, 1, "env", "RAY_AUTH_MODE=token", *submit)
    assert "well" in transcript(hosts, 1, "gensys", "verify", out)


@pytest.mark.parametrize("verb", ["encode", "sample"])
def test_a_host_that_is_cut_off_changes_no_byte_of_a_store(hosts, cluster, verb):
    """Its worker may write on, on the disk that all share; another one does its shard again."""
    whole(hosts)
    run, out, alone = (str(hosts.root / name) for name in ("runs/codec", f"{verb}-cut.zarr", f"{verb}-quiet.zarr"))
    make = ["gensys", verb, run, "--shard", "64", *(["--seeds", "5000"] if verb == "sample" else [])]

    def committed():
        return len(list(Path(out).rglob("commits/*/*.json")))

    command = hosts.command(1, *make, "--out", out, "--workers", "3")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
        try:
            until("the first shards", 120, lambda: committed() > 5)
            hosts.link(3, up=False)
            assert committed() < 70, "the cut came too late: nearly all 79 shards were there"
            time.sleep(15)  # Ray gives the host up after about 13 seconds
        finally:
            hosts.link(3, up=True)
        said, _ = driver.communicate(timeout=180)
    assert driver.returncode == 0, said
    transcript(hosts, 1, *make, "--out", alone, "--workers", "0")
    assert files(Path(out)) == files(Path(alone))
    transcript(hosts, 1, "gensys", "verify", out)


def tensors(run):
    """The newest checkpoint of a finished run, and how far it is."""
    at = newest(run / "checkpoints")
    return {file.name: file.read_bytes() for file in at.glob("*.safetensors")}, read_state(at).images


def test_a_host_that_is_cut_off_while_training_changes_no_bit(hosts, cluster):
    """Those that are left go on from the newest checkpoint, to the weights of a quiet run."""
    whole(hosts)
    (hosts.root / "mine.py").write_text(RECIPE)
    run, alone = hosts.root / "runs" / "cut", hosts.root / "runs" / "quiet"
    train = ["gensys", "train", f"{hosts.root / 'mine.py'}:mine", "--exact", "4"]
    command = hosts.command(1, *train, "--run", str(run), "--workers", "2:3")
    begun = time.monotonic()

    def crew(workers, step=1):
        line = log.last(run)
        return line is not None and line["workers"] == workers and line["step"] >= step

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:

        def wait(what, then):
            until(what, 180, lambda: then() or driver.poll() is not None)
            assert driver.poll() is None, f"ended before {what}: {driver.stdout.read()}"
            print(f"{time.monotonic() - begun:6.1f} s  {what}: step {log.last(run)['step']}", flush=True)

        try:
            wait("three workers train, and have saved", lambda: crew(3, step=20) and newest(run / "checkpoints"))
            hosts.link(3, up=False)
            assert log.last(run)["step"] < STEPS // 2, "the cut came too late"
            wait("two go on", lambda: crew(2))
        finally:
            hosts.link(3, up=True)
        said, _ = driver.communicate(timeout=300)
    print(f"{time.monotonic() - begun:6.1f} s  done")
    assert driver.returncode == 0, said
    lines = [line for line in log.read(run) if "loss" in line]  # the others tell of checkpoints
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    crews = [(line["workers"], line["restarts"]) for line in lines]
    assert crews[0] == (3, 0)
    assert 1 <= next(restarts for workers, restarts in crews if workers == 2) <= 3
    transcript(hosts, 1, *train, "--run", str(alone))
    assert tensors(run) == tensors(alone)
