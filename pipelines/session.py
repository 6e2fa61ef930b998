"""Ray, started once and quietly: the one place that knows how."""

from __future__ import annotations

import logging
import os
import threading

import ray

from gensys.errors import GensysError

__all__ = ["Session", "stand_in"]


def stand_in(directory: str) -> None:
    """Make relative paths mean on a worker what they mean where the command was given, if that place exists there."""
    if os.path.isdir(directory):
        os.chdir(directory)


class Session:
    """A connection to Ray that is made in the background, so that work which needs none can go on meanwhile.

    With RAY_ADDRESS set (as `ray submit` and `ray job submit` do), it joins that cluster; otherwise it starts one on
    this machine, without a dashboard.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._error: BaseException | None = None
        self._connected, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, name="ray", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        joining = "RAY_ADDRESS" in os.environ
        here = {"include_dashboard": False, "num_cpus": max(self.workers, 1), "_node_ip_address": "127.0.0.1"}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **({} if joining else here))
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

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
