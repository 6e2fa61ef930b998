"""Which recipe files may be executed again: the ones that this user has trained with.

A run folder names the file of its recipe, and whoever sends you a folder can send a file along. So a recipe in a file
is executed when it is named on the command line; later, for `gensys sample` and the rest, only if this user has trained
with exactly that text. The SHA-256 of every such text is kept in the user's configuration folder.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["fingerprint", "is_trusted", "trust"]


def _file() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "gensys" / "trusted-recipes"


def fingerprint(code: str) -> str:
    """SHA-256 of a recipe file's text."""
    return hashlib.sha256(code.encode()).hexdigest()


def is_trusted(code: str) -> bool:
    """Whether this user has trained with exactly this text."""
    try:
        return fingerprint(code) in _file().read_text().split()
    except FileNotFoundError:
        return False


def trust(code: str) -> None:
    """Remember that this user trains with this text."""
    if not is_trusted(code):
        _file().parent.mkdir(parents=True, exist_ok=True)
        with open(_file(), "a") as file:
            file.write(fingerprint(code) + "\n")
