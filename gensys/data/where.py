"""Where a store is: a path of this machine, or the URL of a bucket, which stays a text. Opens nothing."""

from __future__ import annotations

from pathlib import Path

__all__ = ["Where", "beside", "inside", "is_url", "resolved"]

Where = str | Path


def is_url(where: Where) -> bool:
    """Whether it is that of a store in a bucket."""
    return "://" in str(where)


def resolved(where: Where) -> str:
    """What means the same to a process in another directory: a path from the root; a URL as it is."""
    return str(where) if is_url(where) else str(Path(where).resolve())


def beside(where: Where, name: str) -> Where:
    """What lies in the same folder, or in the same bucket, under this last name."""
    if is_url(where):
        return f"{str(where).rstrip('/').rpartition('/')[0]}/{name}"
    return Path(where).with_name(name)


def inside(where: Where, name: str) -> Where:
    """What lies below, under this name."""
    return f"{str(where).rstrip('/')}/{name}" if is_url(where) else Path(where) / name
