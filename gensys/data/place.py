"""Where the files of a store lie: a name is given bytes once, by whoever is first, and whole or not at all.

A store asks this much of a place and no more, so it is the same store in a directory and in a bucket:

    publish   give a new name its bytes; a name that is taken is left alone, and that is told
    replace   give a name new bytes; a reader sees the old ones or the new
    read, open, measure, exists, list, remove, and sweep, which clears away what dead writers left behind

What `publish` and `replace` have returned from is durable.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

from gensys.data.layout import ATTEMPTS
from gensys.data.where import Where
from gensys.durable import digest_file, drafts_of, link, link_or_copy, publish_directory, sync_directory, write
from gensys.errors import StoreError

__all__ = ["LocalPlace", "Place", "open_place"]

_TRIES = 10  # drafts that may be swept away one after the other: whoever seals sweeps twice
_SCHEMES = ("s3", "gs", "az")


class Place(Protocol):
    """Names are relative paths with "/". What goes wrong is an OSError; FileNotFoundError if a name is not there."""

    def __str__(self) -> str:
        """What `open_place` takes."""
        ...

    def vacant(self) -> bool:
        """Whether nothing is here yet."""
        ...

    def create(self, files: Mapping[str, bytes]) -> None:
        """Put the first files here, of which "zarr.json" makes it a store; another process may be first."""
        ...

    def publish(self, name: str, data: bytes) -> bool:
        """True if this call gave `name` its bytes, False if the name was taken."""
        ...

    def adopt(self, name: str, other: Place, theirs: str) -> bool:
        """`publish`, with the bytes of a name at another place."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Give `name` these bytes, whether it is there or not."""
        ...

    def read(self, name: str) -> bytes:
        """The bytes of `name`."""
        ...

    def open(self, name: str, digest: str) -> BinaryIO:
        """`name` as a file of this machine, which can be mapped into memory. digest: of its bytes, if it is whole."""
        ...

    def measure(self, name: str) -> tuple[int, str] | None:
        """(bytes, digest) of `name`, all of it read again; None if it is not there."""
        ...

    def exists(self, name: str) -> bool:
        """Whether `name` is there."""
        ...

    def list(self, folder: str) -> Iterator[str]:
        """The names below a folder, at any depth, in any order."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Take names away; those that are not there are passed over."""
        ...

    def sweep(self) -> None:
        """Clear away what writers left that died. One that lives notices, and does its work again."""
        ...

    def clear(self) -> None:
        """Take all away, if anything is here. What a process leaves that is killed meanwhile is no whole store."""
        ...


def open_place(where: Where) -> Place:
    """The place at a path of this machine, or at "s3://bucket/path" (gs://, az://)."""
    scheme, colon, _ = str(where).partition("://")
    if not colon:
        return LocalPlace(Path(where))
    if scheme not in _SCHEMES:
        raise StoreError(f"{str(where)!r} is no place for a store: give a path, or a URL of {', '.join(_SCHEMES)}")
    from gensys.data.objects import ObjectPlace  # its library is an extra

    return ObjectPlace.at(str(where))


class LocalPlace:
    """A directory. A name appears by hard link, when its bytes are on the disk: that is atomic on NFS too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._drafts = path / ATTEMPTS

    def __str__(self) -> str:
        return str(self.path)

    def vacant(self) -> bool:
        """No such path, or an empty directory."""
        return not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir()))

    def create(self, files: Mapping[str, bytes]) -> None:
        """All files appear at once. A draft that is swept away was late: whoever seals has made the store already."""
        try:
            publish_directory(self.path, files)
        except FileNotFoundError:
            if self.vacant():
                raise

    def publish(self, name: str, data: bytes) -> bool:
        """Draft, fsync, link, fsync of the directory."""
        return self._give(name, lambda draft: write(draft, data), link)

    def adopt(self, name: str, other: Place, theirs: str) -> bool:
        """A further link to a file of a directory, where the disk is the same; else a copy."""
        if not isinstance(other, LocalPlace):
            return self.publish(name, other.read(theirs))
        source = other.path / theirs
        if not source.exists():  # or else it would seem that our draft is gone
            raise OSError(f"{str(source)!r} is not there: verify that store")
        return self._give(name, lambda draft: link_or_copy(source, draft), link)

    def replace(self, name: str, data: bytes) -> None:
        """Draft, fsync, rename, fsync of the directory."""
        self._give(name, lambda draft: write(draft, data), os.replace)

    def _give(self, name: str, fill: Callable[[Path], None], give: Callable[[Path, Path], bool | None]) -> bool:
        target = self.path / name
        for left in reversed(range(_TRIES)):
            draft = self._drafts / uuid.uuid4().hex
            try:
                self._make(target.parent)
                self._drafts.mkdir(exist_ok=True)
                fill(draft)
                given = give(draft, target) is not False
                sync_directory(target.parent)  # of another's name too, which we rely on from here
                return given
            except FileNotFoundError:  # swept away under our hands, the draft or an empty folder: see `sweep`
                if not left:
                    raise
            finally:
                draft.unlink(missing_ok=True)
        raise AssertionError("unreachable")

    def _make(self, folder: Path) -> None:
        """A folder and those above it, each of them on the disk."""
        if not folder.is_dir():
            self._make(folder.parent)
            folder.mkdir(exist_ok=True)
            sync_directory(folder.parent)

    def read(self, name: str) -> bytes:
        """A file's content."""
        return (self.path / name).read_bytes()

    def open(self, name: str, digest: str) -> BinaryIO:
        """The file itself."""
        return open(self.path / name, "rb")

    def measure(self, name: str) -> tuple[int, str] | None:
        """Reads in pieces."""
        try:
            return (self.path / name).stat().st_size, digest_file(self.path / name)
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.path / name).exists()

    def list(self, folder: str) -> Iterator[str]:
        """One look at every directory: half a second for the markers of a billion rows."""
        try:
            entries = os.scandir(self.path / folder)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                name = f"{folder}/{entry.name}"
                if entry.is_dir():
                    yield from self.list(name)
                else:
                    yield name

    def remove(self, names: Iterable[str]) -> None:
        """Takes folders away as well that are empty now."""
        folders = set()
        for name in names:
            (self.path / name).unlink(missing_ok=True)
            folders.add((self.path / name).parent)
        while folders:
            folder = folders.pop()
            with contextlib.suppress(FileNotFoundError):
                sync_directory(folder)
            with contextlib.suppress(OSError):  # not empty, or another process was faster
                folder.rmdir()
                folders.add(folder.parent)

    def sweep(self) -> None:
        """Drafts of files here, and of whole stores beside."""
        shutil.rmtree(self._drafts, ignore_errors=True)
        self._sweep_beside()

    def _sweep_beside(self) -> None:
        for draft in drafts_of(self.path):
            shutil.rmtree(draft, ignore_errors=True)

    def clear(self) -> None:
        """First the name, so that no half of a store is ever taken for a whole."""
        gone = self.path.with_name(f".{self.path.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        if self.path.exists():
            self.path.rename(gone)
            shutil.rmtree(gone)
        self._sweep_beside()
        sync_directory(self.path.parent)
