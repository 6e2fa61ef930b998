"""The files of cluster/: of the shape that Ray, Kubernetes and Slurm ask for, and closed to strangers."""

import copy
import subprocess
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of importing ray

CLUSTER = Path(__file__).parents[2] / "cluster"
LAUNCHED = ("local.yaml", "aws.yaml", "gcp.yaml")


def read(name):
    return yaml.safe_load((CLUSTER / name).read_text())


def checked(config):
    """What `ray up` does before it does anything, with Ray's own schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_accepts_the_file(name):
    prepared = checked(read(name))
    assert prepared["cluster_name"] == "gensys"
    assert prepared["available_node_types"]


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_mistyped_key_is_refused(name):
    with pytest.raises(Exception, match="heads_setup_commands"):
        checked(read(name) | {"heads_setup_commands": []})


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_host_asks_for_the_token_and_the_dashboard_is_closed(name):
    config = read(name)
    head, worker = ("\n".join(config[f"{role}_start_ray_commands"]) for role in ("head", "worker"))
    for commands in (head, worker):
        assert "RAY_AUTH_MODE=token" in commands
    assert "--dashboard-host=127.0.0.1" in head
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert any("RAY_ADDRESS=auto" in command for command in config["head_setup_commands"])


def test_nothing_ends_the_ray_of_others_on_a_shared_host():
    assert "ray stop" not in str(read("local.yaml"))


def test_the_job_of_kubernetes_is_whole():
    job = read("kuberay-rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        (container,) = pod["containers"]
        assert container["resources"]["limits"]["memory"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    installed = (CLUSTER.parent / "constraints.txt").read_text()
    assert f"ray=={cluster['rayVersion']}\n" in installed  # driver and cluster must have one version


def test_slurms_script_is_bash_and_wants_a_command():
    script = CLUSTER / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    ran = subprocess.run(["bash", script], capture_output=True, text=True)
    assert ran.returncode == 2
    assert "give the command" in ran.stderr


SLURM = {  # the commands that the script calls, on a machine without them
    "scontrol": "echo first; echo second",
    "srun": """while [[ $1 == --* ]]; do shift; done
[[ $1 == ray ]] || { echo 10.1.2.3; exit; }
echo "$@" >> "$SAID"
exec sleep 60 > /dev/null 2>&1""",
    "ray": 'echo " 1 node_a"; echo " 1 node_b"',
}


@pytest.mark.parametrize("status", [0, 3])
def test_slurms_script_starts_a_head_and_workers_runs_the_command_and_returns_its_status(tmp_path, status):
    for name, text in SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "SAID": str(tmp_path / "said"),
        "SLURM_JOB_ID": "20001",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_ON_NODE": "4",
    }
    says = f"echo $RAY_ADDRESS $RAY_AUTH_MODE ${{#RAY_AUTH_TOKEN}}; exit {status}"
    command = ["bash", CLUSTER / "slurm.sh", "bash", "-c", says]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode == status, ran.stderr
    assert ran.stdout.split() == ["10.1.2.3:20001", "token", "64"]
    starts = sorted((tmp_path / "said").read_text().splitlines())
    assert "--address=10.1.2.3:20001" in starts[0]
    assert "--head" in starts[1]


def test_the_image_copies_nothing_that_is_made():
    ignored = (CLUSTER.parent / ".dockerignore").read_text().split()
    assert {".git", ".venv", "build", "runs"} <= set(ignored)
