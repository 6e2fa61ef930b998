"""Score samples against real data: `gensys evaluate RUN | STORE`.

What is compared with what, for n samples: the reference is the whole test split, filled up to n with training rows; the
floor is n other real rows under the same protocol, which is what a perfect model would get. Features are those of a
classifier trained here on the training split and named by its hash.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gensys.pipelines.encode import source_of
from torch import Tensor

from gensys.core import Codec
from gensys.data import order
from gensys.data.latents import LatentSource
from gensys.data.sources import Source, split
from gensys.data.store import Store
from gensys.errors import RunError
from gensys.evaluate.classifier import Judge, judge
from gensys.evaluate.metrics import Metric, evaluate_reconstruction, evaluate_samples
from gensys.noise import Noise
from gensys.pictures import grid, save_png, to_uint8
from gensys.progress import Screen
from gensys.run import RunFolder, open_codec

__all__ = ["evaluate", "judge_of", "real_source"]

_LEAST_HELD_OUT = 100  # as many as the 1 % quantile of their distances needs
_ORDER_SEED = 0x0EA1  # of the choice of real rows: fixed, so that every model is held against the same images


def real_source(folder: RunFolder) -> tuple[Source, Codec | None]:
    """The real data behind a run, and the codec between them if the run was trained on latents."""
    source = folder.spec().load().source
    if not isinstance(source, LatentSource):
        return source, None
    made_by = source.store.attributes["codec"]
    return source_of(RunFolder(Path(made_by["run"])), made_by["data"] or None), open_codec(source)


def _images(source: Source, rows: Tensor) -> tuple[Tensor, Tensor]:
    batch = source.batch(rows, Noise(0, rows))
    return batch.x, batch.cond.get("label", torch.full_like(rows, -1))


def _shuffled(rows: Tensor) -> Tensor:
    """The rows in a fixed random order: data sets are often sorted by class."""
    return rows[order.rows(_ORDER_SEED, 0, len(rows), len(rows))]


def judge_of(source: Source, folder: Path) -> Judge:
    """The classifier of a data set, trained on its training split; kept in `folder` for the next time."""
    if not source.classes:
        raise RunError(f"{source.name!r} has no classes, so no classifier can be trained: use data in class subfolders")
    train, test = split(source)
    return judge(folder, *_images(source, train), *_images(source, test), classes=len(source.classes))


def _score(
    store: Store, source: Source, codec: Codec | None, judged: Judge, out: Path, screen: Screen
) -> dict[str, Metric]:
    n = len(store)
    samples = torch.from_numpy(store.read("x", np.arange(n))).float() / 127.5 - 1.0
    labels = torch.from_numpy(store.read("label", np.arange(n)))
    train, test = (_shuffled(rows) for rows in split(source))
    fill = max(0, n - len(test))
    reference = torch.cat([test[:n], train[:fill]])
    others = train[fill : fill + n]
    if len(others) < n:
        screen.line(
            f"no floors: {n} samples need {n} more real images than the reference has; sample fewer to get them"
        )
    compared = len(test) >= _LEAST_HELD_OUT
    if not compared:
        screen.line(f"no memorisation: it needs {_LEAST_HELD_OUT} held-out images, and there are {len(test)}")
    try:
        result = evaluate_samples(
            samples,
            None if bool((labels < 0).any()) else labels,
            _images(source, reference)[0],
            _images(source, others)[0] if len(others) == n else None,
            _images(source, train)[0] if compared else None,
            judged.classifier,
            accuracy=judged.accuracy,
            held_out=_images(source, test)[0] if compared else None,
        )
    except ValueError as error:  # too few rows, or values that are no images: the message names which
        raise RunError(f"{str(store.path)!r} cannot be scored: {error}") from error
    if codec is not None:
        result |= _reconstruct(codec, source, out / "reconstructions.png")
    return result


@torch.no_grad()
def _reconstruct(codec: Codec, source: Source, picture: Path) -> dict[str, Metric]:
    """Scores of decoded held-out images, and a picture: rows of originals above rows of what came back."""
    x, _ = _images(source, _shuffled(split(source)[1])[:10_000])
    decoded = torch.cat([codec.decode(codec.encode(part).mean) for part in x.split(64)])
    rows = [half[k : k + 10] for k in (0, 10) for half in (x, decoded)]
    save_png(grid(to_uint8(torch.cat(rows)), columns=10, scale=2), picture)
    return evaluate_reconstruction(x, decoded)


def evaluate(target: Path, *, screen: Screen) -> dict[str, Any]:
    """Score a sample store, or a run folder's samples.zarr (for a codec's run: its reconstructions).

    Returns and writes evaluation.json: {"metrics", "protocol", "seconds"}. The protocol says everything that the
    figures depend on.
    """
    begun = time.perf_counter()
    inside = target / "samples.zarr"
    is_run = (target / "run.json").exists()
    if is_run and not inside.exists():
        folder = RunFolder(target)
        source, _ = real_source(folder)
        model = folder.model()
        if not isinstance(model, Codec):
            raise RunError(f"{str(target)!r} has no samples yet: run `gensys sample {target}` first")
        metrics = _reconstruct(model, source, target / "reconstructions.png")
        protocol = _about_data(source) | {"codec": folder.weights_digest()}
        out = target
    else:
        store = Store.open(inside if is_run else target)
        made_by = store.attributes
        if made_by.get("kind") != "samples":
            raise RunError(f"{str(target)!r} does not hold samples: give a store that `gensys sample` wrote, or a run")
        folder = RunFolder(Path(made_by["run"]))
        source, codec = real_source(folder)
        out = target if is_run else folder.path
        with screen.phase("train the classifier", 1, "steps"):
            judged = judge_of(source, out / "judge")
        with screen.phase("evaluate", len(store), "samples") as phase:
            metrics = _score(store, source, codec, judged, out, screen)
            phase.update(len(store))
        protocol = _protocol(store, folder, source, judged)
    result = {
        "metrics": {name: metric.to_json() for name, metric in metrics.items()},
        "protocol": protocol,
        "seconds": round(time.perf_counter() - begun, 2),
    }
    (out / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def _about_data(source: Source) -> dict[str, Any]:
    return {"data": source.about, "data fingerprint": source.fingerprint()}


def _protocol(store: Store, folder: RunFolder, source: Source, judged: Judge) -> dict[str, Any]:
    made_by = store.attributes
    settings = folder.spec().load().settings
    sampler = {name: made_by["knobs"][name] for name in sorted(folder.spec().load().retune)}
    n, test, real = len(store), len(split(source)[1]), len(source)
    return {
        "samples": n,
        "sample ids": f"{made_by['first']}:{made_by['first'] + n}",
        "sample seed": made_by["seed"],
        **sampler,
        "precision": settings.precision,
        "weights": f"average of relative width {settings.ema:g}, sha256 {made_by['weights'][:16]}",
        "reference": f"{min(n, test)} test rows and {max(0, n - test)} training rows",
        "floor": f"{n} other training rows, same reference" if real >= 2 * n else "none: too few real images",
        "classifier": f"lenet, sha256 {judged.weights[:16]}, held-out accuracy {judged.accuracy:.3f}",
        **_about_data(source),
    }


if __name__ == "__main__":
    from gensys.cli import main

    main("evaluate")
