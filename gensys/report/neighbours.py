"""The first samples, each beside the training image that is nearest to it: would one know them for copies?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gensys.report.cached import NEIGHBOURS, kept, origin
from gensys.report.figures import Picture, halves
from gensys.report.reading import number
from gensys.report.scores import compact

__all__ = ["PICTURE", "Neighbour", "Neighbours", "read_neighbours"]

PICTURE = "neighbours.png"


@dataclass(frozen=True)
class Neighbour:
    """sample, nearest: pictures. distance: root mean square per pixel, in units of [-1, 1]. name: of the image."""

    sample: Picture
    nearest: Picture
    distance: str
    name: str


@dataclass(frozen=True)
class Neighbours:
    """typical: the median of that distance for real images that training never saw; "" if none are held out."""

    pairs: tuple[Neighbour, ...]
    typical: str
    held_out: int


def read_neighbours(folder: Path) -> Neighbours | None:
    """Those of a run's samples; None if there are none of these samples, or if a file is damaged."""
    document = kept(folder / NEIGHBOURS, origin(folder))
    if document is None:
        return None
    try:
        pairs, typical = document["pairs"], number(document["typical"])
        pictures = halves(folder / PICTURE, len(pairs))
        found = tuple(
            Neighbour(*both, compact(float(pair["distance"]), 3), str(pair["name"]))
            for both, pair in zip(pictures, pairs, strict=True)
        )
        return Neighbours(found, "" if typical is None else compact(typical, 3), int(document["held_out"]))
    except (KeyError, TypeError, ValueError):  # a file of another make, or no picture of so many pairs
        return None
