"""The real data that samples are held against: which rows, who judges them, and what the protocol says of them.

For n samples the reference is n rows of the test split, or all of it filled up to n with training rows; the floor is
what n other training rows get under the same protocol, as a perfect model would. Of few rows that varies (by a quarter,
the Frechet distance of 1,000), so as many sets of n are taken as 4,000 rows hold, and the floor is their mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gensys.pipelines.encode import source_of
from torch import Tensor

from gensys.core import Codec
from gensys.data import order
from gensys.data.as_stored import AsStored
from gensys.data.joined import Joined
from gensys.data.joined_latents import latents_in
from gensys.data.latents import LatentSource
from gensys.data.pairs import data_of
from gensys.data.quarantine import readable
from gensys.data.sources import Source, open_source
from gensys.data.store import Store
from gensys.engine.precision import resolve
from gensys.errors import RunError
from gensys.evaluate.classifier import Judge, judge
from gensys.noise import Noise
from gensys.run_folder import RunFolder, open_codec

__all__ = [
    "Real",
    "about_data",
    "held_out",
    "images",
    "judge_of",
    "protocol_of",
    "real_source",
    "reference_of",
    "shuffled",
    "told_of_shares",
]

_FLOORED = 4000  # training rows for floors: four sets of 1,000 know the mean to an eighth; more rows cost more features
_ORDER_SEED = 0x0EA1  # of the choice of real rows: fixed, so that every model is held against the same images


def real_source(folder: RunFolder) -> tuple[Source, Codec | None]:
    """The real data behind a run, and the codec between them if the run was trained on latents.

    The data of latents are split as the rows of the store are that the model was trained on (see `AsStored`).
    """
    source = data_of(folder.spec().load().source)
    latents = latents_in(source)
    if latents is None:
        return source, None
    made_by = latents.store.attributes["codec"]
    data = source_of(RunFolder(Path(made_by["run"])).spec(), made_by["data"] or None)
    stores = source.parts if isinstance(source, Joined) else [source]
    return AsStored.of(data, [part for part in stores if isinstance(part, LatentSource)]), open_codec(latents)


def reference_of(source: Source, data: str | None) -> Source:
    """What samples are held against: `data`, as a recipe takes it, or `source`, that of the run.

    Raises: RunError for images of another shape.
    """
    if data is None:
        return source
    other = open_source(data, source.shape[-1])
    if other.shape != source.shape:
        raise RunError(f"the reference {data!r} holds data of shape {other.shape}, and samples are {source.shape}")
    return other


def images(source: Source, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Those rows, and their labels, -1 = none."""
    batch = source.batch(rows, Noise(0, rows))
    return batch.x, batch.cond.get("label", torch.full_like(rows, -1))


def shuffled(rows: Tensor) -> Tensor:
    """The rows in a fixed random order: data sets are often sorted by class."""
    return rows[order.rows(_ORDER_SEED, 0, len(rows), len(rows))]


def held_out(source: Source) -> Tensor:
    """The rows that are not trained on, in a fixed random order."""
    return shuffled(readable(source)[1])


def judge_of(source: Source, folder: Path) -> Judge:
    """The classifier of a data set, trained on its training split; kept in `folder` for the next time."""
    if not source.classes:
        raise RunError(f"{source.name!r} has no classes, so no classifier can be trained: use data in class subfolders")
    parts = [part for rows in readable(source) for part in images(source, rows)]
    try:
        return judge(folder, *parts, classes=len(source.classes))
    except ValueError as error:  # too few images or classes, or of a size that the network cannot see
        raise RunError(f"no classifier can be trained on {source.name!r}: {error}") from error


