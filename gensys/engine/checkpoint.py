"""Checkpoints: a new directory each, a commit marker last, written in the background, the newest valid one resumed.

    checkpoints/00001200/   model.safetensors  average.safetensors  optim.safetensors  state.json  COMMITTED
                            and profile_WIDTH.safetensors, the averages that snapshots are taken of

Tensors are safetensors, everything else is JSON: nothing is ever unpickled, so a checkpoint from a stranger is data,
not code. COMMITTED holds the digest of every file. A directory without it, or whose files do not match it, is the trace
of a run that died while saving, or of a disk that failed: it is passed over, which is told, and another is taken.

A checkpoint may have a score, lower = better. The best one is the one of the lowest score among those that are whole;
it is kept beside the newest ones.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from gensys import durable
from gensys.engine.parallel import is_sharded
from gensys.errors import CheckpointError

__all__ = [
    "Saver",
    "State",
    "Tensors",
    "best",
    "checkpoint_tensors",
    "fault",
    "load_optimizer",
    "load_weights",
    "newest",
    "profile_file",
    "read_state",
    "save_checkpoint",
    "whole",
    "whole_tensors",
]

Tensors = Mapping[str, Mapping[str, Tensor]]
"""File -> name -> tensor: what a checkpoint holds beside its state."""

_MARKER = "COMMITTED"
_FILES = {"model.safetensors", "average.safetensors", "optim.safetensors", "state.json"}


@dataclass(frozen=True)
class State:
    """Where a run stands. step: steps taken; images: rows seen; seconds: time spent in training, as
    the budget counts it; skipped: steps that
    changed nothing, as their gradient was not finite, or far too large. score: of the averaged weights, lower = better;
    None = not asked for, or not finite. norms: the gradient norms that a player's next one is compared with, see
    gensys/engine/guard.py."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    finished: bool = False
    skipped: int = 0
    score: float | None = None
    norms: Mapping[str, list[float]] = field(default_factory=dict)


def _optimizer_tensors(optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """player/index/key -> tensor, for the tensors that an optimizer keeps for each parameter."""
    return {
        f"{player}/{index}/{key}": value
        for player, optimizer in optimizers.items()
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }


def load_optimizer(optimizers: Mapping[str, torch.optim.Optimizer], directory: Path) -> None:
    """Restore what a checkpoint kept of each player's optimizer."""
    tensors = _tensors(directory / "optim.safetensors")
    for player, optimizer in optimizers.items():
        state = optimizer.state_dict()
        state["state"] = {}
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        for name, value in tensors.items():
            owner, index, key = name.split("/")
            if owner == player:
                state["state"].setdefault(int(index), {})[key] = _like(value, weights[int(index)])
        optimizer.load_state_dict(state)


def _like(value: Tensor, weight: Tensor) -> Tensor:
    if not is_sharded(weight):
        return value
    from gensys.engine.sharding import like

    return like(value, weight)


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


def checkpoint_tensors(
    model: nn.Module,
    average: nn.Module,
    optimizers: Mapping[str, torch.optim.Optimizer],
    keep: bool = True,
    profiles: Mapping[float, nn.Module] = MappingProxyType({}),
) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint holds; the tensors are those of the model, not copies. keep: see `whole_tensors`.

    profiles: width -> the average of that width, where snapshots are taken.
    """
    return {
        "model.safetensors": whole_tensors(model.state_dict(), keep),
        "average.safetensors": whole_tensors(average.state_dict(), keep),
        "optim.safetensors": whole_tensors(_optimizer_tensors(optimizers), keep),
        **{profile_file(width): whole_tensors(profile.state_dict(), keep) for width, profile in profiles.items()},
    }


def profile_file(width: float) -> str:
    """Where a checkpoint keeps the average of this width."""
    return f"profile_{width:g}.safetensors"


def whole_tensors(tensors: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Sharded tensors made whole, which all workers have to do together; without `keep` they are let go again."""
    if not any(map(is_sharded, tensors.values())):
        return tensors
    from gensys.engine.sharding import gathered

    return gathered(tensors, keep)


def save_checkpoint(root: Path, tensors: Tensors, state: State, keep: int) -> Path:
    """Write checkpoints/STEP, commit it, then remove all but the `keep` newest, the best and unfinished directories."""
    directory = root / f"{state.step:08d}"
    if fault(directory) is None:
        return directory
    shutil.rmtree(directory, ignore_errors=True)  # damaged, or left by a run that died while saving this very step
    with durable.explained(directory, "saving a checkpoint"):
        directory.mkdir(parents=True)
        marker = {}
        for name, values in tensors.items():  # one after the other: only one file's bytes are in memory
            data = save({name: t.detach().contiguous() for name, t in values.items()})
            marker[name] = durable.digest(data)
            durable.write(directory / name, data)
        data = json.dumps(asdict(state)).encode()
        marker["state.json"] = durable.digest(data)
        durable.write(directory / "state.json", data)
        durable.sync_directory(directory)
        durable.write(directory / f"{_MARKER}.new", json.dumps(marker).encode())
        (directory / f"{_MARKER}.new").rename(directory / _MARKER)
        durable.sync_directory(directory)
        durable.sync_directory(root)  # before others are removed: a crash must not lose the new and the old
    # What lies beyond this step is another future, left by damage or by a run that was killed; it must not come back.
    before = [d for d in _steps(root) if int(d.name) < state.step and (d / _MARKER).exists()]
    kept = {directory, *before[: keep - 1], _first_whole(_by_score([directory, *before]), None)}
    for old in _steps(root):
        if old not in kept:
            shutil.rmtree(old, ignore_errors=True)
    return directory


class Saver:
    """Saves the checkpoints of a run in a thread of its own, one at a time, while training goes on.

    `save` copies what a checkpoint holds to memory that is used again for the next one, as large as all of it, and
    returns; a thread writes and commits it. An error of the thread is raised by the next `check`, `save` or `wait`, at
    the latest as the block ends: `with Saver(...) as saver`.
    """

    def __init__(self, root: Path, keep: int) -> None:
        self._root, self._keep = root, keep
        self._memory: dict[tuple[str, str], Tensor] = {}
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Path] | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._writing is not None and not self._writing.done()

    def save(self, tensors: Tensors, state: State) -> None:
        """Copy, and write in the background; waits for the one that is being written, if there is one."""
        self.wait()
        copies = {
            file: {name: self._copy((file, name), t) for name, t in values.items()} for file, values in tensors.items()
        }
        self._writing = self._thread.submit(save_checkpoint, self._root, copies, state, self._keep)

    def _copy(self, key: tuple[str, str], value: Tensor) -> Tensor:
        held = self._memory.get(key)
        if held is None or held.shape != value.shape or held.dtype != value.dtype:
            # pinned: a GPU writes into it directly
            held = torch.empty(value.shape, dtype=value.dtype, device="cpu", pin_memory=value.is_cuda)
            self._memory[key] = held
        return held.copy_(value.detach())

    def check(self) -> None:
        """Raise what went wrong in the background, if something did; never waits."""
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Return when nothing is being written any more."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.wait()
        except Exception as failure:  # whatever it is: if two things went wrong at once, both are told
            if error is None:
                raise
            error.add_note(f"besides, {failure}")
        finally:
            self._thread.shutdown()


