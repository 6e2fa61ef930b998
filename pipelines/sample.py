"""Draw samples into a store: `gensys sample RUN --seeds 0:50000`.

Sample i is a function of (run, seed, i, its label, guidance and own seed, the knobs asked for) alone. Samples are drawn
in blocks of fixed size at fixed places: i always sits in row i mod 64 of block i div 64, with the same neighbours,
because a matrix product may round a row differently in another place. So the bits of sample 4711 do not depend on what
else was asked for, or on who drew it.

A translator's samples are translations: of held-out images, or of images that are given, of which image i makes sample
i. Beside each of them, "x", lies the "image" that it was made of, and the "cycle": what comes back of the translation
as it is stored, in pixels. (As it was computed it comes back nearer, since generators learn to hide what they need for
the way back in differences that no pixel holds: Chu, Zhmoginov and Sandler, 2017, "CycleGAN, a master of
steganography", arXiv:1712.02950.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gensys.pipelines.decode import in_latents, pictured, require_free, save_picture
from gensys.pipelines.encode import source_of
from gensys.pipelines.moments import MomentsJob, create_moments, open_moments, taking_moments
from gensys.pipelines.pool import BLOCK, Pool, by_blocks, check_shard, default_shard, device, fill
from gensys.pipelines.real import judge_of, real_source

from gensys.columns import Column, rounded
from gensys.core import Cond, Generative, InLatents
from gensys.data.arrays import Arrays
from gensys.data.pairs import data_of
from gensys.data.sample_table import SampleTable, class_number, read_sample_table
from gensys.data.source import Source, scaled
from gensys.data.store import ArraySpec, Store
from gensys.data.table import write_table
from gensys.data.where import Where, is_url, resolved
from gensys.engine.precision import autocast
from gensys.errors import ConfigError, DataError
from gensys.noise import MAX_ID, Noise
from gensys.pictures import to_uint8
from gensys.preview import conditions, returning
from gensys.progress import Screen
from gensys.run import Run, Spec
from gensys.run_folder import RunFolder

__all__ = ["SampleJob", "class_of", "sample", "stored"]


@dataclass(frozen=True)
class SampleJob:
    """Draw the samples of a shard and commit them.

    run, store: absolute paths; of the store, or its URL. spec: with the knobs asked for. weights: the digest of those
    that the store names; a run that is still training saves others meanwhile. label: of all samples; None = those of
    the table, or every class in turn. table: its absolute path and its digest, or None. data: the images to translate,
    their path and fingerprint, or None. latents: keep what is drawn before it is decoded. exact: keep images as they
    are drawn, not rounded to pixels, and numbers, not to the decimals of their columns. moments: take those of the
    shard's features.
    """

    run: str
    store: str
    spec: Spec
    weights: str
    first: int
    seed: int
    label: int | None = None
    table: tuple[str, str] | None = None
    latents: bool = False
    moments: bool = False
    exact: bool = False
    data: tuple[str, str] | None = None

    def load(self) -> Callable[[int], int]:
        folder, store = RunFolder(Path(self.run)), Store.open(self.store)
        run = self.spec.load()
        place = device()
        model = folder.model(self.spec, self.weights).to(place)
        table = None
        if self.table is not None:
            table = _read(Path(self.table[0]), model, run)
            if table.digest() != self.table[1]:
                raise DataError(f"the table {self.table[0]!r} has changed since sampling began: put the old one back")
        data = None
        if self.data is not None:
            data = source_of(self.spec, self.data[0])
            if data.fingerprint() != self.data[1]:
                raise DataError(f"the images {self.data[0]!r} have changed since sampling began: put the old ones back")
        moments = taking_moments(store, folder.path / "judge") if self.moments else None
        source = data_of(run.source)
        columns = _columns(source)

        def block(number: int) -> dict[str, npt.NDArray[Any]]:
            ids = torch.arange(number * BLOCK, (number + 1) * BLOCK, device=place)
            cond, noise = _cond(ids, run.source, self.label, table, data), Noise(self.seed, ids)
            with autocast(run.settings.precision, place):
                made = _drawn(model, cond, noise, self.latents, None if self.exact else columns)
            if "label" not in model.conditions:  # nobody asked for one who would not be heard
                cond = {**cond, "label": torch.full_like(ids, -1)}
            made = {"label": torch.full_like(ids, -1), **cond, "id": ids, **made}
            return {name: values.cpu().numpy() for name, values in made.items()}

        def work(shard: int) -> int:
            rows = store.rows_of(shard)
            arrays = by_blocks(range(self.first + rows.start, self.first + rows.stop), block)
            if moments is not None:  # before the shard, so that a shard that is there has them
                moments(shard, arrays["x"])
            store.commit(shard, arrays)
            return len(rows)

        return work


def _drawn(
    model: Generative, cond: Cond, noise: Noise, latents: bool, columns: Sequence[Column] | None
) -> dict[str, torch.Tensor]:
    """The arrays of some samples: "z" of latents, else "x", and of translations the "image" and the "cycle" as well.
    columns: of a table; None = x as it is drawn."""
    if latents:
        return {"z": in_latents(model).latents(cond, noise)}
    x = model.sample(cond, noise)
    x = x.float() if columns is None else stored(x, columns)
    if "image" not in cond:
        return {"x": x}
    pixels = scaled(x.cpu()).to(x.device)
    return {
        "x": x,
        "image": to_uint8(cond["image"]),
        "cycle": to_uint8(model.sample(returning(pixels, cond), noise)),
    }


def stored(x: torch.Tensor, columns: Sequence[Column] = ()) -> torch.Tensor:
    """Images as pixels, uint8; vectors, which have none, as float32, and rounded as the columns of a table are."""
    return rounded(columns, x.float()) if x.ndim == 2 else to_uint8(x)


def _read(path: Path, model: Generative, run: Run) -> SampleTable:
    source = run.source
    vector = source.vector if isinstance(source, Arrays) else 0
    return read_sample_table(path, source.classes, _conditions(model, source.classes), vector)


def _conditions(model: Generative, classes: tuple[str, ...]) -> frozenset[str]:
    """What a table may say of a sample: guidance needs a label or a vector to follow."""
    known = model.conditions if classes else model.conditions - {"label"}
    return known if known & {"label", "vector"} else known - {"guidance"}


def _given(data: Source, ids: torch.Tensor, label: int) -> dict[str, torch.Tensor]:
    """The conditions of translations of images that are given."""
    rows = ids.cpu().clamp(max=len(data) - 1)
    return {"label": torch.full_like(ids, label), "image": data.batch(rows, Noise(0, rows)).x.to(ids.device)}


def _cond(
    ids: torch.Tensor, source: Source, label: int | None, table: SampleTable | None, data: Source | None
) -> dict[str, torch.Tensor]:
    """The conditions of samples. Beyond the end of the table, or of the images to translate, where a block is filled
    up, the last row is repeated."""
    if data is not None and label is not None:
        return _given(data, ids, label)
    cond = conditions(source, ids, label)
    if table is not None:
        rows = ids.cpu().numpy().clip(max=len(table) - 1)
        cond |= {name: torch.from_numpy(column[rows]).to(ids.device) for name, column in table.columns.items()}
    return cond


def class_of(label: int | str | None, classes: tuple[str, ...]) -> int | None:
    """The class that is asked for by its name or number; None = none is. Raises: ConfigError if there is none such."""
    if label is None:
        return None
    if not classes:
        raise ConfigError("this model has no labels")
    try:
        return class_number(label, classes)
    except ValueError as error:
        raise ConfigError(f"'label': {error}") from error


def _images(spec: Spec, classes: tuple[str, ...], data: str, translates: bool, label: int | str | None) -> Source:
    """The images to translate."""
    if not translates:
        raise ConfigError(f"'data' is {data!r}, and this model draws samples of its own: it translates no images")
    if label is None:
        wanted = " or ".join(f"{k} for {name!r}" for k, name in enumerate(classes))
        raise ConfigError(f"'label' says which domain the images {data!r} are to go to: give {wanted}")
    return source_of(spec, data)


def sample(
    folder: RunFolder,
    out: Where,
    *,
    ids: range | None,
    seed: int,
    label: int | str | None,
    overrides: Mapping[str, str],
    shard: int | None,
    workers: int,
    screen: Screen,
    checkpoint: str = "newest",
    pool: Pool | None = None,
    table: Path | None = None,
    data: str | None = None,
    latents: bool = False,
    moments: bool = False,
    pairs: bool = False,
) -> Store:
    """Draw the samples `ids` into a store; goes on where it was stopped. In a directory, a grid of the first hundred is
    put beside it, or all rows of a table as a .csv file.

    checkpoint: whose weights, see `RunFolder.weights`.
    ids: None = every row that is given, or the first 64. label: the class of all, by name or number. table: what each
    sample is to be (data/sample_table.py). data: images to translate, what `encode.source_of` opens; label is the
    domain that they go to. latents: store what the codec's decoder takes, float32, or int64 of codes
    (pipelines/decode.py decodes it; float16 would not decode to the same bits). moments: store the moments of every
    shard's features (pipelines/moments.py); the classifier is trained first if the run has none yet. pairs: samples
    that a flow is to be trained on with their noise (pipelines/reflow.py): the latents of a model that draws some, of
    any other float32 that is not rounded.
    """
    spec = folder.retuned(overrides)
    run = spec.load()
    classes = run.source.classes
    weights = folder.weights_digest(checkpoint, screen.line)
    model = folder.model(spec, weights)
    translates = "image" in model.conditions
    images = None if data is None else _images(spec, classes, data, translates, label)
    label = class_of(label, classes if "label" in model.conditions else ())
    if table is not None and translates:
        raise ConfigError("'table' says what samples are to be, and this model translates images: give 'data'")
    rows = None if table is None else _read(table.resolve(), model, run)
    translated = None if data is None or images is None else (data, images.fingerprint())
    given, what = (rows, f"table {str(table)!r}") if rows is not None else (images, f"data {data!r}")
    ids = ids or range(64 if given is None else len(given))
    if not len(ids) or ids.step != 1 or ids.start < 0 or ids.stop > MAX_ID - BLOCK:  # the last block is drawn whole
        raise ConfigError(f"'seeds' must be a range FIRST:END with 0 <= FIRST < END < 2^56, got {ids.start}:{ids.stop}")
    if given is not None and ids.stop > len(given):
        raise ConfigError(
            f"'seeds' is {ids.start}:{ids.stop}, and the {what} has the rows 0:{len(given)}: ask for fewer samples, or "
            "add rows"
        )
    if rows is not None and label is not None and "label" in rows.columns:
        raise ConfigError(f"'label' is {label}, and the table {str(table)!r} has labels of its own: give one of them")
    if latents and moments:
        raise ConfigError("'moments' are those of images, and 'latents' stores none: take them when they are decoded")
    latents = latents or (pairs and isinstance(model, InLatents))
    one = torch.zeros(1, dtype=torch.int64)
    cond, noise = conditions(run.source, one), Noise(seed, one)
    drawn = _drawn(model, cond, noise, latents, None if pairs else ())
    arrays = {name: ArraySpec(tuple(v.shape[1:]), str(v.dtype).removeprefix("torch.")) for name, v in drawn.items()}
    arrays |= {"label": ArraySpec((), "int64"), "id": ArraySpec((), "int64")}
    if rows is not None:
        arrays |= {name: ArraySpec(column.shape[1:], str(column.dtype)) for name, column in rows.columns.items()}
    if "x" in drawn and not pairs:
        if pictured(drawn["x"].shape[1:]):
            require_free(out, ".png", folder.path)
        if _columns(data_of(run.source)):
            require_free(out, ".csv", folder.path)
    store = Store.create(
        out,
        arrays,
        rows=len(ids),
        shard=check_shard(shard or default_shard(len(ids))),
        chunk=BLOCK,
        attributes={
            "kind": "pairs" if pairs else "latents" if latents else "samples",
            "run": str(folder.path.resolve()),
            "weights": weights,
            "recipe": spec.recipe,
            "knobs": dict(spec.knobs),
            "seed": seed,
            "first": ids.start,
            "label": label,
            "classes": list(classes),
        }
        | ({} if rows is None else {"table": rows.digest()})
        | ({} if translated is None else {"data": list(translated)}),
    )
    if moments:
        create_moments(store, judge_of(real_source(folder)[0], folder.path / "judge").weights)
    job = SampleJob(
        str(folder.path.resolve()),
        resolved(out),
        spec,
        weights,
        ids.start,
        seed,
        label,
        None if rows is None else (str(rows.path), rows.digest()),
        latents,
        moments,
        pairs,
        translated,
    )
    fill(store, job, "sample", "samples", workers=workers, screen=screen, pool=pool, folder=folder)
    if moments:  # of shards that were there before
        late = MomentsJob(job.store, str(folder.path.resolve() / "judge"))
        fill(open_moments(store), late, "moments", "shards", workers=workers, screen=screen, pool=pool)
    store.seal({})
    if not latents and not pairs:
        save_picture(store)
        _save_table(store, data_of(run.source), "label" in model.conditions)
    return store


def _columns(source: Source) -> tuple[Column, ...]:
    """Of a table; () = the data are none."""
    return source.columns if isinstance(source, Arrays) else ()


def _save_table(store: Store, source: Source, labelled: bool) -> None:
    """Beside a store of rows of a table in a directory, the rows as a CSV table with the columns of the data. labelled:
    whether the rows were drawn by their labels, which go into a column then."""
    columns = _columns(source)
    if is_url(store.where) or not columns:
        return
    rows = np.arange(len(store))
    labels = store.read("label", rows) if labelled and source.classes else np.empty(0, np.int64)
    names = [source.classes[label] for label in labels]
    write_table(store.path.with_suffix(".csv"), columns, store.read("x", rows), names)


if __name__ == "__main__":
    from gensys.cli import main

    main("sample")
