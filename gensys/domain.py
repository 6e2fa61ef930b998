"""What a model is trained on: data as they are, or the latents of a codec. A recipe need not know which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gensys.columns import Column, one_hot, widths
from gensys.core import Generative
from gensys.data.arrays import Arrays, categorised
from gensys.data.channel_moments import merged
from gensys.data.joined import Joined
from gensys.data.joined_latents import latents_in
from gensys.data.latents import LatentSource, Normalisation
from gensys.data.pairs import data_of
from gensys.data.quarantine import readable
from gensys.data.sources import Source, open_source, split
from gensys.engine.settings import Settings
from gensys.errors import ConfigError, DataError
from gensys.families.latent import Latent, as_it_is
from gensys.families.standardised import Standardised, deviations
from gensys.noise import Noise
from gensys.run import Run
from gensys.run_folder import open_codec

__all__ = ["Domain", "domain_of", "open_codes", "open_domain"]

_MEASURED = 100_000  # rows, from all of the data, that means and deviations are taken of: they tell them to 0.3 %
_BLOCK = 4096  # of them at once: a mapped file of wide vectors need not fit into memory


@dataclass(frozen=True)
class Domain:
    """A source of training data, and the shape of one datum as the model sees it, (C, H, W) or (D,).

    standardise: whether the elements of vectors are brought to mean 0 and variance 1 before a model sees them. one_hot:
    of every column of a table how many categories it has, which the model sees as a one-hot vector; () = it sees rows.
    """

    source: Source
    shape: tuple[int, ...]
    latents: LatentSource | None
    normalisation: Normalisation | None
    standardise: bool = False
    one_hot: tuple[int, ...] = ()

    @property
    def shapes(self) -> frozenset[tuple[int, ...]]:
        """Those of all rows: images that keep their aspect ratio have several."""
        if not isinstance(self.source, Joined):
            return frozenset({self.shape})
        return frozenset(tuple(part.shape) for part in self.source.parts)

    @property
    def classes(self) -> int:
        return len(self.source.classes)

    @property
    def vector(self) -> int:
        """The length of cond["vector"], which rows are conditioned on; 0 = there is none."""
        return self.source.vector if isinstance(self.source, Arrays) else 0

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the elements of a vector are, if they are the columns of a table; else ()."""
        return self.source.columns if isinstance(self.source, Arrays) else ()

    @property
    def conditional(self) -> bool:
        """Whether rows go by anything that guidance could follow."""
        return self.classes > 0 or self.vector > 0

    @property
    def image(self) -> tuple[int, int, int]:
        """The shape of one image or latent. Raises DataError if the data are vectors."""
        if len(self.shape) != 3:
            raise DataError(f"images (C, H, W) are wanted, and {self.source.name!r} holds rows of shape {self.shape}")
        return self.shape[0], self.shape[1], self.shape[2]

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The interval that all data lie in: that of images; None = not known."""
        return (-1.0, 1.0) if self.latents is None and len(self.shape) == 3 else None

    @property
    def deviation(self) -> float:
        """The standard deviation that is taken for that of an element: 0.5 for images in [-1, 1], as EDM's authors do
        (Karras et al., 2022, arXiv:2206.00364, table 1), and 1 for latents and vectors, which are normalised."""
        return 0.5 if self.bounds else 1.0

    @property
    def standardised(self) -> bool:
        """Whether a model sees these data standardised: see `standardise`."""
        return self.standardise and self.latents is None and len(self.shape) == 1

    def moments(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each element of the vectors to train on; 0 exactly for one that never changes.
        Of `one_hot` rows they are those that `Standardised` takes for them.

        Of pairs they are those of the data, in whose scale their flow drew them.
        """
        source, parts = data_of(self.source), list[Tensor]()
        rows = readable(source)[0]
        for part in rows[:: -(-len(rows) // _MEASURED)].split(_BLOCK):
            x = source.batch(part, Noise(0, part)).x.double()
            variance, mean = torch.var_mean(one_hot(self.one_hot, x) if self.one_hot else x, 0, correction=0)
            n = torch.full_like(mean, len(part))
            parts.append(torch.stack([n, mean, n * variance, torch.zeros_like(mean)]))
        n, mean, scatter, _ = merged(torch.stack(parts).numpy())
        std = torch.from_numpy(np.sqrt(scatter / n))  # sums of one float32 value are exact to 2^29 rows
        return mean.tolist(), (deviations(self.one_hot, std) if self.one_hot else std).tolist()

    def model(self, prior: Generative) -> Generative:
        """The model of the data: `prior` itself, or with the codec of the latents, or the scale of the vectors, that it
        draws."""
        if self.latents is None:
            return Standardised(prior, *self.moments(), self.one_hot) if self.standardised else prior
        codec, scale = partial(open_codec, self.latents), self.normalisation
        if scale is None:
            return Latent(prior, codec, as_it_is, as_it_is)  # codes: they are modelled as they are decoded
        return Latent(prior, codec, scale.denormalise, scale.normalise)

    def run(self, prior: Callable[[], Generative], settings: Settings, retune: frozenset[str] = frozenset()) -> Run:
        """What a recipe returns: `prior` makes the untrained model of data of this shape."""
        rows = split(self.source)[0]
        return Run(self.source, rows, lambda: self.model(prior()), settings, retune)


def open_domain(
    data: str,
    size: int = 32,
    aspect: float = 1.0,
    *,
    categories: Literal["refused", "modelled", "one_hot"] = "refused",
    categorical: str = "",
    standardise: Literal["none", "tables", "vectors"] = "none",
) -> Domain:
    """data: what `open_source` opens: images, vectors, or a store of latents. aspect: width over height of the samples,
    for latents of several shapes. categories: what becomes of columns of them: the model knows them, or sees them as
    one-hot vectors, for which its data must be standardised. categorical: columns of numbers that are some too, with
    commas between them, by name or counted from 0. standardise: which data the model sees standardised, see
    `Domain`: all vectors, or tables alone, whose columns have units of their own.

    Raises DataError for codes, which no continuous model can learn, for categories that the model would take for
    numbers, and for columns that are not there; ConfigError for `categorical` where there are no columns.
    """
    source = open_source(data, size)
    if categorical:
        if not isinstance(source, Arrays) or len(source.shape) != 1:
            raise ConfigError(f"'categorical' names columns of a table, and the data are {source.shape}: leave it out")
        source = categorised(source, [word.strip() for word in categorical.split(",")])
    domain = domain_of(source, aspect)
    named = [column.name for column in domain.columns if column.categories]
    if named and categories == "refused":
        raise DataError(
            f"{data!r} has columns of words, {', '.join(named)}, which this recipe would take for numbers: train "
            "vae, or a model of a path such as flow_matching, which know categories, or leave them out of the table"
        )
    if domain.latents is not None and domain.normalisation is None:
        raise DataError(
            f"{data!r} holds codes, and continuous latents are modelled here: encode with another codec, or train "
            "vq_prior, which models codes"
        )
    domain = replace(domain, standardise=standardise == "vectors" or (standardise == "tables" and bool(domain.columns)))
    if not named or categories == "modelled":
        return domain
    counts = tuple(len(column.categories) for column in domain.columns)
    return replace(domain, shape=(sum(widths(counts)),), one_hot=counts)


def domain_of(source: Source, aspect: float = 1.0) -> Domain:
    """The domain of an open source."""
    latents = latents_in(source)
    shape = source.nearest(aspect) if isinstance(source, Joined) else source.shape
    return Domain(source, tuple(shape), latents, None if latents is None else latents.normalisation)


def open_codes(data: str) -> tuple[Domain, LatentSource]:
    """data: a store of codes. The domain of a model of them, and the store. Raises DataError for all else."""
    source = open_source(data)
    if not isinstance(source, LatentSource) or source.normalisation is not None:
        raise DataError(
            f"{data!r} is {source.about}, and codes are modelled here: `gensys encode` makes them with a run of "
            "vq_vae, vq_vae_2 or vqgan"
        )
    return Domain(source, source.shape, source, None), source