def _steps(root: Path) -> list[Path]:
    """The checkpoint directories under `root`, whole or not, newest first."""
    if not root.is_dir():
        return []
    return sorted((d for d in root.iterdir() if d.is_dir() and d.name.isdigit()), key=lambda d: -int(d.name))


def fault(directory: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None = it is whole: marker there, every file as the marker says."""
    try:
        marker = json.loads((directory / _MARKER).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return "its saving did not end"
    except OSError as error:
        return f"{_MARKER} cannot be read ({error.strerror})"
    except ValueError:  # a marker that is neither JSON nor text is damage too
        marker = None
    if not isinstance(marker, dict) or not marker.keys() >= _FILES:
        return f"{_MARKER} is damaged"
    for name, digest in marker.items():
        try:
            if durable.digest_file(directory / name) != digest:
                return f"{name} is damaged"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def whole(root: Path) -> Iterator[Path]:
    """The whole checkpoints under `root`, newest first."""
    return (directory for directory in _steps(root) if fault(directory) is None)


def newest(root: Path, tell: Callable[[str], None] | None = None) -> Path | None:
    """The newest whole checkpoint under `root`, or None. tell: is given a line about each one that is passed over."""
    return _first_whole(_steps(root), tell)


def best(root: Path, tell: Callable[[str], None] | None = None) -> Path | None:
    """The whole checkpoint of the lowest score under `root`, or None if none has a score. tell: as for `newest`."""
    return _first_whole(_by_score(_steps(root)), tell)


def _first_whole(among: Iterable[Path], tell: Callable[[str], None] | None) -> Path | None:
    passed = []
    chosen = None
    for directory in among:
        if (wrong := fault(directory)) is None:
            chosen = directory
            break
        passed.append(f"the checkpoint {str(directory)!r} is passed over, as {wrong}")
    instead = f"that of step {int(chosen.name):,} is used instead" if chosen else "there is no other to use instead"
    if tell is not None:
        for line in passed:
            tell(f"{line}: {instead}")
    return chosen


def _by_score(directories: Iterable[Path]) -> list[Path]:
    """Those that have a score, lowest first, of equal ones the newest. Read before they are checked: damage counts as
    no score here."""
    scored = []
    for directory in directories:
        try:
            score = json.loads((directory / "state.json").read_bytes())["score"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(score, float) and math.isfinite(score):
            scored.append((score, -int(directory.name), directory))
    return [directory for *_, directory in sorted(scored)]


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
