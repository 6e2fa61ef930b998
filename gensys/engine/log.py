"""The log of a run: metrics.jsonl for programs, TensorBoard's event files for people.

metrics.jsonl is the truth: one JSON object a line, in the order of steps. Resuming cuts what was logged after the
checkpoint, so a killed and resumed run leaves the same lines as an undisturbed one, but for `seconds`, `workers`,
`restarts` and `peak_bytes`, which say how it went; the last is the memory that the process who logs has needed. What is
known of a checkpoint (val_loss) has a line of its own, as checkpoints come by the clock.

Pictures are in samples/ of the run folder; TensorBoard is given them as well, beside the curves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gensys import durable

if TYPE_CHECKING:  # the log is read by those who need no torch
    from torch import Tensor

__all__ = ["Log", "last", "read"]

_TAIL = 1 << 16  # bytes: far more than one line


def read(folder: Path) -> list[dict[str, float]]:
    """All lines of a run's metrics.jsonl; a last line that was torn by a kill, or a damaged one, is left out."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").split("\n")[:-1]  # a whole line ends with a newline
    return [line for text in lines if (line := _parsed(text)) is not None]


def last(folder: Path) -> dict[str, float] | None:
    """The last whole line, read from the end of the file: cheap enough to ask for while a run goes on."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return None
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - _TAIL))
        lines = file.read().decode(errors="replace").split("\n")[:-1]
    return _parsed(lines[-1]) if lines else None


def _parsed(text: str) -> dict[str, float] | None:
    """A line as it was written; None for what is none: a log that is damaged must not end a run."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "step" in line else None


class Log:
    """Appends to metrics.jsonl and to tensorboard/ of a run folder, from `step` on."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes most of a second to import: only where it is used

        kept = [line for line in read(folder) if line["step"] <= step]
        path = folder / "metrics.jsonl"
        durable.replace(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._lines = open(path, "a", buffering=1)  # noqa: SIM115 - open as long as the run; one write a line
        self._board = SummaryWriter(folder / "tensorboard", purge_step=step + 1 if step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def picture(self, step: int, image: Tensor) -> None:
        """Show an image, uint8 (C, H, W), C = 1 or 3, in TensorBoard, under "samples"."""
        self._board.add_image("samples", image, step)

    def close(self) -> None:
        self._lines.close()
        self._board.close()
