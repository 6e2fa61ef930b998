"""A store in a bucket: "s3://bucket/path.zarr", "gs://bucket/path.zarr" or "az://container/path.zarr".

A name is published by a conditional put (If-None-Match: *), which an object store decides as a directory decides a hard
link, and replaced by one on the version that was seen (If-Match). A put is whole or nothing. One whose answer was lost
is repeated by the library and then finds itself there; a commit compares digests in that case, so it does not mind.

Credentials and endpoints come from the environment alone, as the providers' own tools have them: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL (a plain http:// one needs AWS_ALLOW_HTTP=true),
GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_NAME, ...
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from gensys.data.cache import Cache, default_cache
from gensys.data.layout import DIGESTS, GROUP
from gensys.data.place import Place
from gensys.durable import digest as digest_of
from gensys.errors import StoreError

__all__ = ["ObjectPlace"]

_TRIES = 10  # of a replacement, each of which another process was faster than
_BATCH = 1000  # names in one request to remove them


class ObjectPlace:
    """See `Place`. store: a store of obstore, with the prefix in it. where: its URL. cache: for files to be mapped."""

    def __init__(self, store: Any, where: str, cache: Cache) -> None:
        self._store, self._where, self._cache = store, where, cache

    @classmethod
    def at(cls, where: str) -> ObjectPlace:
        """Raises StoreError if the URL names no path in a bucket, or if the library is not installed."""
        bucket, _, path = where.partition("://")[2].partition("/")
        if not bucket or not path.strip("/"):
            raise StoreError(f"{where!r} names no store in a bucket: give a URL such as s3://bucket/path.zarr")
        try:
            from obstore.store import from_url
        except ImportError as error:
            raise StoreError(f"{where!r} needs obstore, not installed here: pip install 'gensys[objects]'") from error
        try:
            return cls(from_url(where), where, default_cache())
        except Exception as error:  # of the library's own kinds, according to what is wrong with the environment
            raise StoreError(f"{where!r} cannot be opened: {error}") from error

    def __str__(self) -> str:
        return self._where

    def vacant(self) -> bool:
        """No object has the prefix."""
        with _told():
            return not any(self._store.list(chunk_size=1))

    def create(self, files: Mapping[str, bytes]) -> None:
        """The group first: whoever puts it decides what the store is. `Store.seal` writes what a dead creator left."""
        if self.publish(GROUP, files[GROUP]) or self.read(GROUP) == files[GROUP]:
            for name in files.keys() - {GROUP}:
                self.publish(name, files[name])

    def publish(self, name: str, data: bytes) -> bool:
        """A conditional put."""
        from obstore.exceptions import AlreadyExistsError

        with _told():
            try:
                self._store.put(name, data, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def adopt(self, name: str, other: Place, theirs: str) -> bool:
        """A copy, through this machine."""
        return self.publish(name, other.read(theirs))

    def replace(self, name: str, data: bytes) -> None:
        """A put on the version that is there, or on none."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        for _ in range(_TRIES):
            with _told():
                try:
                    seen = self._store.head(name)
                    mode = {k: v for k in ("e_tag", "version") if (v := seen[k]) is not None}
                except FileNotFoundError:
                    mode = "create"
                with contextlib.suppress(AlreadyExistsError, PreconditionError):
                    self._store.put(name, data, mode=mode)
                    return
        raise OSError(f"{name!r} was written by others {_TRIES} times meanwhile")

    def read(self, name: str) -> bytes:
        """The whole object."""
        with _told():
            return bytes(self._store.get(name).bytes())

    def open(self, name: str, digest: str) -> BinaryIO:
        """Through the cache."""
        return self._cache.open(digest, lambda: self.read(name))

    def measure(self, name: str) -> tuple[int, str] | None:
        """Fetches the object, past the cache."""
        try:
            data = self.read(name)
        except FileNotFoundError:
            return None
        return len(data), digest_of(data)

    def exists(self, name: str) -> bool:
        """Asks for the head."""
        with _told():
            try:
                self._store.head(name)
            except FileNotFoundError:
                return False
        return True

    def list(self, folder: str) -> Iterator[str]:
        """A thousand names a request."""
        with _told():
            for some in self._store.list(folder):
                yield from (item["path"] for item in some)

    def remove(self, names: Iterable[str]) -> None:
        """A thousand names a request."""
        every = [*names]
        with _told():
            for begin in range(0, len(every), _BATCH):
                some = every[begin : begin + _BATCH]
                try:
                    self._store.delete(some)
                except FileNotFoundError:  # some providers mind
                    for name in some:
                        with contextlib.suppress(FileNotFoundError):
                            self._store.delete(name)

    def sweep(self) -> None:
        """Nothing: a put that failed leaves nothing behind."""

    def clear(self) -> None:
        """What says that shards are committed first, the group last: the half of a store that is not sealed is one that
        is still to be filled."""
        with _told():
            every = [item["path"] for some in self._store.list() for item in some]
        self.remove(sorted((name for name in every if name != GROUP), key=lambda name: not name.startswith(DIGESTS)))
        self.remove([GROUP])


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What the library raises as OSError, in one line."""
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        text = str(error).split("\n\nDebug source", 1)[0].strip()
        raise OSError(f"{type(error).__name__}: {text}") from error
