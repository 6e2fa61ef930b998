"""Score samples against real data: `gensys evaluate RUN | STORE`.

What is compared with what, for n samples: the reference is the whole test split, filled up to n with training rows; the
floor is n other real rows under the same protocol, which is what a perfect model would get. Features are those of a
classifier trained here on the training split and named by its hash.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gensys.pipelines.encode import source_of
from gensys.pipelines.moments import images_of, read_moments
from gensys.pipelines.pool import BLOCK
from torch import Tensor

from gensys import durable
from gensys.core import Bits, Codec, Generative, HasBits
from gensys.data import order
from gensys.data.as_stored import AsStored
from gensys.data.joined import Joined
from gensys.data.joined_latents import latents_in
from gensys.data.latents import LatentSource
from gensys.data.pairs import Pairs
from gensys.data.quarantine import readable
from gensys.data.sources import Source
from gensys.data.store import Store
from gensys.data.unpaired import Unpaired
from gensys.engine.precision import resolve
from gensys.errors import ConfigError, RunError
from gensys.evaluate.classifier import Judge, judge
from gensys.evaluate.frechet import Moments
from gensys.evaluate.metrics import (
    Metric,
    evaluate_bits,
    evaluate_moments,
    evaluate_reconstruction,
    evaluate_samples,
    evaluate_translation,
)
from gensys.likelihood import bin_width
from gensys.noise import Noise
from gensys.pictures import beneath, grid, save_png, to_uint8
from gensys.progress import Screen
from gensys.run_folder import RunFolder, open_codec

__all__ = ["Real", "bits_of", "evaluate", "judge_of", "protocol_of", "real_source", "written"]

_BITS_SEED = 0xB175  # of dequantisation and probes: fixed, so that models are compared at the same points
_LEAST_HELD_OUT = 100  # as many as the 1 % quantile of their distances needs
_ORDER_SEED = 0x0EA1  # of the choice of real rows: fixed, so that every model is held against the same images


def real_source(folder: RunFolder) -> tuple[Source, Codec | None]:
    """The real data behind a run, and the codec between them if the run was trained on latents.

    The data of latents are split as the rows of the store are that the model was trained on (see `AsStored`).
    """
    source = folder.spec().load().source
    source = source.data if isinstance(source, Pairs) else source
    latents = latents_in(source)
    if latents is None:
        return source, None
    made_by = latents.store.attributes["codec"]
    data = source_of(RunFolder(Path(made_by["run"])).spec(), made_by["data"] or None)
    stores = source.parts if isinstance(source, Joined) else [source]
    return AsStored.of(data, [part for part in stores if isinstance(part, LatentSource)]), open_codec(latents)


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
    parts = [part for rows in readable(source) for part in _images(source, rows)]
    try:
        return judge(folder, *parts, classes=len(source.classes))
    except ValueError as error:  # too few images or classes, or of a size that the network cannot see
        raise RunError(f"no classifier can be trained on {source.name!r}: {error}") from error


@dataclass(frozen=True)
class Real:
    """Which real rows a number of samples is held against. floor: None = there are too few left for one."""

    test: Tensor
    train: Tensor
    reference: Tensor
    floor: Tensor | None

    @classmethod
    def choose(cls, source: Source, n: int) -> Real:
        train, test = (_shuffled(rows) for rows in readable(source))
        fill = max(0, n - len(test))
        others = train[fill : fill + n]
        return cls(test, train, torch.cat([test[:n], train[:fill]]), others if len(others) == n else None)

    def told(self) -> dict[str, str]:
        """What the protocol says of them."""
        tested = min(len(self.test), len(self.reference))
        floor = None if self.floor is None else f"{len(self.floor)} other training rows, same reference"
        return {
            "reference": f"{tested} test rows and {len(self.reference) - tested} training rows",
            "floor": floor or "none: too few real images",
        }


def _score(
    store: Store, source: Source, judged: Judge, real: Real, moments: list[Moments] | None, screen: Screen
) -> tuple[dict[str, Metric], list[str]]:
    """The metrics, and why others are left out. moments: of the shards, if they are stored."""
    n = len(store)
    samples = images_of(store.read("x", np.arange(n)))
    labels = torch.from_numpy(store.read("label", np.arange(n)))
    labelled = bool((labels >= 0).all())
    compared = len(real.test) >= _LEAST_HELD_OUT
    left_out: list[str] = []
    if real.floor is None:
        left_out.append(
            f"no floors: {n} samples need {n} more real images than the reference has; sample fewer to get them"
        )
    if not compared:
        left_out.append(f"no memorisation: it needs {_LEAST_HELD_OUT} held-out images, and there are {len(real.test)}")
    if not labelled:
        left_out.append("no label agreement: the samples were drawn without labels")
    for line in left_out:
        screen.line(line)
    reference = _images(source, real.reference)[0]
    floor = None if real.floor is None else _images(source, real.floor)[0]
    train = _images(source, real.train)[0] if compared else None
    held_out = _images(source, real.test)[0] if compared else None
    try:
        metrics = evaluate_samples(
            samples,
            labels if labelled else None,
            reference,
            floor,
            train,
            judged.classifier,
            accuracy=judged.accuracy,
            held_out=held_out,
            moments=Moments.fold(moments) if moments else None,
        )
    except ValueError as error:  # too few rows, or values that are no images: the message names which
        raise RunError(f"{str(store.path)!r} cannot be scored: {error}") from error
    return metrics, left_out


def _score_quickly(
    store: Store, source: Source, judged: Judge, real: Real, moments: list[Moments], screen: Screen
) -> tuple[dict[str, Metric], list[str]]:
    """What the stored moments give, and what else there would be: no sample is read."""
    reference = _images(source, real.reference)[0]
    floor = None if real.floor is None else _images(source, real.floor)[0]
    try:
        metrics = evaluate_moments(moments, reference, floor, judged.classifier)
    except ValueError as error:
        raise RunError(f"{str(store.path)!r} cannot be scored: {error}") from error
    left_out = ["all but the Frechet distance: --quick reads no samples"]
    if any(metric.low is None for metric in metrics.values()):
        left_out.append(f"no interval: {len(moments)} shards are too few to resample; use a smaller --shard")
    for line in left_out:
        screen.line(line)
    return metrics, left_out


@torch.no_grad()
def _reconstruct(codec: Codec, source: Source, picture: Path | None) -> dict[str, Metric]:
    """Scores of decoded held-out images, and a picture: rows of originals above rows of what came back."""
    rows = _shuffled(readable(source)[1])[:10_000]
    if not len(rows):
        raise RunError(f"{source.name!r} has no held-out images, so no reconstruction can be scored: use more images")
    x, _ = _images(source, rows)
    decoded = torch.cat([codec.decode(codec.encode(part).mode) for part in x.split(64)])
    if picture is not None:
        sets = [to_uint8(images[:20]) for images in (x, decoded)]
        save_png(grid(beneath(sets, columns=10), columns=10, scale=2), picture)
    return evaluate_reconstruction(x, decoded)


def _translate(store: Store, source: Unpaired) -> tuple[dict[str, Metric], list[str]]:
    """Scores of translations, and why others are left out."""
    rows = np.arange(len(store))
    images, made, back = (images_of(store.read(name, rows)) for name in ("image", "x", "cycle"))
    target, about = torch.from_numpy(store.read("label", rows)), store.attributes
    means = torch.empty_like(images)
    for domain in target.unique():
        means[target == domain] = images[target == domain].mean(0)
    left_out = [] if source.known else ["no translation error: which images belong together is not known"]
    if "data" in about:
        left_out = ["no translation error: the images were given, and what they truly are is not known"]
    first, label = about["first"], about["label"]
    truth = None if left_out else source.truth(source.shown(first + torch.from_numpy(rows), label)[0])
    return evaluate_translation(images, made, back, means, truth), left_out


def bits_of(model: Generative, source: Source, rows: Tensor) -> dict[str, Metric]:
    """The likelihood of held-out rows; RunError, which says why, where there is none."""
    if not len(rows):
        raise RunError(f"{source.name!r} has no held-out rows")
    if not isinstance(model, HasBits):
        raise RunError("this model has no likelihood of its data")
    width = bin_width() if len(source.shape) == 3 else None
    found: list[Bits] = []
    for part in rows.split(BLOCK):
        batch = source.batch(part, Noise(_BITS_SEED, part))
        bits = model.bits(batch.x, batch.cond, Noise(_BITS_SEED, part), width)
        if bits is None:
            raise RunError("this model has no likelihood of such data")
        found.append(bits)
    return evaluate_bits(torch.cat([bits.per_dim.double().cpu() for bits in found]), found[0].about)


def evaluate(
    target: Path,
    *,
    screen: Screen,
    checkpoint: str = "newest",
    quick: bool = False,
    bits: int = 0,
    predict: str | None = None,
) -> dict[str, Any]:
    """Score a sample store, or a run folder's samples.zarr (for a codec's run: its reconstructions).

    checkpoint: of a codec, whose weights, see `RunFolder.weights`. quick: only what the moments give that
    `gensys sample --moments` has stored; RunError if there are none. bits: on how many held-out rows the likelihood of
    the model is taken as well, where it has one; for a path model each costs about a hundred network calls. predict: of
    a table, see `evaluate_table`.

    Returns {"metrics", "protocol", "left_out", "seconds", "file"} and writes all but the last into that file: the run's
    evaluation.json, or, for a store that is not the run's own samples.zarr, STEM.evaluation.json beside it. The
    protocol says everything that the figures depend on; left_out, why a metric or a floor is missing.
    """
    begun = time.perf_counter()
    is_run = (target / "run.json").exists()
    inside = target / "samples.zarr"
    left_out: list[str] = []
    if is_run and not inside.exists():
        folder = RunFolder(target)
        source, _ = real_source(folder)
        weights = folder.weights_digest(checkpoint, screen.line)
        model = folder.model(digest=weights)
        if quick or not isinstance(model, Codec):
            raise RunError(f"{str(target)!r} has no samples yet: run `gensys sample {target}` first")
        metrics = _reconstruct(model, source, target / "reconstructions.png")
        protocol = _about_data(source) | {"codec": weights}
        file = target / "evaluation.json"
    else:
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
            from gensys.pipelines.evaluate_table import evaluate_table

            found = evaluate_table(store, folder, source, predict=predict, bits=bits, quick=quick, screen=screen)
            return written(file, *found, begun)
        if predict is not None:
            raise ConfigError(f"'predict' names a column of a table, and {source.name!r} holds images: leave it out")
        with screen.phase("train the classifier", 1, "steps"):
            judged = judge_of(source, folder.path / "judge")
        real = Real.choose(source, len(store))
        moments = read_moments(store, judged.weights)
        if quick and isinstance(moments, str):
            raise RunError(
                f"--quick needs the moments of {str(store.path)!r}, and {moments}: give the `gensys sample` command "
                "that made it once more, with --moments"
            )
        with screen.phase("evaluate", len(store), "samples") as phase:
            if quick and not isinstance(moments, str):
                metrics, left_out = _score_quickly(store, source, judged, real, moments, screen)
            else:
                stored = None if isinstance(moments, str) else moments
                metrics, left_out = _score(store, source, judged, real, stored, screen)
                if codec is not None and len(real.test):
                    metrics |= _reconstruct(codec, source, folder.path / "reconstructions.png" if own else None)
                elif codec is not None:
                    left_out.append("no reconstruction: there are no held-out images")
                if isinstance(source, Unpaired):
                    translated, missing = _translate(store, source)
                    metrics, left_out = metrics | translated, left_out + missing
            phase.update(len(store))
        if bits:
            try:
                spec = folder.spec().with_knobs(made_by["knobs"])
                metrics |= bits_of(folder.model(spec, made_by["weights"]), source, real.test[:bits])
            except RunError as error:
                left_out.append(f"no bits per dimension: {error}")
                screen.line(left_out[-1])
        taken = moments if isinstance(moments, str) else f"those of {len(moments)} shards, taken while sampling"
        protocol = protocol_of(store, folder, source, judged, real) | {"moments of samples": taken}
    return written(file, metrics, protocol, left_out, {}, begun)


def written(
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


def _told(judged: Judge) -> str:
    return f"lenet, sha256 {judged.weights[:16]}, held-out accuracy {judged.accuracy:.3f}"


def _about_data(source: Source) -> dict[str, Any]:
    return {"data": source.about, "data fingerprint": source.fingerprint()}


def protocol_of(store: Store, folder: RunFolder, source: Source, judged: Judge | None, real: Real) -> dict[str, Any]:
    """Everything that the figures depend on. judged: None = no classifier took part."""
    made_by = store.attributes
    run, n = folder.spec().load(), len(store)
    sampler = {name: made_by["knobs"][name] for name in sorted(run.retune)}
    return {
        "samples": n,
        "sample ids": f"{made_by['first']}:{made_by['first'] + n}",
        "sample seed": made_by["seed"],
        **sampler,
        "precision": resolve(run.settings.precision),
        "weights": f"average of relative width {run.settings.ema:g}, sha256 {made_by['weights'][:16]}",
        **real.told(),
        **({} if judged is None else {"classifier": _told(judged)}),
        **_about_data(source),
    }


if __name__ == "__main__":
    from gensys.cli import main

    main("evaluate")
