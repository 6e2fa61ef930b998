"""Latents as training data: a sealed store of posteriors, made by encoding a source, is a source again.

The encoder's whole posterior is kept, a mean and a log-variance for every element, so that each visit of a row
trains on a fresh draw z = mean + exp(logvar / 2) eps. The draws are shifted and scaled to zero mean and unit variance
per channel with statistics of the draws (not of the means), as latent diffusion needs (Rombach et al., 2022, section
4.1 and appendix).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gensys.core import Batch, Posterior
from gensys.data.source import Source, check_rows, digests_of
from gensys.data.store import ArraySpec, Store
from gensys.errors import DataError, StoreError
from gensys.noise import Noise, Stream

__all__ = ["LatentSource", "Normalisation", "create_latents", "seal_latents", "statistics"]

_DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class Normalisation:
    """The affine map of latents to zero mean and unit variance. mean, std: one number a channel (the first axis)."""

    mean: Sequence[float]
    std: Sequence[float]

    def normalise(self, z: Tensor) -> Tensor:
        """(z - mean) / std for z (B, C, ...)."""
        return (z - self._like(self.mean, z)) / self._like(self.std, z)

    def denormalise(self, z: Tensor) -> Tensor:
        """z * std + mean for z (B, C, ...): what the decoder takes."""
        return z * self._like(self.std, z) + self._like(self.mean, z)

    def _like(self, values: Sequence[float], z: Tensor) -> Tensor:
        if z.ndim < 2 or z.shape[1] != len(values):
            raise ValueError(
                f"'z' must be (B, {len(values)}, ...), as many channels as were measured, got {tuple(z.shape)}"
            )
        return torch.tensor(values, dtype=z.dtype, device=z.device).view(-1, *(1,) * (z.ndim - 2))


def create_latents(
    path: str | Path,
    source: Source,
    shape: tuple[int, ...],
    codec: Mapping[str, Any],
    dtype: str = "float16",
    shard: int = 4096,
    chunk: int = 64,
) -> Store:
    """Create the store that encoding all rows of `source` fills, or open it if it was begun with the same arguments.

    shape: of one latent, (C, ...). codec: JSON values that identify the encoder, such as {"run": ..., "weights": its
    sha256}. dtype: "float16" or "float32". shard, chunk: rows in each (a shard is no larger than the data).
    A shard is committed with the arrays "mean" and "logvar" (rows, *shape), "label" (-1 = none) and "row" (the number
    in `source`), (rows,) int64.
    Raises StoreError, for example if the store was begun with another codec or other data.
    """
    if dtype not in _DTYPES:
        raise StoreError(f"'dtype' must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    arrays = {name: ArraySpec(tuple(shape), dtype) for name in ("mean", "logvar")}
    arrays |= {name: ArraySpec((), "int64") for name in ("label", "row")}
    made_from = {"name": source.name, "about": source.about, "fingerprint": source.fingerprint()}
    made_from |= {"rows": len(source), "first_test": source.first_test}
    shard = min(shard, -(-len(source) // chunk) * chunk)  # a file is whole: no larger than the data need
    attributes = {"classes": list(source.classes), "codec": dict(codec), "source": made_from}
    return Store.create(path, arrays, len(source), shard, chunk, attributes)


def statistics(store: Store) -> Normalisation:
    """Mean and standard deviation per channel of latents drawn from the posteriors of a store, exact to rounding.

    The variance of a draw is that of the means plus the mean of the posterior variances (law of total variance).
    Blocks of rows are taken in order, in float64, and merged by Chan, Golub and LeVeque (1979, "Updating formulae and a
    pairwise algorithm for computing sample variances"), so the result has one value, however the store was filled.
    Raises StoreError if a value is not finite or a channel never varies.
    """
    channels = store.config.arrays["mean"].shape[0]
    count, mean, squares, posterior = 0, *np.zeros((3, channels))
    for start in range(0, len(store), store.config.chunk):
        rows = range(start, min(start + store.config.chunk, len(store)))
        values, logvar = (store.read(name, rows).astype(np.float64) for name in ("mean", "logvar"))
        if not (np.isfinite(values).all() and np.isfinite(logvar).all()):
            raise StoreError(
                f"the latents of rows {rows.start}..{rows.stop - 1} of {str(store.path)!r} are not all finite: the "
                "encoder is broken, or float16 is too small for it (encode with float32)"
            )
        values, logvar = (np.moveaxis(a, 1, 0).reshape(a.shape[1], -1) for a in (values, logvar))
        n, block = values.shape[1], values.mean(1)
        shift = block - mean
        squares = squares + np.square(values - block[:, None]).sum(1) + np.square(shift) * (count * n / (count + n))
        mean = mean + shift * (n / (count + n))
        posterior = posterior + np.exp(logvar).sum(1)
        count += n
    std = np.sqrt((squares + posterior) / count)
    if not (np.isfinite(std).all() and (std > 0).all()):
        raise StoreError(f"the latents of {str(store.path)!r} cannot be normalised: standard deviations {std.tolist()}")
    return Normalisation(mean.tolist(), std.tolist())


def seal_latents(store: Store) -> Normalisation:
    """Seal a store of `create_latents` whose shards are all committed, with its normalisation among the attributes.

    Repeatable. Raises StoreError if shards are missing.
    """
    missing = store.missing()
    if missing:
        raise StoreError(
            f"{str(store.path)!r} lacks {len(missing)} of {store.config.shards} shards: finish `gensys encode`"
        )
    normalisation = statistics(store)
    store.seal({"normalisation": asdict(normalisation)})
    return normalisation


@dataclass(frozen=True)
class LatentSource:
    """Latents in a sealed store as training data. Open with `LatentSource.open`.

    store: the store. normalisation: what `batch` applies. first_test, classes: those of the encoded data.
    """

    store: Store
    normalisation: Normalisation
    classes: tuple[str, ...]
    first_test: int | None
    about: str

    @classmethod
    def open(cls, path: str | Path) -> LatentSource:
        """Raises StoreError if there is no store, if it is not of latents, or if encoding was not finished."""
        store = Store.open(path)
        if not store.sealed:
            left = len(store.missing())
            raise StoreError(
                f"the latent store {str(path)!r} is not finished ({left} of {store.config.shards} shards missing): "
                "finish it with the same `gensys encode` command"
            )
        attributes = store.attributes
        try:
            made_from, codec = attributes["source"], attributes["codec"]
            normalisation = Normalisation(**attributes["normalisation"])
            if set(store.config.arrays) != {"mean", "logvar", "label", "row"}:
                raise KeyError("mean, logvar, label, row")
            shape = store.config.arrays["mean"].shape
            about = f"{len(store):,} latents {shape} of {made_from['about']}; encoded by {codec.get('run', 'unknown')}"
            return cls(store, normalisation, tuple(attributes["classes"]), made_from["first_test"], about)
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"the store {str(path)!r} does not hold latents ({error} is missing): use one of `gensys encode`"
            ) from error

    @property
    def name(self) -> str:
        """The store's file name without suffix."""
        return self.store.path.stem

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one latent, (C, ...)."""
        return self.store.config.arrays["mean"].shape

    def __len__(self) -> int:
        return len(self.store)

    @cached_property
    def _hash(self) -> str:
        text = f"{self.store.fingerprint} {self.store.content()} {self.normalisation}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def fingerprint(self) -> str:
        """Hash of the configuration, the digests of all shards and the normalisation; no shard is read for it."""
        return self._hash

    def digests(self) -> npt.NDArray[np.uint8]:
        """See `Source`: of each row's posterior and label; all of the store is read for it."""
        step = self.store.config.shard
        blocks = [range(i, min(i + step, len(self))) for i in range(0, len(self), step)]
        names = ("mean", "logvar", "label")
        return np.concatenate([digests_of(*(self.store.read(name, rows) for name in names)) for rows in blocks])

    def quarantine(self) -> Mapping[int, str]:
        """None: what could not be encoded is not in the store."""
        return {}

    def named(self, rows: Tensor) -> list[str]:
        """See `Source`: "latents.zarr:17"."""
        return [f"{self.store.path.name}:{row}" for row in rows.tolist()]

    def texts(self, rows: Tensor) -> list[str] | None:
        """None: a store of latents holds no captions."""
        return None

    def posterior(self, rows: Tensor) -> Posterior:
        """The stored posteriors of rows, not normalised: mean and logvar (B, *Z) float32."""
        check_rows(rows, len(self))
        index = rows.numpy()
        mean, logvar = (torch.from_numpy(self.store.read(name, index)).float() for name in ("mean", "logvar"))
        return Posterior(mean, logvar)

    def batch(self, rows: Tensor, noise: Noise) -> Batch:
        """See `Source`: x is a normalised draw from the posterior of each row, with the noise's Stream.POSTERIOR.

        Raises DataError if `noise` has not one id a row.
        """
        if noise.ids.shape != rows.shape:
            raise DataError(f"'noise' must have one id for each of the {len(rows)} rows, got {tuple(noise.ids.shape)}")
        z = self.posterior(rows).sample(noise.normal(self.shape, Stream.POSTERIOR))
        cond = {"label": torch.from_numpy(self.store.read("label", rows.numpy()))} if self.classes else {}
        return Batch(self.normalisation.normalise(z), cond, rows)

    def origin(self, rows: Tensor) -> Tensor:
        """The rows' numbers in the data set that was encoded, (B,) int64."""
        check_rows(rows, len(self))
        return torch.from_numpy(self.store.read("row", rows.numpy()))
