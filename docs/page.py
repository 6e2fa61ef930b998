"""What the scripts of this folder share: a part of a page that a script owns, between two comments."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["part", "put"]


def part(page: Path, name: str, script: str) -> str:
    """What stands in `page` between the marks of the part `name`, marks and all.

    Raises: ValueError if the page has no such marks.
    """
    begin, end = f"<!-- {name}: written by docs/{script} -->", f"<!-- end of {name} -->"
    found = re.search(f"{re.escape(begin)}.*?{re.escape(end)}", page.read_text(), flags=re.DOTALL)
    if found is None:
        raise ValueError(f"{page.name} has no lines {begin!r} and {end!r}, which say where the part belongs")
    return found.group()


def put(page: Path, name: str, script: str, lines: Iterable[str]) -> None:
    """Put `lines` in place of what stands in `page` between the marks of the part `name`, as `part` finds it."""
    old = part(page, name, script)
    first, *_, last = old.splitlines()
    page.write_text(page.read_text().replace(old, "\n".join([first, *lines, last])))
