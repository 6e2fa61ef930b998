"""The moments of every shard's features, kept with a store of samples: what a Frechet distance needs, and no more.

They lie in a small store of their own inside the samples' (STORE/digests/moments, where no reader of the group lists
strangers): a row for each shard, "n", "mean" and "scatter" as in `Moments`, float64, with the same kind of commits.
A shard's moments are committed before the shard, by whoever makes it, so a shard that is there has them. They are a
function of the shard's images and the classifier alone, so they can also be made later, from the images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from gensys.data.place import open_place
from gensys.data.store import ArraySpec, Store
from gensys.data.where import Where, inside
from gensys.errors import StoreError
from gensys.evaluate.classifier import WIDTH, features, saved
from gensys.evaluate.frechet import Moments

__all__ = ["MomentsJob", "create_moments", "images_of", "open_moments", "read_moments", "taking_moments"]


def _place(samples: Store) -> Where:
    return inside(samples.where, "digests/moments")


def images_of(x: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Stored images -> [-1, 1], as every metric sees them."""
    return torch.from_numpy(x).float() / 127.5 - 1.0


def create_moments(samples: Store, classifier: str) -> Store:
    """Create the moments of a store of samples, or open them. classifier: the hash of its weights.

    Raises StoreError if there are moments by another classifier.
    """
    arrays = {"n": ArraySpec((), "int64"), "mean": ArraySpec((WIDTH,), "float64")}
    arrays["scatter"] = ArraySpec((WIDTH, WIDTH), "float64")
    about = {"kind": "moments", "samples": samples.fingerprint, "classifier": classifier}
    return Store.create(_place(samples), arrays, samples.config.shards, 1, 1, about)


def open_moments(samples: Store) -> Store:
    """Those that `create_moments` made."""
    return Store.open(_place(samples))


def taking_moments(samples: Store, judges: Path) -> Callable[[int, npt.NDArray[np.uint8]], None]:
    """take(shard, images (rows, C, H, W)): commit the moments of a shard. judges: the folder of the classifiers."""
    store = open_moments(samples)
    classifier = saved(judges, store.attributes["classifier"])

    def take(shard: int, x: npt.NDArray[np.uint8]) -> None:
        of = Moments.of(features(classifier, images_of(x)))
        store.commit(shard, {"n": np.array([of.n]), "mean": of.mean.numpy()[None], "scatter": of.scatter.numpy()[None]})

    return take


@dataclass(frozen=True)
class MomentsJob:
    """Take the moments of a shard that is there. samples: the store's path. judges: the folder of the classifiers."""

    samples: str
    judges: str

    def load(self) -> Callable[[int], int]:
        samples = Store.open(self.samples)
        take = taking_moments(samples, Path(self.judges))

        def work(shard: int) -> int:
            take(shard, samples.read("x", samples.rows_of(shard)))
            return 1

        return work


def read_moments(samples: Store, classifier: str) -> list[Moments] | str:
    """The moments of every shard, in order; or, in words, why they cannot be used.

    Raises StoreError if what is there is damaged.
    """
    if open_place(_place(samples)).vacant():
        return "none are stored"
    store = open_moments(samples)
    if store.attributes["classifier"] != classifier:
        return f"those that are stored are by another classifier ({store.attributes['classifier'][:16]})"
    if missing := len(store.missing()):
        return f"those of {missing} of {len(store)} shards are missing"
    if problems := store.verify():
        raise StoreError(f"the moments {store.where!r} are damaged ({problems[0]}): remove that folder")
    arrays = (torch.from_numpy(store.read(name, range(len(store)))) for name in ("n", "mean", "scatter"))
    return [Moments(int(n), mean, scatter) for n, mean, scatter in zip(*arrays, strict=True)]
