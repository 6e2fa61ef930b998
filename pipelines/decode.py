"""Decode sampled latents into a store of samples: `gensys decode STORE`, after `gensys sample RUN --latents`.

The same bytes as sampling without --latents: latents are decoded in the blocks that they were drawn in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gensys.pipelines.pool import BLOCK, Pool, by_blocks, device, fill

from gensys.core import Generative, InLatents
from gensys.data.place import open_place
from gensys.data.source import Source
from gensys.data.store import ArraySpec, Store
from gensys.data.where import Where, is_url, resolved
from gensys.engine.precision import autocast
from gensys.errors import ConfigError, RunError
from gensys.noise import Noise
from gensys.pictures import beneath, grid, save_png, to_uint8
from gensys.progress import Screen
from gensys.run import Spec
from gensys.run_folder import RunFolder

__all__ = ["DecodeJob", "decode", "in_latents", "pictured", "require_free", "save_picture"]


def in_latents(model: Generative) -> InLatents:
    """The model, if it draws latents; ConfigError if not."""
    if not isinstance(model, InLatents):
        raise ConfigError("this model draws its samples as they are, without a codec: there are no latents to store")
    return model


def pictured(shape: Sequence[int]) -> bool:
    """Whether samples of this shape are images that can be shown."""
    return len(shape) == 3 and shape[0] in (1, 3)


def require_free(out: Where, suffix: str, own: Path) -> None:
    """Refuse a new store if what is put beside it, under its name with this suffix, would take the place of a file.

    own: the run's folder, in which all comes of the run. Raises: ConfigError.
    """
    if is_url(out) or not open_place(out).vacant():
        return
    file = Path(out).with_suffix(suffix)
    if file.exists() and own.resolve() not in file.resolve().parents:
        raise ConfigError(
            f"the store {str(out)!r} would have {file.name!r} beside it, and a file of that name is there: choose "
            f"another --out, or move the file away"
        )


def save_picture(store: Store, given: Source | None = None) -> None:
    """Beside a store of images in a directory, a grid of the first hundred; of translations, of the first fifty, each
    below the image that it was made of and above what comes back of it.

    given: the data whose rows the store's were made of, if it does not hold them itself: they are shown above.
    """
    if is_url(store.where):
        return
    shape = store.config.arrays["x"].shape
    if pictured(shape):
        names = ("image", "x", "cycle") if "cycle" in store.config.arrays else ("x",)
        alone = len(names) == 1 and given is None
        rows = np.arange(min(100 if alone else 50, len(store)))
        sets = [torch.from_numpy(store.read(name, rows)) for name in names]
        if given is not None:
            ids = torch.from_numpy(rows)
            sets.insert(0, to_uint8(given.batch(ids, Noise(0, ids)).x))
        columns = 10 if given is None else min(10, len(rows))
        save_png(grid(beneath(sets, columns), columns, scale=2), store.path.with_suffix(".png"))


def _made_by(latents: Store) -> tuple[RunFolder, Spec, str]:
    """The run that the latents were drawn from, with the knobs and the weights that they were drawn with."""
    about = latents.attributes
    folder = RunFolder(Path(about["run"]))
    return folder, folder.spec().with_knobs(about["knobs"]), about["weights"]


def _zeros(rows: int, latents: Store) -> torch.Tensor:
    spec = latents.config.arrays["z"]
    return torch.from_numpy(np.zeros((rows, *spec.shape), spec.dtype))


@dataclass(frozen=True)
class DecodeJob:
    """Decode the latents of a shard and commit them. latents, store: absolute paths, or URLs."""

    latents: str
    store: str

    def load(self) -> Callable[[int], int]:
        latents, store = Store.open(self.latents), Store.open(self.store)
        folder, spec, weights = _made_by(latents)
        precision, place = spec.load().settings.precision, device()
        model = folder.model(spec, weights).to(place)
        first = latents.attributes["first"]

        def block(number: int) -> dict[str, npt.NDArray[Any]]:
            """A whole one, with zeros for rows that the store has not: no row depends on what its neighbours hold."""
            begin = number * BLOCK - first
            rows = range(max(begin, 0), min(begin + BLOCK, len(latents)))
            z = _zeros(BLOCK, latents)
            z[rows.start - begin : rows.stop - begin] = torch.from_numpy(latents.read("z", rows))
            with torch.no_grad(), autocast(precision, place):
                return {"x": to_uint8(in_latents(model).decode_latents(z.to(place))).cpu().numpy()}

        def work(shard: int) -> int:
            rows = store.rows_of(shard)
            kept = {name: latents.read(name, rows) for name in store.config.arrays if name != "x"}
            store.commit(shard, kept | by_blocks(range(first + rows.start, first + rows.stop), block))
            return len(rows)

        return work


def decode(source: Where, out: Where, *, workers: int, screen: Screen, pool: Pool | None = None) -> Store:
    """Decode every latent of a store into `out`; goes on where it was stopped.

    Raises: RunError if the store does not hold sampled latents, or not all of them yet.
    """
    latents = Store.open(source)
    about = latents.attributes
    if about.get("kind") != "latents":
        raise RunError(f"{str(source)!r} holds no sampled latents: give a store that `gensys sample --latents` wrote")
    if not latents.sealed:
        raise RunError(f"{str(source)!r} is not finished: give the `gensys sample` command that made it again")
    folder, spec, weights = _made_by(latents)
    with torch.no_grad():
        one = _zeros(1, latents)
        shape = tuple(in_latents(folder.model(spec, weights)).decode_latents(one).shape[1:])
    if pictured(shape):
        require_free(out, ".png", folder.path)
    arrays = {name: spec for name, spec in latents.config.arrays.items() if name != "z"}
    store = Store.create(
        out,
        {"x": ArraySpec(shape, "uint8"), **arrays},
        rows=len(latents),
        shard=latents.config.shard,
        chunk=latents.config.chunk,
        attributes={**about, "kind": "samples"},
    )
    job = DecodeJob(resolved(source), resolved(out))
    fill(store, job, "decode", "samples", workers=workers, screen=screen, pool=pool)
    store.seal({})
    save_picture(store)
    return store


if __name__ == "__main__":
    from gensys.cli import main

    main("decode")
