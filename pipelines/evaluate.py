"""Score samples against real data: `gensys evaluate RUN | STORE`.

Images: evaluate_images.py; tables and other vectors: evaluate_table.py. What they are held against: real.py.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gensys.pipelines.bits import bits_if_any
from gensys.pipelines.evaluate_images import Asked, Subject, evaluate_codec, evaluate_images, evaluate_quickly
from gensys.pipelines.evaluate_table import evaluate_table
from gensys.pipelines.real import held_out, real_source

from gensys import durable
from gensys.core import Codec, is_codec
from gensys.data.store import Store
from gensys.errors import ConfigError, RunError
from gensys.evaluate.metric import Metric
from gensys.progress import Screen
from gensys.run_folder import RunFolder

__all__ = ["evaluate"]


def evaluate(
    target: Path,
    *,
    screen: Screen,
    checkpoint: str = "newest",
    quick: bool = False,
    bits: int = 0,
    predict: str | None = None,
    asked: Asked = Asked(),  # noqa: B008 - a frozen value
) -> dict[str, Any]:
    """Score a sample store, or a run folder's samples.zarr (for a codec's run: its reconstructions).

    checkpoint: of a codec, whose weights, see `RunFolder.weights`. quick: only what the moments give that
    `gensys sample --moments` has stored; RunError if there are none. bits: on how many held-out rows the likelihood of
    the model is taken as well, where it has one; for a path model each costs about a hundred network calls. predict: of
    a table, see `evaluate_table`. asked: of images, see there.

    Returns {"metrics", "protocol", "left_out", "options", "seconds", "file"} and writes all but the last into that
    file: the run's evaluation.json, or, for a store that is not the run's own samples.zarr, STEM.evaluation.json beside
    it. The protocol says everything that the figures depend on; left_out, why a metric or a floor is missing; options,
    what was asked for, as words of the command line.
    """
    begun = time.perf_counter()
    asked.check()
    options = [*asked.words(), *(["--quick"] if quick else []), *(["--bits", str(bits)] if bits else [])]
    options += ["--predict", predict] if predict is not None else []
    options += ["--checkpoint", checkpoint] if checkpoint != "newest" else []
    asked_for = {"options": options}
    is_run = (target / "run.json").exists()
    inside = target / "samples.zarr"
    if is_run and not inside.exists():
        folder = RunFolder(target)
        source = real_source(folder)[0]
        weights = folder.weights_digest(checkpoint, screen.line)
        model = folder.model(digest=weights)
        no_errors = len(source.shape) == 1 and not is_codec(model)  # what errors of vectors mean depends on units
        if quick or no_errors or not isinstance(model, Codec):
            raise RunError(f"{str(target)!r} has no samples yet: run `gensys sample {target}` first")
        alone = f"the reconstructions of {str(target)!r}, which has no samples yet"
        if predict is not None:
            raise ConfigError(f"--predict has no effect on {alone}: leave it out")
        _require_same_data(folder)
        asked.require_none(alone, but=("metrics", "features", "reference"))
        metrics, protocol = evaluate_codec(model, source, target / "reconstructions.png", asked)
        protocol |= {"codec": weights}
        found, left_out = bits_if_any(model, source, held_out(source)[:bits]) if bits else ({}, [])
        return _written(target / "evaluation.json", metrics | found, protocol, left_out, asked_for, begun)
    store = Store.open(inside if is_run else target)
    made_by = store.attributes
    if checkpoint != "newest":
        raise ConfigError(
            f"'checkpoint' is {checkpoint!r}, but the samples in {str(store.path)!r} are there already: draw "
            f"others with `gensys sample --checkpoint {checkpoint} --out STORE`, and evaluate those"
        )
    if made_by.get("kind") != "samples":
        how = "decode it first" if made_by.get("kind") == "latents" else "give one of `gensys sample`, or a run"
        raise RunError(f"{str(target)!r} does not hold samples: {how}")
    folder = RunFolder(target if is_run else Path(made_by["run"]))
    own = store.path.resolve() == (folder.path / "samples.zarr").resolve()
    file = folder.path / "evaluation.json" if own else store.path.with_name(f"{store.path.stem}.evaluation.json")
    source, codec = real_source(folder)
    if len(source.shape) == 1:
        asked.require_none(f"{source.name!r}, which holds no images")
        _require_same_data(folder)
        metrics, protocol, left_out, described = evaluate_table(
            store, folder, source, predict=predict, bits=bits, quick=quick, screen=screen
        )
        return _written(file, metrics, protocol, left_out, described | asked_for, begun)
    if predict is not None:
        raise ConfigError(f"'predict' names a column of a table, and {source.name!r} holds images: leave it out")
    _require_same_data(folder)
    subject = Subject(store, folder, source, codec, own)
    if quick:
        asked.require_none("--quick")
        metrics, protocol, left_out = evaluate_quickly(subject, screen)
    else:
        metrics, protocol, left_out = evaluate_images(subject, asked, screen)
    if bits:
        spec = folder.spec().with_knobs(made_by["knobs"])
        found, missing = bits_if_any(folder.model(spec, made_by["weights"]), source, held_out(source)[:bits])
        metrics, left_out = metrics | found, [*left_out, *missing]
    return _written(file, metrics, protocol, left_out, asked_for, begun)


def _require_same_data(folder: RunFolder) -> None:
    """Raises: RunError for data that are others than the run was trained on, whose held-out rows it may have seen."""
    trained_on = folder.document().get("data", {}).get("fingerprint")
    found = folder.spec().load().source.fingerprint()
    if trained_on not in (None, found):
        raise RunError(
            f"the content of the data of {str(folder.path)!r} has changed since it was trained ({trained_on[:12]} -> "
            f"{found[:12]}), so which rows are held out is not known: bring the data back, or train anew"
        )


def _written(
    file: Path,
    metrics: Mapping[str, Metric],
    protocol: Mapping[str, Any],
    left_out: Sequence[str],
    more: Mapping[str, Any],
    begun: float,
) -> dict[str, Any]:
    """What `evaluate` returns, once it is in its file. more: what else goes there. begun: when the evaluation was."""
    result = {
        "metrics": {name: metric.to_json() for name, metric in metrics.items()},
        "protocol": dict(protocol),
        "left_out": list(left_out),
        **more,
        "seconds": round(time.perf_counter() - begun, 2),
    }
    durable.replace(file, durable.with_digest(result))
    return result | {"file": str(file.resolve())}


if __name__ == "__main__":
    from gensys.cli import main

    main("evaluate")
