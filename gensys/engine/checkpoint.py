"""Checkpoints: a new directory each, a commit marker last, the newest valid one resumed.

    checkpoints/00001200/   model.safetensors  average.safetensors  optim.safetensors  state.json  COMMITTED

Tensors are safetensors, everything else is JSON: nothing is ever unpickled, so a checkpoint from a stranger is data,
not code. COMMITTED holds the digest of every file. A directory without it, or whose files do not match it, is the trace
of a run that died while saving: it is passed over, and the one before is taken.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from gensys import durable
from gensys.errors import CheckpointError

__all__ = ["State", "committed", "load_optimizer", "load_weights", "newest", "read_state", "save_checkpoint", "whole"]

_MARKER = "COMMITTED"
_FILES = {"model.safetensors", "average.safetensors", "optim.safetensors", "state.json"}


@dataclass(frozen=True)
class State:
    """Where a run stands. step: steps taken; images: rows seen; seconds: time spent in training; skipped: steps that
    changed nothing, as their gradient was not finite."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    finished: bool = False
    skipped: int = 0


def _optimizer_tensors(optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """player/index/key -> tensor, for the tensors that an optimizer keeps for each parameter."""
    return {
        f"{player}/{index}/{key}": value
        for player, optimizer in optimizers.items()
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }


def load_optimizer(optimizers: Mapping[str, torch.optim.Optimizer], directory: Path) -> None:
    """Restore what `save_checkpoint` kept of each player's optimizer."""
    tensors = _tensors(directory / "optim.safetensors")
    for player, optimizer in optimizers.items():
        state = optimizer.state_dict()
        state["state"] = {}
        for name, value in tensors.items():
            owner, index, key = name.split("/")
            if owner == player:
                state["state"].setdefault(int(index), {})[key] = value
        optimizer.load_state_dict(state)


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{str(path)!r} is not a .safetensors file; gensys never loads pickles (.pt, .pth, .ckpt, .bin), which can "
            f"run code when they are opened: convert it with the tool that wrote it"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{str(path)!r} cannot be read as safetensors ({error}): use another checkpoint"
        ) from error


def save_checkpoint(
    root: Path,
    model: nn.Module,
    average: nn.Module,
    optimizers: Mapping[str, torch.optim.Optimizer],
    state: State,
    keep: int,
) -> Path:
    """Write checkpoints/STEP, commit it, then remove all but the `keep` newest and every unfinished directory."""
    directory = root / f"{state.step:08d}"
    if committed(directory):
        return directory
    shutil.rmtree(directory, ignore_errors=True)  # damaged, or left by a run that died while saving this very step
    files = {
        "model.safetensors": save(_contiguous(model.state_dict())),
        "average.safetensors": save(_contiguous(average.state_dict())),
        "optim.safetensors": save(_contiguous(_optimizer_tensors(optimizers))),
        "state.json": json.dumps(asdict(state)).encode(),
    }
    with durable.explained(directory, "saving a checkpoint"):
        directory.mkdir(parents=True)
        for name, data in files.items():
            durable.write(directory / name, data)
        durable.sync_directory(directory)
        marker = {name: durable.digest(data) for name, data in files.items()}
        durable.write(directory / f"{_MARKER}.new", json.dumps(marker).encode())
        (directory / f"{_MARKER}.new").rename(directory / _MARKER)
        durable.sync_directory(directory)
        durable.sync_directory(root)  # before others are removed: a crash must not lose the new and the old
    # What lies beyond this step is another future, left by damage or by a run that was killed; it must not come back.
    before = [d for d in _steps(root) if int(d.name) < state.step and (d / _MARKER).exists()]
    kept = {directory, *before[: keep - 1]}
    for old in _steps(root):
        if old not in kept:
            shutil.rmtree(old, ignore_errors=True)
    return directory


def _steps(root: Path) -> list[Path]:
    """The checkpoint directories under `root`, whole or not, newest first."""
    if not root.is_dir():
        return []
    return sorted((d for d in root.iterdir() if d.is_dir() and d.name.isdigit()), key=lambda d: -int(d.name))


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().contiguous() for name, t in tensors.items()}


def committed(directory: Path) -> bool:
    """Whether a checkpoint is whole: marker there, and every file as the marker says."""
    try:
        marker = json.loads((directory / _MARKER).read_bytes())
        if not isinstance(marker, dict) or marker.keys() != _FILES:
            return False
        return all(durable.digest_file(directory / name) == digest for name, digest in marker.items())
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a marker that is neither JSON nor text is damage too
        return False


def whole(root: Path) -> Iterator[Path]:
    """The whole checkpoints under `root`, newest first."""
    return (directory for directory in _steps(root) if committed(directory))


def newest(root: Path) -> Path | None:
    """The newest whole checkpoint under `root`, or None."""
    return next(whole(root), None)


def read_state(directory: Path) -> State:
    return State(**json.loads((directory / "state.json").read_text()))


def load_weights(model: nn.Module, path: Path) -> None:
    """Load one .safetensors file into a model whose names and shapes must match.

    Raises: CheckpointError that names the file and the first differences: it is a checkpoint of another recipe.
    """
    tensors = _tensors(path)
    own = model.state_dict()
    wrong = [f"{n} {tuple(t.shape)} here, {tuple(own[n].shape)} in the model" for n, t in tensors.items()
             if n in own and t.shape != own[n].shape]  # fmt: skip
    wrong += [f"{n} is not in the model" for n in tensors if n not in own]
    wrong += [f"{n} is missing" for n in own if n not in tensors]
    if wrong:
        shown = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise CheckpointError(
            f"{str(path)!r} does not fit the model of this recipe: {shown}. It was written by another recipe or with "
            f"other knobs: see the run.json of its run"
        )
    model.load_state_dict(tensors)
