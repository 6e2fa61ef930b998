"""Several stores in one directory, and the Zarr group there that names them (see joined_latents.py, which writes it).

Apart from it, because looking at stores must not wait for torch.
"""

from __future__ import annotations

import json
from typing import Any

from gensys.data.layout import GROUP
from gensys.data.place import open_place
from gensys.data.where import Where, inside
from gensys.errors import StoreError

__all__ = ["KEY", "damaged", "is_joined", "members", "stores_in"]

KEY = "gensys_joined"


def is_joined(path: Where) -> bool:
    """Whether stores are here that `join` made one."""
    try:
        return KEY in json.loads(open_place(path).read(GROUP))["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def stores_in(path: Where) -> list[Where]:
    """The stores at a place: itself, or those that `join` made one there."""
    return [inside(path, name) for name in members(path)["stores"]] if is_joined(path) else [path]


def members(path: Where) -> dict[str, Any]:
    """What `join` wrote. Raises StoreError if it names something outside of it."""
    ours = json.loads(open_place(path).read(GROUP))["attributes"][KEY]
    try:
        if any("/" in name or name.startswith(".") for name in ours["stores"]):
            raise StoreError(f"{str(path)!r} names a store outside of itself: it was not written by gensys")
    except (KeyError, TypeError) as error:
        raise damaged(path, error) from error
    return ours


def damaged(path: Where, error: Exception) -> StoreError:
    return StoreError(f"the metadata {str(inside(path, GROUP))!r} are damaged ({error!r}): encode again")
