"""What a data set is, in a few facts that are kept with every run that is trained on it."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from gensys.data.source import Source, split

__all__ = ["Licensed", "card"]


@runtime_checkable
class Licensed(Protocol):
    """A source that knows under which licence its data are given. Most do not: files state none."""

    @property
    def licence(self) -> str:
        """Its name, and what it covers where that is in doubt; "" = the source states none."""
        ...


def card(source: Source) -> dict[str, Any]:
    """{"name", "about", "fingerprint", "rows", "held_out", "split", "shape", "classes"} and, where the source states
    one, "licence", as JSON values. All of the data is looked at for the fingerprint."""
    test = source.first_test
    drawn = "one row in ten, by a hash of its number" if test is None else f"the official test set, from row {test:,}"
    found = {
        "name": source.name,
        "about": source.about,
        "fingerprint": source.fingerprint(),
        "rows": len(source),
        "held_out": len(split(source)[1]),
        "split": drawn,
        "shape": list(source.shape),
        "classes": len(source.classes),
    }
    return found | ({"licence": source.licence} if isinstance(source, Licensed) and source.licence else {})
