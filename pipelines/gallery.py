"""What a report shows of a run's samples beside its data: the nearest training images, and a map of both.

Either is made once and kept in the run's folder with what it was made from, see gensys/report/cached.py. Both are made
of the samples in samples.zarr if these are finished pictures, the map also of rows of numbers; a run without has
neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gensys.pipelines.moments import images_of
from gensys.pipelines.real import images, judge_of, real_source
from torch import Tensor

from gensys.core import Codec, Posterior
from gensys.data import order
from gensys.data.arrays import columns_of
from gensys.data.quarantine import readable
from gensys.data.source import Source
from gensys.data.store import Store
from gensys.evaluate.classifier import features
from gensys.evaluate.memorisation import nearest
from gensys.evaluate.tabular.rows import features as one_hot
from gensys.noise import Noise
from gensys.pictures import grid, save_png, to_uint8
from gensys.progress import Screen
from gensys.report import latent_map, neighbours
from gensys.report.cached import MAP, NEIGHBOURS, keep, kept, origin
from gensys.run_folder import RunFolder

__all__ = ["add_map", "add_neighbours"]

_PAIRS = 10
_POINTS = 500  # of either kind: more cannot be told apart on a page
_HELD_OUT = 200  # enough for a median
_AT_ONCE = 1024  # training images that are held in memory
_ENCODED = 64
_ORDER_SEED = 0x0A9  # of the real images on the map: fixed, so that two runs show the same


def add_neighbours(folder: Path, screen: Screen) -> None:
    """Find the nearest training image of each of the first ten samples, if this was not done for these samples yet."""
    made_from = _to_make(folder, NEIGHBOURS)
    if made_from is None:
        return
    x = _samples(folder, _PAIRS)[0]
    source, _ = real_source(RunFolder(folder))
    train, test = readable(source)
    with screen.phase("find the nearest images", len(train), "images") as phase:
        distances, rows = torch.full((len(x),), torch.inf, dtype=torch.float64), torch.zeros(len(x), dtype=torch.int64)
        held = images(source, test[:: max(1, len(test) // _HELD_OUT)][:_HELD_OUT])[0]
        typical = torch.full((len(held),), torch.inf, dtype=torch.float64)
        for done, part in enumerate(train.split(_AT_ONCE), 1):
            near = images(source, part)[0]
            found, which = nearest(x, near)
            rows = torch.where(found < distances, part[which], rows)
            distances = torch.minimum(found, distances)
            if len(held):
                typical = torch.minimum(typical, nearest(held, near)[0])
            phase.update(min(done * _AT_ONCE, len(train)))
    both = torch.cat([to_uint8(x), to_uint8(images(source, rows)[0])])
    save_png(grid(both, columns=len(x), gap=0), folder / neighbours.PICTURE)
    pairs = [
        {"row": row, "name": name, "distance": distance}
        for row, name, distance in zip(rows.tolist(), source.named(rows), distances.tolist(), strict=True)
    ]
    middle = float(typical.quantile(0.5)) if len(held) else None
    keep(folder / NEIGHBOURS, made_from, {"pairs": pairs, "typical": middle, "held_out": len(held)})


def add_map(folder: Path, screen: Screen) -> None:
    """Place samples and real data in the plane of the real ones' principal components, if it was not done yet.

    Images by the latents of the run's codec, each channel over its standard deviation; of a model of pixels, or of
    codes, by the features of the classifier that scores it; without classes there is no map. Rows by their columns.
    """
    made_from = _to_make(folder, MAP)
    if made_from is None:
        return
    source, codec = real_source(RunFolder(folder))
    rows = torch.cat(readable(source))
    rows = rows[order.rows(_ORDER_SEED, 0, min(_POINTS, len(rows)), len(rows))]
    if len(source.shape) == 1:
        keep(folder / MAP, made_from, _of_rows(folder, source, rows))
        return
    real, known = images(source, rows)
    x, labels = _samples(folder, _POINTS)
    points, of = None if codec is None else _latents(codec, real, x), "latents"
    if points is None and not source.classes:
        screen.line(f"no map: {source.name!r} has no classes, so no classifier's features, and there are no latents")
        return
    if points is None:
        classifier = judge_of(source, folder / "judge").classifier
        points, of = (features(classifier, real), features(classifier, x.clamp(-1, 1))), "features of a classifier"
    document = latent_map.document_of("images", *points, (known, labels), source.classes, of)
    keep(folder / MAP, made_from, document)


def _of_rows(folder: Path, source: Source, rows: Tensor) -> dict[str, Any]:
    """The map of rows of numbers: two of them as they are, more by their columns, each over its standard deviation;
    categories count as many columns as they have values."""
    batch, (drawn, asked) = source.batch(rows, Noise(0, rows)), _samples(folder, _POINTS)
    labels = batch.cond.get("label", torch.full_like(rows, -1)), asked
    columns = columns_of(source)
    if len(columns) == 2 and not any(column.categories for column in columns):
        of = " and ".join(f"{column.name}, {way}" for column, way in zip(columns, ("across", "up"), strict=True))
        return latent_map.document_of("rows", batch.x, drawn, labels, source.classes, of)
    real, made = (torch.from_numpy(one_hot(x.double().numpy(), columns)) for x in (batch.x, drawn))
    std = real.std(0)
    scale = torch.where(std > 0, std, torch.inf)  # a column that never changes moves nothing
    return latent_map.document_of("rows", real / scale, made / scale, labels, source.classes, "columns")


def _to_make(folder: Path, name: str) -> dict[str, str] | None:
    """What the file is to be made from; None if it is there, or if there is nothing that it could show."""
    made_from = origin(folder)
    if made_from is None or kept(folder / name, made_from) is not None:
        return None
    spec = Store.open(folder / "samples.zarr").config.arrays.get("x")
    if spec is None:
        return None
    pictures = spec.dtype == "uint8" and len(spec.shape) == 3 and spec.shape[0] in (1, 3)
    points = name == MAP and len(spec.shape) == 1 and spec.shape[0] > 1
    return made_from if pictures or points else None


def _samples(folder: Path, count: int) -> tuple[Tensor, Tensor]:
    """The first samples, images (n, C, H, W) in [-1, 1] or rows (n, D), and their labels, -1 = none."""
    store = Store.open(folder / "samples.zarr")
    rows = np.arange(min(count, len(store)))
    x = store.read("x", rows)
    return torch.from_numpy(x) if x.ndim == 2 else images_of(x), torch.from_numpy(store.read("label", rows))


@torch.no_grad()
def _latents(codec: Codec, *sets: Tensor) -> tuple[Tensor, Tensor] | None:
    """The latents of two sets of images, (n, D), each channel over its standard deviation in the first; None of codes,
    whose numbers are names."""
    found: list[Tensor] = []
    for x in sets:
        parts = [codec.encode(part) for part in x.split(_ENCODED)]
        if not all(isinstance(part, Posterior) for part in parts):
            return None
        found.append(torch.cat([part.mode for part in parts]))
    axes = [0, *range(2, found[0].ndim)]
    scale = found[0].std(axes, keepdim=True).clamp(min=1e-12)  # a channel that never varies moves nothing
    return (found[0] / scale).flatten(1), (found[1] / scale).flatten(1)
