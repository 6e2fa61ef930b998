"""The foreman: what watches over Ray Train's workers, from within its controller.

Ray Train has no word for either, so this stands on its callbacks (`ControllerCallback`, an interface for developers):
workers save before a planned change of their group, and a run ends when its workers fail again and again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import ray
from gensys.pipelines.work import ORDERS, POLL, said
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import PreemptingState, ResizingState, RestartingState

from gensys import durable
from gensys.engine.checkpoint import newest
from gensys.errors import GensysError, TrainingError

__all__ = ["Foreman"]

_ATTEMPTS = 3  # failures on the same hosts without a newer checkpoint between them: the fourth would be the same
_PAUSE = 120.0  # seconds for a step and a checkpoint before a planned change; afterwards it goes on without


class Foreman(ControllerCallback):
    """Sits in Ray Train's controller: has the workers save before a planned change, and counts what went wrong."""

    def __init__(self, folder: Path) -> None:
        self._job, _, self._pause, self._paused, self._crew = (folder / name for name in ORDERS)
        self._checkpoints = folder / "checkpoints"
        self._restarts = self._in_vain = 0
        self._seen: tuple[object, ...] = ()

    def after_controller_state_update(self, previous_state: object, current_state: object) -> None:
        """Raises: what ends the run: an error that a person has to mend, or one that comes back without progress."""
        planned = isinstance(current_state, ResizingState | PreemptingState)
        if planned and self._job.exists() and not self._pause.exists():
            self._pause.touch()
            _await(self._paused.exists, _PAUSE)
        elif isinstance(current_state, RestartingState) and not self._paused.exists():
            self._count(current_state.training_failed_error)

    def _count(self, error: BaseException) -> None:
        failures = [getattr(e, "_base_exc", e) for e in getattr(error, "worker_failures", {}).values()]
        # several workers fail when one does, since it no longer answers: their errors say less
        for failure in failures:
            if isinstance(failure, GensysError):
                raise failure
        at = newest(self._checkpoints)
        hosts = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
        seen = (at, hosts)
        self._restarts += 1
        self._in_vain = self._in_vain + 1 if seen == self._seen else 1
        self._seen = seen
        if self._in_vain >= _ATTEMPTS:
            first = next((failure for failure in failures if isinstance(failure, OSError)), [*failures, error][0])
            raise TrainingError(
                f"training on Ray's workers failed {_ATTEMPTS} times without a newer checkpoint: {said(first)}"
            )

    def on_controller_start_worker_group(self, *, scaling_config: object, num_workers: int) -> None:
        """Before a group starts: what was told to the one before it does not hold any more."""
        for path in (self._pause, self._paused):
            path.unlink(missing_ok=True)
        durable.replace(self._crew, json.dumps({"restarts": self._restarts}).encode())


def _await(there: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not there() and time.monotonic() < until:
        time.sleep(POLL)
