"""Ray, started once and quietly: the one place that knows how."""

from __future__ import annotations

import logging
import os
import threading

import ray

from gensys.errors import GensysError

__all__ = ["Session"]


class Session:
    """A connection to Ray that is made in the background, so that work which needs none can go on meanwhile.

    With RAY_ADDRESS set (as `ray submit` and `ray job submit` do), it joins that cluster; otherwise it starts one on
    this machine, for loopback, without a dashboard.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._start, name="ray-start", daemon=True)
        self._thread.start()

    def _start(self) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; silences a warning
        os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING", "0")
        os.environ.setdefault("RAY_DISABLE_DOCKER_CPU_WARNING", "1")
        try:
            joining = "RAY_ADDRESS" in os.environ
            ray.init(
                include_dashboard=None if joining else False,
                num_cpus=None if joining else max(self.workers, 1),
                _node_ip_address="127.0.0.1" if not joining else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except BaseException as error:  # re-raised, with its cause, where the session is first used
            self._error = error

    def ready(self) -> None:
        """Wait until Ray is there. Raises GensysError that says why it is not."""
        self._thread.join()
        if self._error is not None:
            raise GensysError(
                f"Ray did not start ({type(self._error).__name__}: {self._error}): see `gensys doctor`, or use "
                f"--workers 0, which needs no Ray"
            ) from self._error

    def close(self) -> None:
        self._thread.join()
        ray.shutdown()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
