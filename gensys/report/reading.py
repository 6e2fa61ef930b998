"""What a run folder holds, read forgivingly: what is damaged or missing becomes a `Gap`, not the end of the report."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gensys import durable
from gensys.errors import GensysError
from gensys.report.weights import checkpoint_of, otherwise_scored
from gensys.run_folder import COSTS, RunFolder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Contents", "Drawn", "Gap", "Samples", "Training", "left_out", "number", "quietly", "read", "training"]

_SAMPLES = 100
_PIXELS = 4_000_000  # of the sample grid: a page of large images must still open on a phone


@dataclass(frozen=True)
class Gap:
    """Something that the report would show and the folder does not hold.

    remedy: the command that makes it; "" = the one that trains the run, which `recipe.commands` knows.
    """

    what: str
    why: str
    remedy: str


@dataclass(frozen=True)
class Drawn:
    """What samples.zarr says of itself, whatever it holds. total: rows. about: attributes."""

    total: int
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Samples(Drawn):
    """The first samples of a store of pictures. x: uint8 (N, C, H, W), C = 1 or 3. labels: N, -1 = none."""

    x: npt.NDArray[np.uint8]
    labels: list[int]
    classes: list[str]


@dataclass(frozen=True)
class Training:
    """One training: its run.json, its log, its preview pictures by step, the state of its newest checkpoint, and what
    verbs took that used it."""

    path: Path
    document: Mapping[str, Any]
    log: list[dict[str, Any]]
    previews: dict[int, Path]
    state: Mapping[str, Any]
    spent: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_codec(self) -> bool:
        """Whether it trains an autoencoder: then its previews are images above their reconstructions, not samples."""
        if (kind := self.document.get("kind")) is not None:
            return kind == "codec"
        return any("reconstruction" in line for line in self.log[:1])

    @property
    def seconds(self) -> float | None:
        """Of training, as logged."""
        return next((s for line in reversed(self.log) if (s := number(line.get("seconds"))) is not None), None)

    @property
    def peak_bytes(self) -> float | None:
        """The most memory that the process that logs has needed; None of a run that is older than this line."""
        return max((b for line in self.log if (b := number(line.get("peak_bytes"))) is not None), default=None)

    @property
    def images(self) -> int | None:
        """Rows seen, as logged; the newest checkpoint knows it better, since the log has a line only now and then."""
        last = [number(self.state.get("images")), *(number(line.get("images")) for line in reversed(self.log))]
        return next((int(n) for n in last if n is not None), None)


@dataclass
class Contents:
    """Everything that was found, and the gaps. latents: what their store says of the codec that made them. drawn: what
    is in samples.zarr, samples: the same if it holds pictures. checkpoint: whose weights these are of, "" = the newest.
    doubts: sentences on what does not belong together."""

    run: Training
    codec: Training | None = None
    latents: Mapping[str, Any] = field(default_factory=dict)
    drawn: Drawn | None = None
    samples: Samples | None = None
    checkpoint: str = ""
    doubts: list[str] = field(default_factory=list)
    trajectory: Path | None = None
    reconstructions: Path | None = None
    evaluation: Mapping[str, Any] | None = None
    stages: list[Mapping[str, Any]] = field(default_factory=list)
    environment: Mapping[str, Any] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)


def number(value: object) -> float | None:
    """A finite number out of JSON, or None. Metrics write infinity as "inf": that is no finite number either."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def left_out(evaluation: Mapping[str, Any] | None) -> list[str]:
    """Why a metric or a floor is missing, in the words of the evaluation."""
    lines = None if evaluation is None else evaluation.get("left_out")
    return [str(line) for line in lines] if isinstance(lines, list) else []


def read(folder: Path) -> Contents:
    """Read a run folder. Raises RunError if it is no run."""
    document = RunFolder(folder).document()
    found = Contents(training(folder))
    run = shlex.quote(f"runs/{folder.resolve().name}")
    if not found.run.is_codec:
        found.latents = _latents(folder, document)
        found.codec = _codec(folder, found.latents)
        _read_samples(found, folder, run)
        found.trajectory = _file(folder / "trajectory.png")
    found.reconstructions = _file(folder / "reconstructions.png")
    if not found.run.log:
        found.gaps.append(Gap("loss curves", "metrics.jsonl holds no line", ""))
    if not found.run.previews and not (found.codec is None and _of_vectors(document)):  # of which none are made
        found.gaps.append(Gap("pictures of the progress", "samples/ holds no picture", ""))
    _read_evaluation(found, folder, run)
    _compare_weights(found, folder, run)
    if (folder / "stages.json").exists():  # a demo writes it: nothing else has it, and nobody misses it
        stages = _json(found, folder / "stages.json", "the time of every stage, which a demo measures", "gensys demo")
    else:
        stages = []
    found.stages = [s for s in stages if isinstance(s, dict)] if isinstance(stages, list) else []
    environment = _json(found, folder / "env.json", "the environment", "")
    found.environment = environment if isinstance(environment, dict) else {}
    if environment is not None and not found.environment:
        found.gaps.append(Gap("the environment", "env.json says nothing; it is written when a run is started", ""))
    return found


