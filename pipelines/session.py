"""Ray, started once and quietly: the one place that knows how."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import threading
from typing import Any

import psutil
import ray
from gensys.pipelines import joins_a_cluster

from gensys.errors import ConfigError, GensysError

__all__ = ["Session", "choose_interface", "stand_in"]


def stand_in(directory: str) -> None:
    """Make relative paths mean on a worker what they mean where the command was given, if that place exists there."""
    if os.path.isdir(directory):
        os.chdir(directory)


def choose_interface() -> None:
    """Let torch's Gloo use the network that Ray uses; runs as each worker process of a cluster starts.

    Left alone, Gloo takes the interface of the host's name, which many systems resolve to loopback: workers on several
    hosts then wait for each other in vain.
    """
    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address == address for found in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


class Session:
    """A connection to Ray that is made in the background, so that work which needs none can go on meanwhile.

    With RAY_ADDRESS naming a cluster (`ray job submit` sets it, the files of cluster/ do for `ray submit`), it joins
    that cluster; otherwise it starts one on this machine, without a dashboard.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._error: BaseException | None = None
        self._connected, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, name="ray", daemon=True)
        self._thread.start()

    def _options(self) -> dict[str, Any]:
        """What `ray.init` is told, beside what it always is."""
        if joins_a_cluster():
            return {"runtime_env": {"worker_process_setup_hook": f"{__name__}.choose_interface"}}
        # "local": without it, Ray would join any cluster that somebody left running on this machine
        here = {"address": "local", "include_dashboard": False, "num_cpus": self.workers}
        options: dict[str, Any] = {**here, "_node_ip_address": "127.0.0.1"}
        if (python := shlex.quote(sys.executable)) != sys.executable:
            # Ray hands this path to a shell as it is, so a checkout in "my projects" would start no worker of Ray Train
            options["runtime_env"] = {"py_executable": python}
        return options

    def _serve(self) -> None:
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **self._options())
        except BaseException as error:  # raised again, as the cause, where the session is first used
            self._error = error
        self._connected.set()
        # Ray's servers are told by the kernel when the *thread* that started them ends, and end too: so it stays.
        self._closing.wait()
        ray.shutdown()

    def ready(self) -> None:
        """Wait until Ray is there. Raises GensysError that says why it is not."""
        self._connected.wait()
        if self._error is not None:
            raise GensysError(
                f"Ray did not start ({type(self._error).__name__}: {self._error}): see `gensys doctor`, or use "
                f"--workers 0, which needs no Ray"
            ) from self._error

    def require(self, workers: int, cpus: float, gpus: float) -> None:
        """Refuse what would wait for ever: more workers than the cluster has room for."""
        self.ready()
        have = ray.cluster_resources()
        for name, each in (("CPU", cpus), ("GPU", gpus)):
            if each * workers > have.get(name, 0.0) + 1e-9:  # fractions of a GPU add up with rounding
                raise ConfigError(
                    f"'workers' is {workers}, which needs {each * workers:g} {name}s, and Ray has "
                    f"{have.get(name, 0.0):g}: use fewer --workers, or a larger cluster"
                )

    def require_host(self) -> None:
        """Refuse to wait for ever on a host whose Ray is gone: the driver's own, without which nothing is started."""
        if not self._connected.is_set():  # it is still starting
            return
        own = ray.get_runtime_context().get_node_id()
        if not any(node["Alive"] for node in ray.nodes() if node["NodeID"] == own):
            raise GensysError(
                "Ray's server on this host has died: what is committed is kept; the same command starts Ray anew, and "
                "goes on"
            )

    def close(self) -> None:
        """End Ray if it was started here, or leave the cluster."""
        self._closing.set()
        self._thread.join()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
