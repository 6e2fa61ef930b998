"""Shard files of far stores, kept on this machine under the digest of their content, so that they can be mapped.

Any number of processes share the folder: a file gets its name when it is whole, and two that fetch the same one are
harmless. What is removed to make room stays readable for those who have it open.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gensys.durable import digest as digest_of
from gensys.durable import write
from gensys.errors import ConfigError, StoreError

__all__ = ["Cache", "default_cache"]

_BYTES = 64 << 30


@dataclass(frozen=True)
class Cache:
    """folder: where. limit: bytes that are kept, of those used last; the file that is asked for is always kept."""

    folder: Path
    limit: int

    def open(self, digest: str, fetch: Callable[[], bytes]) -> BinaryIO:
        """The file with this content, fetched if it is not here; StoreError if what is fetched is something else."""
        path = self.folder / digest[:2] / digest
        with contextlib.suppress(FileNotFoundError):
            file = open(path, "rb")  # noqa: SIM115 - the caller's
            with contextlib.suppress(FileNotFoundError):  # removed just now: it is open, which is enough
                os.utime(path)
            return file
        data = fetch()
        if digest_of(data) != digest:
            raise StoreError("its content is not what was committed: verify and repair the store")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{digest}.{uuid.uuid4().hex}.part")
        try:
            write(part, data)  # flushed: nothing that was torn by a crash may stand under its digest
            file = open(part, "rb")  # noqa: SIM115 - the caller's
            with contextlib.suppress(FileNotFoundError):  # another process made room
                os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        self._trim(path)
        return file

    def _trim(self, newest: Path) -> None:
        """Remove the files that were used longest ago, and parts of the dead with them."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.glob("??/*"):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit:
                break
            if path != newest:
                path.unlink(missing_ok=True)
                total -= size


def default_cache() -> Cache:
    """GENSYS_CACHE, else gensys/shards in the user's cache folder; of GENSYS_CACHE_BYTES, else 64 GiB.

    Raises ConfigError if the latter is not a number.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    text = os.environ.get("GENSYS_CACHE_BYTES") or str(_BYTES)
    if not text.isdecimal():
        raise ConfigError(f"GENSYS_CACHE_BYTES must be a number of bytes, got {text!r}")
    return Cache(Path(os.environ.get("GENSYS_CACHE") or base / "gensys" / "shards"), int(text))
