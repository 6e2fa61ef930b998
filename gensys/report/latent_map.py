"""The map of latents: real images and samples in the plane in which the real ones differ most.

The plane is that of the first two principal components of the real points (Pearson, 1901, "On lines and planes of
closest fit to systems of points in space"). It is linear, so near points may lie far apart in what it leaves out; but
no point is pulled to another, as methods do that draw clusters: where samples lie is where the model put them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gensys.report.cached import MAP, kept, origin
from gensys.report.plots import Spot, cloud
from gensys.report.reading import number

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Map", "document_of", "drawn", "principal", "read_map"]


@dataclass(frozen=True)
class Map:
    """of: whose coordinates the points are. explained: the share of the variance along either axis. Points are
    (across, up, label), -1 = none."""

    of: str
    explained: tuple[float, float]
    classes: tuple[str, ...]
    real: tuple[Spot, ...]
    samples: tuple[Spot, ...]


def principal(points: Tensor) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """The centre (D,), the first two principal components (D, 2) of points (n, D), D >= 2, and the share of their
    variance along each. The larger entries of a component are positive, so that the plane is the same every time."""
    import torch

    x = points.double()
    centre = x.mean(0)
    _, values, rows = torch.linalg.svd(x - centre, full_matrices=False)
    axes = rows[:2]
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    shares = values.square() / values.square().sum().clamp(min=1e-300)
    return centre, (axes * signs).T, (float(shares[0]), float(shares[1]))


def document_of(
    real: Tensor, samples: Tensor, labels: tuple[Tensor, Tensor], classes: Sequence[str], of: str
) -> dict[str, Any]:
    """What read_map reads, of points (n, D) and (m, D) and the labels of both; of: what they are."""
    centre, axes, explained = principal(real)

    def spots(points: Tensor, label: Tensor) -> list[list[float]]:
        places = ((points.double() - centre) @ axes).tolist()
        return [[float(f"{a:.4g}"), float(f"{b:.4g}"), k] for (a, b), k in zip(places, label.tolist(), strict=True)]

    found = {"real": spots(real, labels[0]), "samples": spots(samples, labels[1])}
    return {"of": of, "explained": list(explained), "classes": list(classes), **found}


def read_map(folder: Path) -> Map | None:
    """The map of a run's samples; None if there is none of these samples."""
    document = kept(folder / MAP, origin(folder))
    try:
        return None if document is None else _parsed(document)
    except (KeyError, TypeError, ValueError):  # a file of another make
        return None


def _parsed(document: dict[str, Any]) -> Map:
    first, second = (number(share) for share in document["explained"])
    if first is None or second is None:
        raise ValueError(document["explained"])

    def spots(rows: list[Any]) -> tuple[Spot, ...]:
        return tuple(
            (float(x), float(y), int(k)) for x, y, k in rows if number(x) is not None and number(y) is not None
        )

    classes = tuple(str(name) for name in document["classes"])
    found = Map(str(document["of"]), (first, second), classes, spots(document["real"]), spots(document["samples"]))
    if not found.real or not found.samples:
        raise ValueError("no point")
    return found


def drawn(found: Map) -> str:
    """The map as SVG."""
    first, second = (f"{100 * share:.0f} %" for share in found.explained)
    title = (
        f"A map of {len(found.real)} real images, faint, and {len(found.samples)} samples, strong, coloured by class, "
        f"in the plane of the first two principal components of the real ones' {found.of}, which hold {first} and "
        f"{second} of their variance."
    )
    return cloud(found.real, found.samples, found.classes, title)
