"""Samples of a flow as training data, each of them to be paired with the noise that it was drawn from.

`gensys reflow` draws them into a store. The noise is not in it: that of sample i is a function of (seed, i), so it is
drawn again where it is wanted, bit for bit, by `Diffusion.initial(Noise(pairs.seed, rows))`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gensys.core import Batch
from gensys.data.latents import Normalisation
from gensys.data.source import Source, check_rows, digests_of, fingerprint_of
from gensys.data.store import Store
from gensys.errors import DataError
from gensys.noise import Noise

__all__ = ["Pairs", "data_of", "open_pairs"]


@dataclass(frozen=True)
class Pairs:
    """A source of samples; row i is sample i. Open with `open_pairs`.

    data: what the flow was trained on. normalisation: of its latents, None for other data. first_test: None, so that
    every tenth sample is held out, with its noise.
    """

    store: Store
    data: Source
    normalisation: Normalisation | None
    first_test: None = None

    @property
    def seed(self) -> int:
        """Of the noise: that of row i is of Noise(seed, i)."""
        return self.store.attributes["seed"]

    @property
    def name(self) -> str:
        """The data's name, and what was made of them."""
        return f"pairs of {self.data.name}"

    @property
    def about(self) -> str:
        """How many samples of which run."""
        return f"{len(self):,} samples of {self.store.attributes['run']}, each with its noise; {self.data.about}"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one datum, or of one latent."""
        return self.store.config.arrays[self._array].shape

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the data."""
        return self.data.classes

    @property
    def _array(self) -> str:
        return "x" if self.normalisation is None else "z"

    def __len__(self) -> int:
        return len(self.store)

    @cached_property
    def _hash(self) -> str:
        covered = np.zeros((0, 16), np.uint8)  # rows need no digests: the store's content covers them
        return fingerprint_of((self.store.fingerprint, self.store.content(), self.normalisation), covered)

    def fingerprint(self) -> str:
        """Hash of the store's configuration and of all its digests."""
        return self._hash

    def digests(self) -> npt.NDArray[np.uint8]:
        """See `Source`: of each sample and its label."""
        rows = range(len(self))
        return digests_of(*self.store.read_many((self._array, "label"), rows))

    def quarantine(self) -> Mapping[int, str]:
        """None: a store is whole, or it is not opened."""
        return {}

    def named(self, rows: Tensor) -> list[str]:
        """See `Source`: "pairs.zarr:17"."""
        return [f"{self.store.path.name}:{row}" for row in rows.tolist()]

    def texts(self, rows: Tensor) -> list[str] | None:
        """None: there are no captions."""
        return None

    def batch(self, rows: Tensor, noise: Noise) -> Batch:
        """See `Source`; the noise is not used. Latents are normalised, as the flow drew them."""
        check_rows(rows, len(self))
        x, label = map(torch.from_numpy, self.store.read_many((self._array, "label"), rows.numpy()))
        x = x if self.normalisation is None else self.normalisation.normalise(x)
        return Batch(x, {"label": label} if self.classes else {}, rows)

    def origin(self, rows: Tensor) -> Tensor:
        """The rows themselves: whether a sample is held out has nothing to do with the data."""
        return rows


def open_pairs(
    path: str | Path, data: Source, shape: tuple[int, ...], normalisation: Normalisation | None = None
) -> Pairs:
    """Open a store of `gensys reflow`. data, shape, normalisation: of what the flow was trained on.

    Raises: DataError if it holds something else, or samples of other data; StoreError if there is none.
    """
    store = Store.open(path)
    about = store.attributes
    if about.get("kind") != "pairs":
        raise DataError(
            f"{str(path)!r} holds {about.get('kind', 'something else')} and no pairs: `gensys reflow` makes them"
        )
    if not store.sealed:
        raise DataError(f"the pairs {str(path)!r} are not finished: give the `gensys reflow` command again")
    pairs = Pairs(store, data, normalisation)
    if pairs._array not in store.config.arrays or pairs.shape != tuple(shape) or about["classes"] != list(data.classes):
        arrays = {name: spec.shape for name, spec in store.config.arrays.items() if name in ("x", "z")}
        raise DataError(
            f"the pairs {str(path)!r} are {arrays} with {len(about['classes'])} classes, and {data.name!r} has "
            f"{pairs._array} {tuple(shape)} with {len(data.classes)}: give the data that their flow was trained on"
        )
    return pairs


def data_of(source: Source) -> Source:
    """What a flow learned: the data behind pairs, or the source itself."""
    return source.data if isinstance(source, Pairs) else source
