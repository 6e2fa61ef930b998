"""Draw samples into a store: `gensys sample RUN --seeds 0:50000`.

Sample i is a function of (run, seed, i, label, the knobs asked for) alone. Samples are drawn in blocks of fixed size at
fixed places: i always sits in row i mod 64 of block i div 64, with the same neighbours, because a matrix product may
round a row differently in another place. So the bits of sample 4711 do not depend on what else was asked for, or on who
drew it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gensys.pipelines.pool import BLOCK, Pool, check_shard, default_shard, device, fill

from gensys.data.store import ArraySpec, Store
from gensys.engine.precision import autocast
from gensys.errors import ConfigError
from gensys.noise import Noise
from gensys.pictures import grid, save_png, to_uint8
from gensys.preview import labels_for
from gensys.progress import Screen
from gensys.run import RunFolder, Spec

__all__ = ["SampleJob", "sample"]


@dataclass(frozen=True)
class SampleJob:
    """Draw the samples of a shard and commit them.

    run, store: absolute paths. spec: with the knobs asked for. weights: the digest of those that the store names; a run
    that is still training saves others meanwhile.
    """

    run: str
    store: str
    spec: Spec
    weights: str
    first: int
    seed: int
    label: int | None

    def load(self) -> Callable[[int], int]:
        folder, store = RunFolder(Path(self.run)), Store.open(self.store)
        run = self.spec.load()
        place = device()
        model = folder.model(self.spec, self.weights).to(place)
        classes = len(run.source.classes)

        def block(number: int) -> tuple[np.ndarray, np.ndarray]:
            ids = torch.arange(number * BLOCK, (number + 1) * BLOCK, device=place)
            cond = labels_for(ids, classes, self.label)
            with autocast(run.settings.precision, place):
                x = model.sample(cond, Noise(self.seed, ids))
            label = cond.get("label", torch.full_like(ids, -1))
            return to_uint8(x).cpu().numpy(), label.cpu().numpy()

        def work(shard: int) -> int:
            ids = np.asarray(store.rows_of(shard)) + self.first
            blocks = range(int(ids[0]) // BLOCK, int(ids[-1]) // BLOCK + 1)
            images, labels = zip(*(block(number) for number in blocks), strict=True)
            rows = slice(int(ids[0]) - blocks[0] * BLOCK, int(ids[-1]) - blocks[0] * BLOCK + 1)
            store.commit(
                shard,
                {"x": np.concatenate(images)[rows], "label": np.concatenate(labels)[rows], "id": ids.astype(np.int64)},
            )
            return len(ids)

        return work


def sample(
    folder: RunFolder,
    out: Path,
    *,
    ids: range,
    seed: int,
    label: int | None,
    overrides: Mapping[str, str],
    shard: int | None,
    workers: int,
    screen: Screen,
    checkpoint: str = "newest",
    pool: Pool | None = None,
) -> Store:
    """Draw the samples `ids` into a store, with a grid of the first hundred beside it; goes on where it was stopped.

    checkpoint: whose weights, see `RunFolder.weights`.
    """
    if not len(ids) or ids.step != 1 or ids.start < 0:
        raise ConfigError(f"'seeds' must be a range FIRST:END with 0 <= FIRST < END, got {ids.start}:{ids.stop}")
    spec = folder.retuned(overrides)
    run = spec.load()
    classes = len(run.source.classes)
    if label is not None and not 0 <= label < classes:
        raise ConfigError(
            f"'label' must lie in 0..{classes - 1}, got {label}" if classes else "this model has no labels"
        )
    weights = folder.weights_digest(checkpoint, screen.line)
    one = torch.zeros(1, dtype=torch.int64)
    shape = tuple(folder.model(spec, weights).sample(labels_for(one, classes), Noise(seed, one)).shape[1:])
    store = Store.create(
        out,
        {"x": ArraySpec(shape, "uint8"), "label": ArraySpec((), "int64"), "id": ArraySpec((), "int64")},
        rows=len(ids),
        shard=check_shard(shard or default_shard(len(ids))),
        chunk=BLOCK,
        attributes={
            "kind": "samples",
            "run": str(folder.path.resolve()),
            "weights": weights,
            "recipe": spec.recipe,
            "knobs": dict(spec.knobs),
            "seed": seed,
            "first": ids.start,
            "label": label,
            "classes": list(run.source.classes),
        },
    )
    job = SampleJob(str(folder.path.resolve()), str(out.resolve()), spec, weights, ids.start, seed, label)
    fill(store, job, "sample", "samples", workers=workers, screen=screen, pool=pool)
    store.seal({})
    if len(shape) == 3 and shape[0] in (1, 3):
        first = torch.from_numpy(store.read("x", np.arange(min(100, len(store)))))
        save_png(grid(first, columns=10, scale=2), out.with_suffix(".png"))
    return store


if __name__ == "__main__":
    from gensys.cli import main

    main("sample")
