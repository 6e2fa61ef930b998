"""Several stores in one directory, and the Zarr group there that names them (see joined_latents.py, which writes it).

Apart from it, because looking at stores must not wait for torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gensys.errors import StoreError

__all__ = ["KEY", "damaged", "is_joined", "members", "stores_in"]

KEY = "gensys_joined"


def is_joined(path: Path) -> bool:
    """Whether a directory holds stores that `join` made one."""
    try:
        return KEY in json.loads((path / "zarr.json").read_bytes())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def stores_in(path: str | Path) -> list[str | Path]:
    """The stores at a path: itself, or those that `join` made one there."""
    if isinstance(path, str) or not is_joined(path):
        return [path]
    return [path / name for name in members(path)["stores"]]


def members(path: Path) -> dict[str, Any]:
    """What `join` wrote. Raises StoreError if it names something outside of the directory."""
    ours = json.loads((path / "zarr.json").read_bytes())["attributes"][KEY]
    try:
        if any("/" in name or name.startswith(".") for name in ours["stores"]):
            raise StoreError(f"{str(path)!r} names a store outside of itself: it was not written by gensys")
    except (KeyError, TypeError) as error:
        raise damaged(path, error) from error
    return ours


def damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(f"the metadata {str(path / 'zarr.json')!r} are damaged ({error!r}): encode again")
