"""Edit given images with a path model: `gensys edit RUN --images DATA`.

Image i is a function of (run, image i, mask, seed, i, its label, the knobs asked for) alone: images are edited in the
blocks of fixed size at fixed places in which samples are drawn (pipelines/sample.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gensys.pipelines.decode import pictured, require_free, save_picture
from gensys.pipelines.pool import BLOCK, Pool, by_blocks, check_shard, default_shard, device, fill
from gensys.pipelines.sample import class_of, stored

from gensys.core import Cond, Generative
from gensys.data.arrays import Arrays
from gensys.data.decode import SUFFIXES, DamagedError, decode
from gensys.data.quarantine import check_quarantine
from gensys.data.sources import Source, open_source
from gensys.data.store import ArraySpec, Store
from gensys.data.where import Where, resolved
from gensys.editing import data_shape, from_partial, inpaint, path_model, round_trip
from gensys.engine.precision import autocast
from gensys.errors import ConfigError, DataError
from gensys.noise import Noise
from gensys.progress import Screen
from gensys.run import Spec
from gensys.run_folder import RunFolder

__all__ = ["Edit", "EditJob", "edit"]


Edited = Callable[[torch.Tensor, Cond, Cond, Noise], torch.Tensor]
"""(x, own, cond, noise) -> x edited, (B, *S). own: the condition that x is inverted by; cond: that of what is drawn."""


@dataclass(frozen=True)
class Edit:
    """What is done, one of: mask, an image file, white where images are drawn anew; start, the time from which noise is
    taken away again, in (0, 1]; neither: inversion, to the noise and back."""

    mask: str = ""
    start: float | None = None
    resamplings: int = 1

    def load(self, model: Generative, shape: tuple[int, ...]) -> Edited:
        """What does it to data of this shape, (C, H, W) or (D,). Raises: ConfigError for a mask
        where there are no images, DataError for one that does not fit."""
        if self.mask and len(shape) != 3:
            raise ConfigError(f"'mask' is {self.mask!r}, an image, and this run draws rows of shape {shape}: no images")
        if self.mask:
            known = torch.from_numpy(_pixels(Path(self.mask), (1, *shape[1:])) < 128)
            return lambda x, own, cond, noise: inpaint(
                model, x, known.to(x.device), cond, noise, resamplings=self.resamplings
            )
        if (start := self.start) is not None:
            return lambda x, own, cond, noise: from_partial(model, x, cond, noise, start)
        return lambda x, own, cond, noise: round_trip(model, x, own, cond, noise)

    def described(self) -> dict[str, Any]:
        """What the store says of it: the mask by its bytes, not by its name."""
        mask = hashlib.sha256(Path(self.mask).read_bytes()).hexdigest() if self.mask else ""
        return {"mask": mask, "from": self.start, "resamplings": self.resamplings}


@dataclass(frozen=True)
class EditJob:
    """Edit the images of a shard and commit them.

    run, store, images: absolute paths; of the store, or its URL. weights: the digest of those that the store names.
    label: of all results; None = what each image has.
    """

    run: str
    store: str
    images: str
    spec: Spec
    weights: str
    edit: Edit
    seed: int
    label: int | None

    def load(self) -> Callable[[int], int]:
        store, run, place = Store.open(self.store), self.spec.load(), device()
        model = RunFolder(Path(self.run)).model(self.spec, self.weights).to(place)
        shape = data_shape(model)
        source, edited, classes = _open(self.images, shape), self.edit.load(model, shape), run.source.classes
        named = store.attributes
        if (source.fingerprint(), self.edit.described()) != (named["images"], named["edit"]):
            raise DataError(
                f"the images {self.images!r} or the mask have changed since editing began: put the old ones back"
            )

        def block(number: int) -> dict[str, npt.NDArray[Any]]:
            ids = torch.arange(number * BLOCK, (number + 1) * BLOCK)
            x, own, cond = _given(source, classes, ids.clamp(max=len(source) - 1), self.label)
            noise = Noise(self.seed, ids.to(place))
            own, cond = ({name: value.to(place) for name, value in each.items()} for each in (own, cond))
            with torch.no_grad(), autocast(run.settings.precision, place):
                made = edited(x.to(place), own, cond, noise)
            made = {"x": stored(made), "label": cond.get("label", torch.full_like(ids, -1)), "id": ids}
            return {name: values.cpu().numpy() for name, values in made.items()}

        def work(shard: int) -> int:
            rows = store.rows_of(shard)
            store.commit(shard, by_blocks(rows, block))
            return len(rows)

        return work


def _pixels(file: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """An image file of this size, (C, H, W). Raises DataError for another."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            size = image.size
        if size != (shape[2], shape[1]):
            raise DataError(f"the mask {str(file)!r} is {size[0]} x {size[1]}, and images are {shape[2]} x {shape[1]}")
        return decode(file.read_bytes(), (shape[0], shape[1], shape[2]))
    except (OSError, DamagedError) as error:
        raise DataError(f"the mask {str(file)!r} cannot be read as an image: {error}") from error


