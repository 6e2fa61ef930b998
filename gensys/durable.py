"""Files that survive a crash: written whole, flushed to the disk, and published by a hard link.

A name appears only when its content is on the disk, and never replaces another writer's work by accident: `link`
refuses an existing name, which is what makes publishing exactly-once on any POSIX file system, NFS included.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gensys.errors import StoreError

__all__ = [
    "digest",
    "digest_file",
    "drafts_of",
    "exchange",
    "explained",
    "link",
    "link_or_copy",
    "publish_directory",
    "replace",
    "supersede",
    "sync_directory",
    "with_digest",
    "without_digest",
    "write",
]

_DIGEST_BYTES = 16
_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space and run again; what is committed is kept",
    errno.EDQUOT: "the disk quota is used up: free some space and run again; what is committed is kept",
    errno.EFBIG: "the file is larger than this process may write: raise `ulimit -f` or use smaller shards",
    errno.EROFS: "the file system is read-only: choose another place",
    errno.EACCES: "no permission to write here: change the directory's permissions or choose another place",
    errno.EPERM: "the file system refused (permissions, or it has no hard links): choose another place",
    errno.EOPNOTSUPP: "the file system has no hard links: choose another place",
}


@contextmanager
def explained(store: object, doing: str) -> Iterator[None]:
    """Turn an OSError of the block into a StoreError that names the store, what was being done, and the remedy."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "look at the path and run again")
        raise StoreError(f"{doing} in {str(store)!r} failed with {error}: {remedy}") from error


def digest(data: bytes | memoryview) -> str:
    """BLAKE2b with 16 bytes, in hex: 1 GB/s without a dependency."""
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def digest_file(path: Path) -> str:
    """`digest` of a file's content, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).hexdigest()


def with_digest(document: Mapping[str, Any]) -> bytes:
    """A JSON document as text for people, with a digest of all the rest in it: `without_digest` sees a flipped bit."""
    return (json.dumps({**document, "digest": _digest_of(document)}, indent=2) + "\n").encode()


def without_digest(document: Any) -> Any:
    """What `with_digest` was given, from what is read; ValueError if it is not that. Other documents pass as they are.

    A digest that is gone means nothing: damage to its name alone leaves the rest as it was.
    """
    if not isinstance(document, dict) or "digest" not in document:
        return document
    rest = {name: value for name, value in document.items() if name != "digest"}
    if document["digest"] != _digest_of(rest):
        raise ValueError("its content does not match its digest: damaged, or edited")
    return rest


def _digest_of(document: Mapping[str, Any]) -> str:
    return digest(json.dumps(document, sort_keys=True).encode())


def write(path: Path, data: bytes | memoryview) -> None:
    """Write a new file and flush it to the disk; FileExistsError if the name is taken."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes | memoryview) -> None:
    """Give a file new content, whole and on the disk: a reader, or a crash, sees the old content or the new."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        write(part, data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    sync_directory(path.parent)


def link(source: Path, target: Path) -> bool:
    """Give `source` the second name `target`: True if this call did, False if the name was already taken."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    return True


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that never changes a further name, or copy it where the file system has no links (or no more)."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise
        shutil.copyfile(source, target)
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux: fcntl.h, linux/fs.h


def exchange(a: Path, b: Path) -> bool:
    """Let two paths change places at one instant: True, or False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(a), None, str(b))


def supersede(new: Path, path: Path, old: Path) -> None:
    """`new` takes the place of `path`, which is `old` then: at one instant, or where the system cannot, by two renames
    between which nothing is at `path`."""
    if exchange(new, path):
        os.rename(new, old)
    else:
        os.rename(path, old)
        os.rename(new, path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Flush a directory's names to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def drafts_of(path: Path) -> list[Path]:
    """What `publish_directory` has written of `path`, here or in other processes, and not yet made appear.

    Not those of another path whose name begins alike.
    """
    return list(path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 32}.creating"))


def publish_directory(path: Path, files: Mapping[str, bytes]) -> None:
    """Make a directory of files appear at once; if another process made it first, leave that one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.name}.{uuid.uuid4().hex}.creating"
    try:
        for name, data in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            write(draft / name, data)
            sync_directory((draft / name).parent)
        sync_directory(draft)
        try:
            os.rename(draft, path)  # fails if the target is a directory that holds anything
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) and not (path / "zarr.json").exists():
                raise
        sync_directory(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
