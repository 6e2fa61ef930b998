"""A data set as stores of its latents number it, so that what a model was trained on can be told from what it was not.

A row of a store keeps its number for ever, and is split by that number. The data set goes on: images are put in and
taken out, and the numbers of those behind them change. So an image is found in the store by its name, and one whose
name is not there by its digest; what is not there at all has no number and is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gensys.core import Batch
from gensys.data.latents import LatentSource
from gensys.data.manifest import found_in, names_of
from gensys.data.source import Source, check_rows
from gensys.noise import Noise

__all__ = ["AsStored"]


@dataclass(frozen=True)
class AsStored:
    """The rows of `data` in their order, split and labelled as in a store. Make it with `AsStored.of`.

    numbers: (n,) int64, what each row is split by, -1 = it is not in the store. classes: the store's, and after them
    those that only the data have.
    """

    data: Source
    numbers: Tensor
    classes: tuple[str, ...]
    first_test: int | None

    @classmethod
    def of(cls, data: Source, stores: Sequence[LatentSource]) -> AsStored:
        """stores: at least one, of latents of `data` as it is or as it was."""
        names = [part.store.read("name", range(len(part))) for part in stores]
        ours = names_of(data, max(part.shape[1] for part in names))
        theirs = np.concatenate([np.pad(part, ((0, 0), (0, ours.shape[1] - part.shape[1]))) for part in names])
        at = found_in(theirs, ours)
        lost = np.flatnonzero(at < 0)
        if lost.size:
            digests = np.concatenate([part.store.read("digest", range(len(part))) for part in stores])
            at[lost] = found_in(digests, data.digests()[lost])
        row = np.concatenate([part.store.read("row", range(len(part))) for part in stores])
        had = stores[0].classes
        classes = had + tuple(c for c in data.classes if c not in had) if data.classes else ()
        return cls(data, torch.from_numpy(np.where(at < 0, -1, row[at])), classes, stores[0].first_test)

    @property
    def name(self) -> str:
        """See `Source`."""
        return self.data.name

    @property
    def about(self) -> str:
        """That of the data, and how many rows are not in the store."""
        lost = int((self.numbers < 0).sum())
        return self.data.about + (f"; {lost:,} of them not in the store, and not used" if lost else "")

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Source`."""
        return self.data.shape

    def __len__(self) -> int:
        return len(self.data)

    def fingerprint(self) -> str:
        """That of the data."""
        return self.data.fingerprint()

    def digests(self) -> npt.NDArray[np.uint8]:
        """See `Source`."""
        return self.data.digests()

    def quarantine(self) -> Mapping[int, str]:
        """See `Source`."""
        return self.data.quarantine()

    def named(self, rows: Tensor) -> list[str]:
        """See `Source`."""
        return self.data.named(rows)

    def texts(self, rows: Tensor) -> list[str] | None:
        """See `Source`."""
        return self.data.texts(rows)

    def batch(self, rows: Tensor, noise: Noise) -> Batch:
        """See `Source`; labels are numbers of `classes`."""
        batch = self.data.batch(rows, noise)
        if "label" not in batch.cond:
            return batch
        number = torch.tensor([*map(self.classes.index, self.data.classes), -1])  # the last one: of no label, -1
        return Batch(batch.x, {**batch.cond, "label": number[batch.cond["label"]]}, batch.ids)

    def origin(self, rows: Tensor) -> Tensor:
        """See `Source`: as if the rows were those of the store."""
        check_rows(rows, len(self))
        return self.numbers[rows]
