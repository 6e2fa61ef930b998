"""Two domains of images as one source, for a translator: each row has an image of the other domain beside it.

A row is an image of either domain, x, and its label says of which. With it comes cond["image"], an image of the other
domain, of its training rows for a training row and of its held-out ones for another. The two have nothing to do with
each other: the partner is drawn by counter-based noise, so it is a function of (seed, row, step) and another at each
step. So a batch of n rows holds n images of each domain, whatever their numbers, and its conditions are those that
samples are drawn by: an image, and the label of the domain that it is to go to.

Rows are the training rows of both domains, then the held-out rows of both, each as its own data are split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gensys.core import Batch
from gensys.data import order
from gensys.data.edges import edges
from gensys.data.quarantine import without
from gensys.data.source import Source, check_rows, fingerprint_of, image_shape, split
from gensys.data.sources import open_source
from gensys.errors import DataError
from gensys.noise import Noise, Stream

__all__ = ["Side", "Unpaired", "open_unpaired"]

_ORDER_SEED = 0x5407  # of the images that samples are made of: fixed, so that all models translate the same ones


@dataclass(frozen=True)
class Side:
    """One of the domains: some rows of a source, and what is made of their images, None = nothing.

    rows: (n,) int64, to train on, and held out.
    """

    name: str
    source: Source
    rows: tuple[Tensor, Tensor]
    made: Callable[[Tensor], Tensor] | None = None

    def images(self, rows: Tensor) -> Tensor:
        """(B, C, H, W) of rows of the source, as this domain has them."""
        x = self.source.batch(rows, Noise(0, rows)).x  # the noise of a source is for codecs' latents, which are refused
        return x if self.made is None else self.made(x)


@dataclass(frozen=True)
class Unpaired:
    """See above. Open with `open_unpaired`.

    known: whether both domains are made of one data set, so that what a row is in the other one is known.
    """

    sides: tuple[Side, Side]
    known: bool

    @property
    def name(self) -> str:
        """Those of both."""
        return " and ".join(self.classes)

    @property
    def about(self) -> str:
        """What both are."""
        if self.known:
            (a, b), data = self._counts, self.sides[0].source.about
            return f"{a:,} images as they are, and edge drawings of {b:,} others: {data}"
        return "; and, unpaired, ".join(side.source.about for side in self.sides)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W), of both."""
        return self.sides[0].source.shape

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the domains: a row's label is its domain."""
        return self.sides[0].name, self.sides[1].name

    @property
    def first_test(self) -> int:
        """Where the held-out rows begin."""
        return self._starts[2]

    @property
    def _counts(self) -> tuple[int, int]:
        a, b = (sum(map(len, side.rows)) for side in self.sides)
        return a, b

    @property
    def _starts(self) -> tuple[int, ...]:
        """Where the training rows of either domain begin, then the held-out rows of either, and the number of rows."""
        return tuple(accumulate((len(side.rows[held]) for held in (0, 1) for side in self.sides), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """(n, ): the domain of every row, and its row there."""
        parts = [(k, side.rows[held]) for held in (0, 1) for k, side in enumerate(self.sides)]
        return torch.cat([torch.full_like(rows, k) for k, rows in parts]), torch.cat([rows for _, rows in parts])

    @cached_property
    def _partners(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Rows of this source that can be read, as numbers here: [held out or not][domain]."""
        starts, found = self._starts, self.quarantine()
        every = [without(torch.arange(a, b), found) for a, b in pairwise(starts)]
        return (every[0], every[1]), (every[2], every[3])

    def balanced(self) -> Tensor:
        """The rows to train on, those of the smaller domain so often that both have equally many: (2 n,) int64."""
        starts = self._starts
        most = max(starts[1], starts[2] - starts[1])
        one = torch.arange(most)
        return torch.cat([one % starts[1], starts[1] + one % (starts[2] - starts[1])])

    def batch(self, rows: Tensor, noise: Noise) -> Batch:
        """See `Source`, and above: cond has the label of each row's domain, and an image of the other one."""
        check_rows(rows, len(self))
        label = self._places[0][rows]
        u = noise.uniform((1,), Stream.PARTNER)[:, 0].double()
        partner = torch.empty_like(rows)
        for held in (0, 1):
            for domain in (0, 1):
                here = (label == domain) & ((rows >= self.first_test) == bool(held))
                others = self._partners[held][1 - domain]
                partner[here] = others[(u[here] * len(others)).long()]
        return Batch(self._images(rows), {"label": label, "image": self._images(partner)}, rows)

    def _images(self, rows: Tensor, *, across: bool = False) -> Tensor:
        """(B, C, H, W). across: as the other domain has them, which must be `known`."""
        domain, row = (of[rows] for of in self._places)
        x = torch.empty(len(rows), *self.shape)
        for k in (0, 1):
            x[domain == k] = self.sides[1 - k if across else k].images(row[domain == k])
        return x

    def shown(self, ids: Tensor, label: int | None = None) -> tuple[Tensor, Tensor]:
        """What samples are translations of: held-out rows, (B,), and the labels of the domains they are to go to, (B,).

        label: of all; None = both in turn. In a fixed random order, as data are often sorted, and from the start again
        when there are no more.
        """
        ids = ids.cpu()
        target, number = (ids % 2, ids // 2) if label is None else (torch.full_like(ids, label), ids)
        groups = [rows[order.rows(_ORDER_SEED, 0, len(rows), len(rows))] for rows in self._partners[1]]
        picked = [groups[k][number % len(groups[k])] for k in (0, 1)]
        return torch.where(target == 0, picked[1], picked[0]), target

    def given(self, ids: Tensor, label: int | None = None) -> dict[str, Tensor]:
        """The conditions of samples: `shown`, as images. On the device of `ids`."""
        rows, target = self.shown(ids, label)
        return {"label": target.to(ids.device), "image": self._images(rows).to(ids.device)}

    def truth(self, rows: Tensor) -> Tensor | None:
        """What rows are in the other domain, (B, C, H, W), where that is known."""
        return self._images(rows, across=True) if self.known else None

    def fingerprint(self) -> str:
        """See `Source`."""
        made = tuple("" if side.made is None else side.made.__name__ for side in self.sides)
        return fingerprint_of((self.classes, made, *(side.source.fingerprint() for side in self.sides)), self.digests())

    @cached_property
    def _digests(self) -> npt.NDArray[np.uint8]:
        return np.concatenate(
            [side.source.digests()[side.rows[held].numpy()] for held in (0, 1) for side in self.sides]
        )

    def digests(self) -> npt.NDArray[np.uint8]:
        """See `Source`: those of the images that rows are made of."""
        return self._digests

    @cached_property
    def _quarantine(self) -> Mapping[int, str]:
        domains, rows = self._places
        found = [side.source.quarantine() for side in self.sides]
        if not any(found):
            return {}
        here = enumerate(zip(domains.tolist(), rows.tolist(), strict=True))
        return {number: found[k][row] for number, (k, row) in here if row in found[k]}

    def quarantine(self) -> Mapping[int, str]:
        """See `Source`. Such a row is nobody's partner either."""
        return self._quarantine

    def named(self, rows: Tensor) -> list[str]:
        """See `Source`: as the domain's data have it."""
        at = zip(*(of[rows] for of in self._places), strict=True)
        return [self.sides[int(k)].source.named(row[None])[0] for k, row in at]

    def texts(self, rows: Tensor) -> list[str] | None:
        """None: captions are not used."""
        return None

    def origin(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows


def open_unpaired(data: str, other: str = "", size: int = 32) -> Unpaired:
    """data, other: the domains with the labels 0 and 1, what `open_source` opens: images of one shape, any numbers.

    other: "" = edge drawings of every second image of the data, and the first domain are the others. Classes and
    captions of either are not used. Raises DataError for what are no images, other shapes, a domain without a training
    or a held-out row.
    """
    first = open_source(data, size)
    rows = split(first)
    if other:
        second = open_source(other, size)
        names = (first.name, second.name) if first.name != second.name else (f"{first.name} 0", f"{second.name} 1")
        sides = Side(names[0], first, rows), Side(names[1], second, split(second))
    else:
        halves = [(rows[0][k::2], rows[1][k::2]) for k in (0, 1)]
        sides = Side(first.name, first, halves[0]), Side("edges", first, halves[1], edges)
    for name, side in zip(("data", "other"), sides, strict=True):
        if image_shape(side.source)[0] not in (1, 3):
            raise DataError(
                f"{name!r} is {side.source.about}: images of 1 or 3 channels are translated, no latents; give images"
            )
        if not all(map(len, side.rows)):
            counts = " and ".join(str(len(part)) for part in side.rows)
            raise DataError(
                f"{name!r} has {counts} images to train on and held out, and at least one of each is needed: give more "
                f"of {side.source.name!r}"
            )
    shapes = [side.source.shape for side in sides]
    if shapes[0] != shapes[1]:
        raise DataError(
            f"'data' holds images of shape {shapes[0]} and 'other' of {shapes[1]}, channels first: make them alike "
            f"(files of images become {size} x {size}, and RGB if one of them is)"
        )
    return Unpaired(sides, not other)
