"""What the scripts of this folder share: a part of a page that a script owns, between two comments."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["put"]


def put(page: Path, name: str, script: str, lines: Iterable[str]) -> None:
    """Put `lines` in place of what stands in `page` between the marks of the part `name`.

    Raises: ValueError if the page has no such marks.
    """
    begin, end = f"<!-- {name}: written by docs/{script} -->", f"<!-- end of {name} -->"
    text = page.read_text()
    if begin not in text or end not in text:
        raise ValueError(f"{page.name} has no lines {begin!r} and {end!r}, which say where the part belongs")
    written = "\n".join([begin, *lines, end])
    page.write_text(re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: written, text, flags=re.DOTALL))
