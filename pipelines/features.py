"""The features of a store of samples, kept beside it: taken once for every extractor, by any number of workers.

They lie in a small store of their own inside the samples' (STORE/digests/features-NAME-WEIGHTS, where no reader of the
group lists strangers), in shards as the samples are. A row's features depend on its image and the extractor alone, so
who takes them, and how often, changes no bit. Those of real images are kept by the hash of what they are of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gensys.pipelines.moments import images_of
from gensys.pipelines.pool import Pool, fill
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gensys import durable
from gensys.data.source import Source
from gensys.data.store import ArraySpec, Store
from gensys.data.where import inside
from gensys.errors import StoreError
from gensys.evaluate.classifier import saved, tensor_hash
from gensys.evaluate.distribution import Seen, see
from gensys.evaluate.extractors import Extractor, lenet, opened
from gensys.noise import Noise
from gensys.progress import Screen

__all__ = ["Named", "seen_of_real", "seen_of_samples"]


@dataclass(frozen=True)
class Named:
    """An extractor by name, as another process opens it.

    name: "lenet", or as `extractors.opened` has it. judges: the folder of the classifiers. weights: of "lenet", the
    hash of its weights. shape: (C, H, W) of the images.
    """

    name: str
    judges: str
    weights: str
    shape: tuple[int, int, int]

    def open(self) -> Extractor:
        return lenet(saved(self.judges, self.weights)) if self.name == "lenet" else opened(self.name, self.shape)


@dataclass(frozen=True)
class FeaturesJob:
    """Take the features of a shard of samples and commit them. samples, features: the paths of the stores."""

    samples: str
    features: str
    extractor: Named

    def load(self) -> Callable[[int], int]:
        samples, store, extractor = Store.open(self.samples), Store.open(self.features), self.extractor.open()

        def work(shard: int) -> int:
            rows = samples.rows_of(shard)
            seen = see(extractor, images_of(samples.read("x", rows)))
            arrays: dict[str, npt.NDArray[Any]] = {"features": seen.features.numpy()}
            if seen.logits is not None:
                arrays["logits"] = seen.logits.numpy()
            store.commit(shard, arrays)
            return len(rows)

        return work


def seen_of_samples(
    samples: Store, named: Named, extractor: Extractor, *, workers: int, screen: Screen, pool: Pool | None = None
) -> Seen:
    """The features of all samples, in their order; what is there already is not taken again."""
    arrays = {"features": ArraySpec((extractor.width,), "float64")}
    first = images_of(samples.read("x", np.arange(1)))
    if extractor.classify is not None:
        arrays["logits"] = ArraySpec((extractor.logits(first).shape[1],), "float64")
    shard = samples.config.shard
    about = {"kind": "features", "samples": samples.fingerprint, "extractor": extractor.name}
    about |= {"weights": extractor.weights}
    place = inside(samples.where, f"digests/features-{extractor.key}-{extractor.weights[:16]}")
    try:
        store = Store.create(place, arrays, len(samples), shard, samples.config.chunk, about)
        if store.sealed and (problems := store.verify()):
            store.repair(problems)
    except StoreError as error:
        raise StoreError(
            f"the features {str(place)!r} are damaged, or of other samples ({error}): remove that folder"
        ) from error
    job = FeaturesJob(str(samples.where), str(place), named)
    fill(store, job, "features", "samples", workers=workers, screen=screen, pool=pool)
    if not store.sealed:
        store.seal({})
    rows = np.arange(len(store))
    read = {name: torch.from_numpy(store.read(name, rows)) for name in arrays}
    return Seen(read["features"], read.get("logits"))


def seen_of_real(source: Source, rows: Tensor, extractor: Extractor, folder: Path) -> Seen:
    """The features of some rows of real data; kept in `folder` under a hash of the data, the rows and the extractor."""
    what = [source.fingerprint(), extractor.name, extractor.weights, hashlib.sha256(rows.numpy().tobytes()).hexdigest()]
    path = folder / f"{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]}.safetensors"
    if (kept := _kept(path)) is not None:
        return kept
    parts = [see(extractor, source.batch(some, Noise(0, some)).x) for some in rows.split(4096)]
    logits = [part.logits for part in parts if part.logits is not None]
    seen = Seen(torch.cat([part.features for part in parts]), torch.cat(logits) if logits else None)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"features": seen.features} | ({} if seen.logits is None else {"logits": seen.logits})
    durable.replace(path, save(tensors, {"digest": tensor_hash(tensors)}))
    return seen


def _kept(path: Path) -> Seen | None:
    """What was kept there; None if there is nothing, or it is damaged: it is then taken anew."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            digest = (file.metadata() or {}).get("digest")
    except (OSError, SafetensorError):
        return None
    whole = digest == tensor_hash(tensors) and "features" in tensors
    return Seen(tensors["features"], tensors.get("logits")) if whole else None
