"""The map: real data and samples in the plane in which the real ones differ most.

The plane is that of the first two principal components of the real points (Pearson, 1901, "On lines and planes of
closest fit to systems of points in space"). It is linear, so near points may lie far apart in what it leaves out; but
no point is pulled to another, as methods do that draw clusters: where samples lie is where the model put them. Points
of a plane stay where they are.
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
    """kind: what was drawn, images or rows. of: whose coordinates the points are. explained: the share of the variance
    along either axis; None: they are points of a plane, and all is seen. Points are (across, up, label), -1 = none."""

    kind: str
    of: str
    explained: tuple[float, float] | None
    classes: tuple[str, ...]
    real: tuple[Spot, ...]
    samples: tuple[Spot, ...]

    @property
    def where(self) -> str:
        """A sentence."""
        if self.explained is None:
            return f"The axes are {self.of}."
        first, second = (f"{100 * share:.0f} %" for share in self.explained)
        return (
            f"The first two principal components of the real ones’ {self.of} hold {first} and {second} of their "
            f"variance; what differs otherwise is not seen here."
        )


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
    kind: str, real: Tensor, samples: Tensor, labels: tuple[Tensor, Tensor], classes: Sequence[str], of: str
) -> dict[str, Any]:
    """What read_map reads, of points (n, D) and (m, D), D >= 2, and the labels of both. kind, of: see `Map`."""
    import torch

    plane = real.shape[1] == 2
    centre, axes, explained = (torch.zeros(2), torch.eye(2).double(), None) if plane else principal(real)

    def spots(points: Tensor, label: Tensor) -> list[list[float]]:
        places = ((points.double() - centre) @ axes).tolist()
        return [[float(f"{a:.4g}"), float(f"{b:.4g}"), k] for (a, b), k in zip(places, label.tolist(), strict=True)]

    found = {"real": spots(real, labels[0]), "samples": spots(samples, labels[1])}
    return {"kind": kind, "of": of, "explained": explained, "classes": list(classes), **found}


def read_map(folder: Path) -> Map | None:
    """The map of a run's samples; None if there is none of these samples."""
    document = kept(folder / MAP, origin(folder))
    try:
        return None if document is None else _parsed(document)
    except (KeyError, TypeError, ValueError):  # a file of another make
        return None


def _parsed(document: dict[str, Any]) -> Map:
    explained = None
    if document["explained"] is not None:
        first, second = (number(share) for share in document["explained"])
        if first is None or second is None:
            raise ValueError(document["explained"])
        explained = first, second

    def spots(rows: list[Any]) -> tuple[Spot, ...]:
        return tuple(
            (float(x), float(y), int(k)) for x, y, k in rows if number(x) is not None and number(y) is not None
        )

    kind, of = str(document["kind"]), str(document["of"])
    classes = tuple(str(name) for name in document["classes"])
    found = Map(kind, of, explained, classes, spots(document["real"]), spots(document["samples"]))
    if not found.real or not found.samples:
        raise ValueError("no point")
    return found


def drawn(found: Map) -> str:
    """The map as SVG."""
    coloured = ", coloured by class" if found.classes else ""
    title = (
        f"A map of {len(found.real)} real {found.kind}, faint, and {len(found.samples)} samples, strong{coloured}. "
        f"{found.where}"
    )
    return cloud(found.real, found.samples, found.classes, title)
