"""Rows that cannot be read: told of and left out, up to a share that the user sets; above it, an error."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from gensys.data.source import Source, split
from gensys.errors import DataError

__all__ = ["ALLOWED", "check_quarantine", "readable", "record", "told", "without"]

ALLOWED = 0.01  # share of the rows: a few broken files of a large set are normal, a hundredth is worth a look
_NAMED = 5  # rows that a message names


def check_quarantine(source: Source, share: float | None = None) -> Mapping[int, str]:
    """The rows of a source that cannot be read, with the reasons, after a look at all of it.

    share: the largest part of the rows that may be damaged; None = `ALLOWED`. Raises DataError if more are, or if none
    is left.
    """
    found, share = source.quarantine(), ALLOWED if share is None else share
    if len(found) > share * len(source) or len(found) == len(source):
        raise DataError(
            f"{told(source, found)}. That is {len(found) / len(source):.2%} of {source.name!r}, and at most "
            f"{share:.2%} may be damaged: repair or remove them, or allow more with --allow-damaged SHARE"
        )
    return found


def told(source: Source, found: Mapping[int, str]) -> str:
    """What was found, in one line; "" if nothing was."""
    if not found:
        return ""
    first = list(found)[:_NAMED]
    names = source.named(torch.tensor(first))
    items = "; ".join(f"{name!r} ({found[row]})" for name, row in zip(names, first, strict=True))
    more = f"; and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
    return f"{len(found):,} of {len(source):,} rows cannot be read: {items}{more}"


def without(rows: Tensor, quarantined: Collection[int]) -> Tensor:
    """The rows that are not in quarantine, in their order."""
    if not quarantined:
        return rows
    return rows[~torch.isin(rows, torch.tensor(sorted(quarantined)))]


def readable(source: Source) -> tuple[Tensor, Tensor]:
    """(train_rows, test_rows) as `split` gives them, without the rows that cannot be read; looks at all of the data."""
    train, test = split(source)
    return without(train, source.quarantine()), without(test, source.quarantine())


def record(source: Source, found: Mapping[int, str]) -> list[dict[str, int | str]]:
    """What was found, for JSON: {"row", "item", "why"} of every row."""
    names = source.named(torch.tensor(list(found), dtype=torch.int64))
    return [{"row": row, "item": name, "why": why} for name, (row, why) in zip(names, found.items(), strict=True)]
