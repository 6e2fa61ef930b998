"""Latents as training data: a sealed store of what an encoder makes of a source is a source again.

Of a continuous codec the whole posterior is kept, a mean and a log-variance for every element, so that each visit of a
row trains on a fresh draw z = mean + exp(logvar / 2) eps. The draws are shifted and scaled to zero mean and unit
variance per channel with statistics of the draws (not of the means), as latent diffusion needs (Rombach et al., 2022,
section 4.1 and appendix). Of a discrete codec the codes are kept, as they are.

Every row says what it is (`manifest.STATES`); those that could not be read, or are no longer in the data, are in no
split. The affine map of a store is measured when it is first sealed and kept from then on, so that what was trained
on it goes on with it when the store is updated.
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

from gensys.core import Batch, Codes, Posterior
from gensys.data.channel_moments import MIRROR, MOMENTS, merged, moments_spec, shard_moments, stored_moments
from gensys.data.manifest import GOOD, STATES, Manifest, from_bytes
from gensys.data.source import Source, check_rows, digests_of
from gensys.data.store import ArraySpec, Store
from gensys.data.text import Texts, text_path
from gensys.data.where import is_url
from gensys.errors import DataError, StoreError
from gensys.noise import Noise, Stream

__all__ = [
    "LatentSource",
    "Normalisation",
    "columns",
    "create_latents",
    "latent_arrays",
    "seal_latents",
    "statistics",
]

_DTYPES = ("float16", "float32")
_ROW_ARRAYS = {"label", "row", "state", "digest", "name"}
DIGESTED = "bytes, name of the class, caption"  # what a source's digests are of; of older stores, its number
_REASONS = 100  # kept of those why rows are in quarantine


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

    @property
    def digest(self) -> str:
        """Of the numbers, to the last bit: stored beside them, it tells whether somebody edited them."""
        return hashlib.blake2b(repr((list(self.mean), list(self.std))).encode(), digest_size=16).hexdigest()

    def _like(self, values: Sequence[float], z: Tensor) -> Tensor:
        if z.ndim < 2 or z.shape[1] != len(values):
            raise ValueError(
                f"'z' must be (B, {len(values)}, ...), as many channels as were measured, got {tuple(z.shape)}"
            )
        return torch.tensor(values, dtype=z.dtype, device=z.device).view(-1, *(1,) * (z.ndim - 2))


def columns(latent: Posterior | Codes, suffix: str = "") -> dict[str, Tensor]:
    """What a store keeps of latents, by the name of the array."""
    parts = {"codes": latent.indices} if isinstance(latent, Codes) else {"mean": latent.mean, "logvar": latent.logvar}
    return {name + suffix: value for name, value in parts.items()}


def latent_arrays(example: Posterior | Codes, dtype: str = "float16", mirror: bool = False) -> dict[str, ArraySpec]:
    """The arrays of latents like `example`: "mean" and "logvar" of `dtype`, or "codes" of the narrowest integers.

    mirror: also those of the mirrored images, "mean_mirror", ... Raises StoreError for another dtype.
    """
    if dtype not in _DTYPES:
        raise StoreError(f"'dtype' must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    if isinstance(example, Codes):
        dtype = next(d for d in ("uint8", "uint16", "int32") if example.size - 1 <= np.iinfo(d).max)
    parts = {name: ArraySpec(tuple(value.shape[1:]), dtype) for name, value in columns(example).items()}
    return parts | {name + MIRROR: spec for name, spec in parts.items() if mirror}


def create_latents(
    path: str | Path,
    source: Source,
    latents: Mapping[str, ArraySpec],
    codec: Mapping[str, Any],
    manifest: Manifest,
    *,
    shard: int = 4096,
    chunk: int = 64,
    codebook: int = 0,
    grids: Sequence[Sequence[int]] = (),
    updated_from: str = "",
    moments: bool = False,
) -> Store:
    """Create the store that encoding the rows of `manifest` fills, or open it if it was begun with the same arguments.

    latents: see `latent_arrays`. codec: JSON values that identify the encoder, such as {"run": ..., "weights": its
    sha256}. shard, chunk: rows in each. codebook: its size, if latents are codes; grids: see `Codes`. updated_from: the
    content of the store that this one replaces. moments: whether every shard is committed with those of its channels.
    Besides the latents a shard has, for each row, "label" (-1 = none) and "row" (the number by which it is split and
    drawn for), int64; "state" uint8; "digest" (16,) uint8 of the source's item; "name" (W,) uint8, see
    `manifest.to_bytes`. Raises StoreError, for example if the store was begun with another codec or other data.
    """
    arrays = dict(latents) | {name: ArraySpec((), "int64") for name in ("label", "row")}
    arrays |= {"state": ArraySpec((), "uint8"), "digest": ArraySpec((16,), "uint8")}
    arrays |= {"name": ArraySpec((manifest.name.shape[1],), "uint8")}
    made_from = {"name": source.name, "about": source.about, "fingerprint": source.fingerprint()}
    made_from |= {"rows": len(source), "first_test": source.first_test}
    attributes = {"kind": "latents", "classes": list(manifest.classes), "codec": dict(codec), "source": made_from}
    attributes |= {"codebook": codebook} if codebook else {}
    attributes |= {"grids": [list(grid) for grid in grids]} if len(grids) > 1 else {}
    attributes |= {"updated_from": updated_from} if updated_from else {}
    return Store.create(
        path, arrays, len(manifest), shard, chunk, attributes, moments_spec(latents) if moments else None
    )


def statistics(store: Store) -> Normalisation:
    """Mean and standard deviation per channel of latents drawn from the posteriors of a store, exact to rounding.

    The variance of a draw is that of the means plus the mean of the posterior variances (law of total variance).
    Rows that are not good are left out, the mirrored copy counts as more draws. The moments of the shards are those
    that were committed with them; a store that was begun before there were any is read as a whole, to the same bits.
    Raises StoreError if a value is not finite, a channel never varies, no row is good, or moments are damaged.
    """
    if MOMENTS in store.config.summaries:
        shards = stored_moments(store)
    else:
        names = [n for n in store.config.arrays if n == "state" or n.startswith(("mean", "logvar"))]
        read = lambda k: dict(zip(names, store.read_many(names, store.rows_of(k)), strict=True))  # noqa: E731
        shards = np.stack([shard_moments(store, k, read(k)) for k in range(store.config.shards)])
    n, mean, scatter, variance = merged(shards)
    if not n.all():
        raise StoreError(f"no row of {store.where!r} is good: look at `gensys data info`")
    std = np.sqrt((scatter + variance) / n)
    if not (np.isfinite(std).all() and (std > 0).all()):
        raise StoreError(f"the latents of {store.where!r} cannot be normalised: standard deviations {std.tolist()}")
    return Normalisation(mean.tolist(), std.tolist())


def seal_latents(
    store: Store, reasons: Mapping[int, str] | None = None, normalisation: Normalisation | None = None
) -> Normalisation | None:
    """Seal a store of `create_latents` whose shards are all committed, with its normalisation among the attributes.

    reasons: why rows are in quarantine. normalisation: of the store that this one replaces; None = it is measured.
    Returns it; None for codes, which have none. Repeatable. Raises StoreError if shards are missing.
    """
    missing = store.missing()
    if missing:
        raise StoreError(
            f"{store.where!r} lacks {len(missing)} of {store.config.shards} shards: finish `gensys encode`"
        )
    if normalisation is None and "codes" not in store.config.arrays:
        normalisation = statistics(store)
    reasons = reasons or {}
    final = {"quarantine": [{"row": row, "reason": reasons[row]} for row in sorted(reasons)[:_REASONS]]}
    final |= {"states": states(store), "digested": DIGESTED}
    if normalisation is not None:
        final |= {"normalisation": asdict(normalisation), "normalisation_digest": normalisation.digest}
    store.seal(final)
    return normalisation


def states(store: Store) -> dict[str, int]:
    """How many rows of the shards that are there are in each of `STATES`."""
    counts = np.zeros(len(STATES), np.int64)
    for shard in sorted(store.done()):
        counts += np.bincount(store.read("state", store.rows_of(shard)), minlength=len(STATES))[: len(STATES)]
    return dict(zip(STATES, counts.tolist(), strict=True))


@dataclass(frozen=True)
class LatentSource:
    """Latents in a sealed store as training data. Open with `LatentSource.open`.

    store: the store. normalisation: what `batch` applies; None for codes. first_test, classes: those of the encoded
    data. captions: the embedded texts of the rows, if there are any beside a store in a directory
    (`text.encode_texts`).
    """

    store: Store
    normalisation: Normalisation | None
    classes: tuple[str, ...]
    first_test: int | None
    about: str
    captions: Texts | None = None

    @classmethod
    def open(cls, path: str | Path) -> LatentSource:
        """Raises StoreError if there is no store, if it is not of latents, if encoding was not finished, or if the
        texts beside it belong to another store."""
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
            arrays = store.config.arrays
            latents = {"codes"} if "codes" in arrays else {"mean", "logvar"}
            if missing := (_ROW_ARRAYS | latents) - set(arrays):
                raise KeyError(", ".join(sorted(missing)))
            normalisation = None if "codes" in arrays else Normalisation(**attributes["normalisation"])
            sealed_with = attributes["normalisation_digest"] if normalisation else ""
            counts = attributes["states"]
            shape = arrays[min(latents)].shape
            about = f"{len(store):,} {'codes' if normalisation is None else 'latents'} {shape} of {made_from['about']}"
            about += "".join(f", {counts[s]:,} {s}" for s in STATES[1:] if counts[s])
            about += f"; encoded by {codec.get('run', 'unknown')}"
            classes, first_test = tuple(attributes["classes"]), made_from["first_test"]
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"the store {str(path)!r} does not hold latents ({error} is missing): use one of `gensys encode`"
            ) from error
        if normalisation is not None and normalisation.digest != sealed_with:
            raise StoreError(
                f"the normalisation of {str(path)!r} was edited: its digest is {normalisation.digest[:12]}, and the "
                f"store was sealed with {sealed_with[:12]}: put the old numbers back, or encode anew"
            )
        captions = None if is_url(path) or not text_path(store.path).exists() else Texts.open(store.path)
        return cls(store, normalisation, classes, first_test, about, captions)

    @property
    def name(self) -> str:
        """The store's file name without suffix."""
        return self.store.path.stem

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one latent, (C, ...), or of its codes."""
        return self.store.config.arrays["mean" if self.normalisation else "codes"].shape

    @property
    def codebook(self) -> int:
        """The number of codes; 0 for continuous latents."""
        return self.store.attributes.get("codebook", 0)

    @property
    def grids(self) -> tuple[tuple[int, ...], ...]:
        """The grids that the codes of a row are of, see `Codes`; one of `shape` if the store says nothing."""
        return tuple(tuple(grid) for grid in self.store.attributes.get("grids", [self.shape]))

    def __len__(self) -> int:
        return len(self.store)

    @cached_property
    def _hash(self) -> str:
        text = f"{self.store.fingerprint} {self.store.content()} {self.normalisation}"
        text += f" {self.captions.content()}" if self.captions else ""
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def fingerprint(self) -> str:
        """Hash of the configuration, the digests of all shards and the normalisation; no shard is read for it."""
        return self._hash

    def latents(self, rows: Tensor, mirrored: Tensor | None = None) -> Posterior | Codes:
        """What is stored of rows, not normalised: (B, *Z), mean and logvar float32 or indices int64.

        mirrored: (B,) bool, of which the mirrored copy is taken.
        """
        check_rows(rows, len(self))
        index, names = rows.numpy(), ("codes",) if self.normalisation is None else ("mean", "logvar")
        found = self.store.read_many(names, index)
        if mirrored is not None and bool(mirrored.any()):
            flip = mirrored.numpy()
            copies = self.store.read_many([name + MIRROR for name in names], index[flip])
            for values, copy in zip(found, copies, strict=True):
                values[flip] = copy
        parts = [torch.from_numpy(values) for values in found]
        if self.normalisation is None:
            return Codes(parts[0].long(), self.codebook, self.grids)
        return Posterior(*(part.float() for part in parts))

    def batch(self, rows: Tensor, noise: Noise) -> Batch:
        """See `Source`: x is a normalised draw from the posterior of each row, with the noise's Stream.POSTERIOR, or
        its codes, int64. Where there is a mirrored copy, Stream.AUGMENT tosses a coin for each row. Of embedded
        captions, cond has "text" (B, L, D) float32 and "text_mask" (B, L) bool; a row without one has no token.

        Raises DataError if `noise` has not one id a row.
        """
        if noise.ids.shape != rows.shape:
            raise DataError(f"'noise' must have one id for each of the {len(rows)} rows, got {tuple(noise.ids.shape)}")
        both = any(name.endswith(MIRROR) for name in self.store.config.arrays)
        found = self.latents(rows, noise.uniform((), Stream.AUGMENT) < 0.5 if both else None)
        if isinstance(found, Codes) or self.normalisation is None:
            x = found.mode
        else:
            x = self.normalisation.normalise(found.sample(noise.normal(self.shape, Stream.POSTERIOR)))
        cond = {"label": torch.from_numpy(self.store.read("label", rows.numpy()))} if self.classes else {}
        if self.captions is not None:
            cond["text"], cond["text_mask"] = self.captions.batch(rows.numpy())
        return Batch(x, cond, rows)

    def origin(self, rows: Tensor) -> Tensor:
        """The rows' numbers in the data set that was encoded, (B,) int64; -1 for those that are not to be used."""
        check_rows(rows, len(self))
        index = rows.numpy()
        return torch.from_numpy(np.where(self.store.read("state", index) == GOOD, self.store.read("row", index), -1))

    def digests(self) -> npt.NDArray[np.uint8]:
        """See `Source`: of each row's latents and label; all of the store is read for it."""
        step = self.store.config.shard
        blocks = [range(i, min(i + step, len(self))) for i in range(0, len(self), step)]
        names = sorted(set(self.store.config.arrays) - {"digest", "name", "row", "state"})
        return np.concatenate([digests_of(*(self.store.read(name, rows) for name in names)) for rows in blocks])

    def named(self, rows: Tensor) -> list[str]:
        """See `Source`: the names of the items that were encoded."""
        check_rows(rows, len(self))
        return from_bytes(self.store.read("name", rows.numpy()))

    def texts(self, rows: Tensor) -> list[str] | None:
        """None: of captions, a store has embeddings at most."""
        return None

    def quarantine(self) -> Mapping[int, str]:
        """None: what could not be read is no row to train on (see `origin`), and was told of when it was encoded."""
        return {}