@dataclass(frozen=True)
class Real:
    """Which real rows n samples are held against. floor: sets of n, one after the other; None = there are too few rows
    left for one."""

    test: Tensor
    train: Tensor
    reference: Tensor
    floor: Tensor | None

    @classmethod
    def choose(cls, source: Source, n: int, floored: int = _FLOORED) -> Real:
        """floored: rows that are enough for the floors of n samples; one set of n is taken in any case."""
        train, test = (shuffled(rows) for rows in readable(source))
        fill = max(0, n - len(test))
        sets = min(max(1, floored // n), (len(train) - fill) // n)
        floor = train[fill : fill + sets * n] if sets > 0 else None
        return cls(test, train, torch.cat([test[:n], train[:fill]]), floor)

    def told(self) -> dict[str, str]:
        """What the protocol says of them."""
        tested = min(len(self.test), len(self.reference))
        n = len(self.reference)
        sets = 0 if self.floor is None else len(self.floor) // n
        floor = f"{n} other training rows, same reference" + (f", mean of {sets} sets" if sets > 1 else "")
        return {
            "reference": f"{tested} test rows and {len(self.reference) - tested} training rows",
            "floor": floor if sets else "none: too few real data",
        }


def _told(judged: Judge) -> str:
    return f"lenet, sha256 {judged.weights[:16]}, held-out accuracy {judged.accuracy:.3f}"


def about_data(source: Source) -> dict[str, Any]:
    """What the protocol says of real data."""
    return {"data": source.about, "data fingerprint": source.fingerprint()}


def _asked_of(made_by: Mapping[str, Any]) -> dict[str, str]:
    """What samples were asked to be, where that is not every class in turn."""
    label, data = made_by.get("label"), made_by.get("data")
    found = {} if label is None else {"asked for": f"{made_by['classes'][label]!r} alone"}
    found |= {"table": str(made_by["table"])[:16]} if "table" in made_by else {}
    return found | ({} if data is None else {"translated": f"{data[0]}, fingerprint {data[1][:16]}"})


def told_of_shares(asked: Tensor, known: Tensor) -> list[str]:
    """Whether samples were asked for in other shares of the classes than real rows have: what is to be said then.

    asked, known: (n,) and (m,), the classes of samples and of real rows, -1 = none. Shares differ if their total
    variation is four deviations above what is expected of two draws from one distribution.
    """
    if bool((asked < 0).any()) or bool((known < 0).any()):
        return []
    classes = int(torch.cat([asked, known]).max()) + 1
    p, q = (rows.bincount(minlength=classes).double() / len(rows) for rows in (asked, known))
    apart, mean = 0.5 * float((p - q).abs().sum()), 0.5 * (p + q)
    variance = mean * (1.0 - mean) * (1 / len(asked) + 1 / len(known))  # of p - q; of its size by a normal law:
    expected = 0.5 * float((variance * 2.0 / math.pi).sqrt().sum())
    deviation = 0.5 * math.sqrt(float(variance.sum()) * (1.0 - 2.0 / math.pi))
    if apart <= expected + 4.0 * deviation:
        return []
    return [
        f"classes of the samples: their shares are not those of real data (total variation {apart:.2f}); distances "
        "count that too, floors do not"
    ]


def protocol_of(store: Store, folder: RunFolder, source: Source, judged: Judge | None, real: Real) -> dict[str, Any]:
    """Everything that the figures depend on. source: of the real data. judged: None = no classifier took part."""
    made_by = store.attributes
    run, n = folder.spec().load(), len(store)
    sampler = {name: made_by["knobs"][name] for name in sorted(run.retune)}
    calls = folder.spec().with_knobs(made_by["knobs"]).model().evaluations
    return {
        "samples": n,
        "sample ids": f"{made_by['first']}:{made_by['first'] + n}",
        "sample seed": made_by["seed"],
        **_asked_of(made_by),
        **sampler,
        "network calls": calls,
        "precision": resolve(run.settings.precision),
        "weights": f"average of relative width {run.settings.ema:g}, sha256 {made_by['weights'][:16]}",
        **real.told(),
        **({} if judged is None else {"classifier": _told(judged)}),
        **about_data(source),
    }
