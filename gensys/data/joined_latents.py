"""Latents of many shapes in one place: a store for every shape, and what holds for all of them.

    Z.zarr/zarr.json     a Zarr group; its attributes name the stores and hold the common normalisation
    Z.zarr/16x16/        a store of latents, as `latents` has it, of the images of one shape
    Z.zarr/12x20/        another one

The group is written last, so it is there when all of it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from gensys.data.joined import Joined
from gensys.data.latents import LatentSource, Normalisation
from gensys.data.layout import GROUP
from gensys.data.members import KEY, damaged, is_joined, members
from gensys.data.pairs import data_of
from gensys.data.place import open_place
from gensys.data.source import Source
from gensys.data.where import Where, inside, is_url
from gensys.durable import explained
from gensys.durable import replace as put
from gensys.errors import RunError, StoreError

__all__ = ["check_normalisation", "join", "latents_in", "normalisation_of", "open_latents"]


def join(path: Where, names: Sequence[str], about: str) -> Joined:
    """Make the sealed stores path/NAME one source of latents. Repeatable."""
    parts = [LatentSource.open(inside(path, name)) for name in names]
    ours = {"stores": list(names), "about": about}
    common = _common(parts)
    ours |= {"normalisation": asdict(common), "digest": common.digest} if common else {}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {KEY: ours}}
    with explained(path, "joining the stores"):
        data = json.dumps(group, indent=2).encode()
        if is_url(path):
            open_place(path).replace(GROUP, data)
        else:  # a directory that is no store has no folder for drafts
            put(Path(path, GROUP), data)
    return _open(path)


def _common(parts: Sequence[LatentSource]) -> Normalisation | None:
    """The normalisation of all latents together, each part by the number of its values a channel. None for codes."""
    known = [(part.normalisation, _values(part)) for part in parts]
    measured = [(n, w) for n, w in known if n is not None]
    if not measured:
        return None
    total = sum(w for _, w in measured)
    channels = range(len(measured[0][0].mean))
    mean = [sum(w * n.mean[c] for n, w in measured) / total for c in channels]
    second = [sum(w * (n.std[c] ** 2 + (n.mean[c] - mean[c]) ** 2) for n, w in measured) / total for c in channels]
    return Normalisation(mean, [math.sqrt(s) for s in second])


def _values(part: LatentSource) -> int:
    """How many values of a channel were measured."""
    return part.store.attributes["states"]["good"] * math.prod(part.shape[1:])


def open_latents(path: Where) -> LatentSource | Joined:
    """Open what `gensys encode` has made: a store of latents, or stores of many shapes. Raises StoreError."""
    return _open(path) if is_joined(path) else LatentSource.open(path)


def _open(path: Where) -> Joined:
    ours = members(path)
    try:
        names, about, numbers = ours["stores"], ours["about"], ours.get("normalisation")
        parts = [LatentSource.open(inside(path, name)) for name in names]
        if numbers is not None:
            common = Normalisation(**numbers)
            if common.digest != ours["digest"]:
                raise StoreError(
                    f"the normalisation of {str(path)!r} was edited: its digest is {common.digest[:12]}, and the "
                    f"stores were joined with {ours['digest'][:12]}: put the old numbers back, or encode anew"
                )
            parts = [replace(part, normalisation=common) for part in parts]
    except (KeyError, TypeError) as error:
        raise damaged(path, error) from error
    return Joined(tuple(parts), about, Path(path).stem)


def latents_in(source: Source) -> LatentSource | None:
    """A source's latents, of joined ones the first: codec and normalisation are those of all. None for other data."""
    source = data_of(source)
    if isinstance(source, Joined):
        return latents_in(source.parts[0])
    return source if isinstance(source, LatentSource) else None


def normalisation_of(source: Source) -> dict[str, list[float]] | None:
    """The numbers by which a source of latents is normalised, as JSON values; None for other sources."""
    latents = latents_in(source)
    found = None if latents is None else latents.normalisation
    return None if found is None else {"mean": list(found.mean), "std": list(found.std)}


def check_normalisation(run: str, source: Source, trained: dict[str, list[float]] | None) -> None:
    """Samples are denormalised with the numbers that the store has now: RunError unless `run` was trained with them."""
    now = normalisation_of(source)
    if trained is not None and now != trained:
        raise RunError(
            f"{run!r} was trained on latents normalised by {trained}, and {source.name!r} is now normalised by {now}: "
            "put the store back that it was trained on, or train anew with --fresh"
        )