def _open(images: str, shape: tuple[int, ...]) -> Source:
    """What is to be edited, as data of `shape`: an image file, which is cropped and scaled to it, or data as others.

    Raises: DataError for data of another shape.
    """
    path = Path(images)
    if path.is_file() and path.suffix.lower() in SUFFIXES and len(shape) == 3:
        try:
            x = decode(path.read_bytes(), (shape[0], shape[1], shape[2]))[None]
        except DamagedError as error:
            raise DataError(f"the image {images!r} cannot be read: {error}") from error
        return Arrays(path.name, images, x, torch.full((1,), -1), (), {}, lambda _: path.name)
    source = open_source(images, shape[-1])
    if tuple(source.shape) != shape:
        raise DataError(
            f"the images {images!r} have the shape {tuple(source.shape)} (channels, height, width), and the run draws "
            f"{shape}: give such images"
        )
    check_quarantine(source, 0.0)
    return source


def _given(
    source: Source, classes: tuple[str, ...], rows: torch.Tensor, label: int | None
) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Images, the label of each, and the one that it is to have, -1 = none; of a model without classes neither."""
    batch = source.batch(rows, Noise(0, rows))
    if not classes:
        return batch.x, {}, {}
    asked = torch.full_like(rows, -1 if label is None else label)
    own = batch.cond["label"] if source.classes == classes else asked
    return batch.x, {"label": own}, {"label": own if label is None else asked}


def edit(
    folder: RunFolder,
    out: Where,
    images: str,
    how: Edit,
    *,
    seed: int,
    label: int | str | None,
    overrides: Mapping[str, str],
    workers: int,
    screen: Screen,
    checkpoint: str = "newest",
    shard: int | None = None,
    pool: Pool | None = None,
) -> Store:
    """Edit all images into a store; goes on where it was stopped. In a directory, a picture of the first fifty is put
    beside it, each above what came of it.

    Raises: ConfigError for a run that cannot edit so, DataError for images or a mask that do not fit.
    """
    spec = folder.retuned(overrides)
    run = spec.load()
    classes = run.source.classes
    label = class_of(label, classes)
    weights = folder.weights_digest(checkpoint, screen.line)
    model = folder.model(spec, weights)
    one = torch.zeros(1, dtype=torch.int64)
    try:  # one image, so that what cannot be done is refused before a store is made
        shape = data_shape(model)
        source = _open(images, shape)
        x, own, cond = _given(source, classes, one, label)
        _require_label(model, own, cond)
        made = stored(how.load(model, shape)(x, own, cond, Noise(seed, one)))
    except ValueError as error:
        raise ConfigError(f"{str(folder.path)!r} cannot edit these images so: {error}") from error
    if pictured(made.shape[1:]):
        require_free(out, ".png", folder.path)
    store = Store.create(
        out,
        {
            "x": ArraySpec(tuple(made.shape[1:]), str(made.dtype).removeprefix("torch.")),
            "label": ArraySpec((), "int64"),
            "id": ArraySpec((), "int64"),
        },
        rows=len(source),
        shard=check_shard(shard or default_shard(len(source))),
        chunk=BLOCK,
        attributes={
            "kind": "edits",
            "run": str(folder.path.resolve()),
            "weights": weights,
            "recipe": spec.recipe,
            "knobs": dict(spec.knobs),
            "seed": seed,
            "first": 0,
            "label": label,
            "classes": list(classes),
            "images": source.fingerprint(),
            "edit": how.described(),
        },
    )
    job = EditJob(str(folder.path.resolve()), resolved(out), images, spec, weights, how, seed, label)
    fill(store, job, "edit", "images", workers=workers, screen=screen, pool=pool)
    store.seal({})
    save_picture(store, source)
    return store


def _require_label(model: Generative, *conds: Cond) -> None:
    """Refuse images without a label, where the model has never been trained without one. Raises: ValueError."""
    if any(int(cond["label"][0]) < 0 for cond in conds if "label" in cond):
        path_model(model).denoiser.require_unlabelled("model")


if __name__ == "__main__":
    from gensys.cli import main

    main("edit")