def _of_vectors(document: Mapping[str, Any]) -> bool:
    """Whether a run models rows of a table, or other vectors."""
    data = document.get("data")
    shape = data.get("shape") if isinstance(data, dict) else None
    return isinstance(shape, list) and len(shape) == 1


def _load(path: Path) -> Any:
    """The JSON in a file; GensysError says what is wrong with it."""
    try:
        return durable.without_digest(json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise GensysError(f"{path.name} is not there") from error
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or not JSON
        raise GensysError(f"{path.name} cannot be read: {error}") from error


def _json(found: Contents, path: Path, what: str, remedy: str) -> Any:
    try:
        return _load(path)
    except GensysError as error:
        found.gaps.append(Gap(what, str(error), remedy))
        return None


def quietly(path: Path) -> dict[str, Any]:
    """The JSON object in a file, {} if there is none."""
    try:
        document = _load(path)
    except GensysError:
        return {}
    return document if isinstance(document, dict) else {}


def training(path: Path) -> Training:
    """The training in a folder, as far as it can be read."""
    document = quietly(path / "run.json")
    previews = {int(p.stem): p for p in sorted((path / "samples").glob("*.png")) if p.stem.isdigit()}
    newest = max((p.parent for p in path.glob("checkpoints/*/COMMITTED")), default=None)
    state = {} if newest is None else quietly(newest / "state.json")
    return Training(path, document, _log(path / "metrics.jsonl"), previews, state, _log(path / COSTS))


def _log(path: Path) -> list[dict[str, Any]]:
    """The lines that are JSON objects: a torn last line is what an interruption leaves."""
    lines = []
    for text in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def _latents(folder: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """{"run", "data", ...} of the codec, from the store that the run was trained on; {} if there is none. "mirror":
    whether it holds mirrored copies."""
    knobs = document.get("knobs")
    data = knobs.get("data") if isinstance(knobs, dict) else None
    for path in (folder / "latents.zarr", Path(data) if isinstance(data, str) else folder):
        attributes = quietly(path / "zarr.json").get("attributes")
        if isinstance(attributes, dict) and isinstance(made_by := attributes.get("codec"), dict):
            from gensys.data.channel_moments import MIRROR
            from gensys.data.layout import KEY

            store = attributes.get(KEY)
            arrays = store.get("arrays") if isinstance(store, dict) else None
            return made_by | {"mirror": any(str(name).endswith(MIRROR) for name in arrays or ())}
    return {}


def _codec(folder: Path, latents: Mapping[str, Any]) -> Training | None:
    """The codec's run: inside this folder, or where the latents say that it is."""
    recorded = latents.get("run")
    for path in (folder / "codec", Path(recorded) if isinstance(recorded, str) else folder / "codec"):
        if (path / "run.json").is_file():
            return training(path)
    return None


def _read_samples(found: Contents, folder: Path, run: str) -> None:
    path, remedy = folder / "samples.zarr", f"gensys sample {run} --seeds 0:2000"
    if not path.exists():
        found.gaps.append(Gap("samples", "samples.zarr is not there", remedy))
        return
    from gensys.data.store import Store

    try:
        store = Store.open(path)
        attributes = store.attributes
        shape = store.config.arrays["x"].shape if "x" in store.config.arrays else ()
        found.drawn = Drawn(len(store), attributes)
        if len(shape) == 1:  # vectors: their columns are shown, once they are scored
            return
        if len(shape) != 3 or shape[0] not in (1, 3) or store.config.arrays["x"].dtype != "uint8":
            found.gaps.append(Gap("samples", f"samples.zarr holds rows {list(shape)}, which are no pictures", remedy))
            return
        columns = max(1, _PIXELS // (10 * shape[1] * shape[2])) * 10  # whole rows of ten
        rows = range(min(_SAMPLES, columns, len(store)))
        labels = store.read("label", rows).tolist() if "label" in store.config.arrays else [-1] * len(rows)
        classes = [str(name) for name in attributes.get("classes") or []]
        found.samples = Samples(len(store), attributes, store.read("x", rows), labels, classes)
    except (GensysError, OSError, IndexError) as error:
        found.gaps.append(Gap("samples", f"samples.zarr cannot be read: {error}", remedy))


def _read_evaluation(found: Contents, folder: Path, run: str) -> None:
    remedy = f"gensys evaluate {run}"
    evaluation = _json(found, folder / "evaluation.json", "metrics", remedy)
    if evaluation is None:
        return
    if isinstance(evaluation, dict) and isinstance(evaluation.get("metrics"), dict):
        found.evaluation = evaluation
    else:
        found.gaps.append(Gap("metrics", "evaluation.json holds no metrics", remedy))


def _compare_weights(found: Contents, folder: Path, run: str) -> None:
    """Whether samples, weights and metrics belong together."""
    if found.drawn is None:
        return
    about = found.drawn.about
    if about.get("weights"):
        found.checkpoint, doubt = checkpoint_of(folder, str(about["weights"]))
        found.doubts += [doubt] if doubt else []
    protocol = None if found.evaluation is None else found.evaluation.get("protocol")
    if other := otherwise_scored(about, found.drawn.total, protocol):
        found.doubts.append(
            f"The metrics are of other samples than those in samples.zarr ({', '.join(other)}): "
            f"`gensys evaluate {run}` scores these."
        )


def _file(path: Path) -> Path | None:
    return path if path.is_file() else None
