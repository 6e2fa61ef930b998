"""A sharded Zarr v3 store that many processes fill at once, that any of them may leave at any instant, and that ends
with the same bytes whoever wrote them.

The unit is the shard. A writer prepares the files of a shard in a directory of its own, flushes them, gives them their
names by hard link, flushes the directories, and publishes the commit marker last, again by link. So a shard is either
committed, with its content on the disk, or not there. Two writers of one shard are harmless: the same inputs give the
same bytes, the second finds the marker and compares digests, and a difference is an error, since it means that the
producer is not repeatable. No lock is held and no process has to be alive or believed dead.

Files are only ever added, with one exception: a file without a marker whose content is not what its shard must hold is
replaced atomically. So `repair` only takes markers away.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gensys.data import layout
from gensys.data.layout import ATTEMPTS, COMMITS, DIGEST_BYTES, DIGESTS, KEY, ArraySpec, Config, differences
from gensys.data.verify import Problem, check_index, check_metadata, check_shard
from gensys.durable import (
    digest,
    digest_file,
    explained,
    link,
    link_or_copy,
    publish_directory,
    sync_directory,
    write,
)
from gensys.errors import NondeterminismError, OtherStoreError, StoreError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ArraySpec", "Problem", "Store"]

_OPEN_SHARDS = 8192  # memory maps kept: Linux allows a process 65,530


class Store:
    """A store on disk. Make one with `Store.create` or `Store.open`; it pickles as its path.

    path, config: as created. fingerprint: hex digest of the configuration, repeated in every commit marker.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.config = config
        self.fingerprint = config.fingerprint
        self._map = lru_cache(maxsize=_OPEN_SHARDS)(self._map_shard)

    def __reduce__(self) -> tuple[Any, ...]:
        return Store.open, (self.path,)

    def __len__(self) -> int:
        """Rows in all."""
        return self.config.rows

    def __repr__(self) -> str:
        arrays = ", ".join(f"{n} {s.dtype}{list(s.shape)}" for n, s in self.config.arrays.items())
        return f"Store({str(self.path)!r}: {len(self)} rows of {arrays}; {self.config.shards} shards)"

    @classmethod
    def create(
        cls,
        path: str | Path,
        arrays: Mapping[str, ArraySpec],
        rows: int,
        shard: int,
        chunk: int,
        attributes: Mapping[str, Any],
    ) -> Store:
        """Create the store, or open it if it is there with this very configuration; any number of processes may race.

        The arguments are those of `Config`. Raises StoreError if they are out of range, if `path` is something else
        than a store, or if it cannot be written; OtherStoreError, with both values, if its configuration differs.
        """
        path, config = Path(path), Config(dict(arrays), rows, shard, chunk, attributes)
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            with explained(path, "creating files"):
                publish_directory(path, layout.documents(config, sealed=False, final={}))
        store = cls.open(path)
        different = list(differences(store.config.document(), config.document()))
        if different:
            raise OtherStoreError(
                f"the store {str(path)!r} was created for something else: {'; '.join(different[:4])}. "
                "Choose another path, or remove the store to make it anew"
            )
        return store

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a store, complete or not. Raises StoreError if there is none at `path` or its metadata are damaged."""
        path = Path(path)
        try:
            attributes = json.loads((path / "zarr.json").read_bytes())["attributes"]
            return cls(path, Config.from_group(attributes))
        except (FileNotFoundError, NotADirectoryError) as error:
            found = "nothing is there" if not path.exists() else "it holds no zarr.json"
            raise StoreError(f"{str(path)!r} is not a store: {found}. Name a store, or an unused path") from error
        except OSError as error:
            raise StoreError(f"the store {str(path)!r} cannot be read: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{str(path)!r} holds Zarr data of another writer (no whole {KEY!r})") from error
        except StoreError as error:
            raise StoreError(f"{str(path)!r}: {error}") from error
        except ValueError as error:
            raise StoreError(f"the metadata {str(path / 'zarr.json')!r} are damaged: {error}") from error

    @property
    def attributes(self) -> dict[str, Any]:
        """What `create` and `seal` were given, as it is on disk now."""
        return {k: v for k, v in self._group().items() if k != KEY}

    @property
    def sealed(self) -> bool:
        """Whether `seal` has completed the store."""
        return self._group()[KEY]["sealed"]

    def content(self) -> str:
        """Hex digest of the content of a sealed store, from the index of its digests; StoreError if not sealed."""
        index = self.path / layout.shard_file(DIGESTS, 0, 2)
        if not (self.sealed and index.is_file()):
            raise StoreError(f"the store {str(self.path)!r} is not sealed: finish what makes it")
        return digest_file(index)

    def _group(self) -> dict[str, Any]:
        with explained(self.path, "reading the metadata"):
            return json.loads((self.path / "zarr.json").read_bytes())["attributes"]

    def rows_of(self, shard: int) -> range:
        """The rows that a shard holds; IndexError if there is no such shard."""
        if not 0 <= shard < self.config.shards:
            raise IndexError(f"'shard' must lie in [0, {self.config.shards}), got {shard}")
        return range(shard * self.config.shard, min((shard + 1) * self.config.shard, self.config.rows))

    def done(self) -> set[int]:
        """The shards that are committed, from the names of their markers."""
        with explained(self.path, "reading the commits"):
            return {int(p.stem) for p in (self.path / COMMITS).glob("*/[0-9]*.json")}

    def missing(self) -> list[int]:
        """The shards that are not committed, in order."""
        return sorted(set(range(self.config.shards)) - self.done())

    # -- writing ------------------------------------------------------------------------------------------------------

    def commit(self, shard: int, arrays: Mapping[str, npt.NDArray[Any]]) -> bool:
        """Publish one shard: True if this call did, False if it was there with the same content.

        arrays: every array of the store by name, (len(rows_of(shard)), *shape), of its exact dtype.
        Raises NondeterminismError if the shard is there with other content, StoreError if the arrays do not fit or the
        disk refuses; in every case the shard is then either committed by somebody, whole, or not there.
        """
        blocks = self._checked(shard, arrays)
        sizes = (self.config.shard, self.config.chunk)
        files = {name: layout.encode(self.config.arrays[name], *sizes, block) for name, block in blocks.items()}
        digests = {name: digest(data) for name, data in files.items()}
        if self.marker(shard).exists():
            return self._agree(shard, digests)
        attempt = self.path / ATTEMPTS / uuid.uuid4().hex
        try:
            with explained(self.path, f"committing shard {shard}"):
                published = self._publish(shard, files, digests, attempt)
        except StoreError as error:
            # Whoever sealed the store swept our attempt away, which they only do when every shard is there.
            if not isinstance(error.__cause__, FileNotFoundError) or not self.marker(shard).exists():
                raise
            published = False
        finally:
            shutil.rmtree(attempt, ignore_errors=True)
        return published or self._agree(shard, digests)

    def adopt(self, shard: int, other: Store) -> bool:
        """Publish a shard whose content is that of another store, as further names of its files, without a byte read.

        Returns as `commit` does, and raises as it does; StoreError too if the two stores' arrays differ.
        """
        sizes = [(s.config.arrays, s.config.shard, s.config.chunk, len(s.rows_of(shard))) for s in (self, other)]
        if sizes[0] != sizes[1]:
            raise StoreError(f"shard {shard} of {str(other.path)!r} cannot be one of {str(self.path)!r}: they differ")
        digests = other.record(shard)["digests"]
        if self.marker(shard).exists():
            return self._agree(shard, digests)
        attempt = self.path / ATTEMPTS / uuid.uuid4().hex
        try:
            with explained(self.path, f"adopting shard {shard}"):
                files = {name: other.file(name, shard) for name in sorted(self.config.arrays)}
                return self._publish(shard, files, digests, attempt) or self._agree(shard, digests)
        finally:
            shutil.rmtree(attempt, ignore_errors=True)

    def _checked(self, shard: int, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        count = len(self.rows_of(shard))
        if set(arrays) != set(self.config.arrays):
            raise StoreError(f"'arrays' must be {sorted(self.config.arrays)}, got {sorted(arrays)}")
        for name, spec in self.config.arrays.items():
            wanted, block = (count, *spec.shape), arrays[name]
            if block.shape != wanted or block.dtype != np.dtype(spec.dtype):
                raise StoreError(
                    f"{name!r} of shard {shard} must be {wanted} of {spec.dtype}, got {block.shape} of {block.dtype}"
                )
        return {name: arrays[name] for name in sorted(arrays)}

    def _publish(
        self, shard: int, files: Mapping[str, bytes | Path], digests: Mapping[str, str], attempt: Path
    ) -> bool:
        attempt.mkdir(parents=True)
        for name, data in files.items():
            if isinstance(data, Path):
                link_or_copy(data, attempt / name)
            else:
                write(attempt / name, data)
        for name in files:
            target = self.file(name, shard)
            if not link(attempt / name, target) and digest_file(target) != digests[name]:
                # Left there without a marker by a writer that is gone, and torn by whatever took it.
                os.replace(attempt / name, target)
            sync_directory(target.parent)
        marker = self.marker(shard)
        with contextlib.suppress(FileExistsError):
            marker.parent.mkdir(parents=True)
            sync_directory(marker.parent.parent)
            sync_directory(marker.parent.parent.parent)
        rows = len(self.rows_of(shard))
        record = {"shard": shard, "rows": rows, "fingerprint": self.fingerprint, "digests": dict(digests)}
        write(attempt / "marker", json.dumps(record, sort_keys=True).encode())
        published = link(attempt / "marker", marker)
        sync_directory(marker.parent)
        return published

    def _agree(self, shard: int, digests: Mapping[str, str]) -> bool:
        """False, as `commit` returns it for a shard that is there; NondeterminismError if its digests are not ours."""
        theirs = self.record(shard)["digests"]
        different = sorted(name for name in digests if theirs.get(name) != digests[name])
        if different:
            raise NondeterminismError(
                f"shard {shard} of the store {str(self.path)!r} was made twice and {', '.join(map(repr, different))} "
                "came out different: the producer is not repeatable (other hardware, other library versions, or random "
                "numbers that depend on the worker). Verify the store, and make it on machines of one kind"
            )
        return False

    def seal(self, attributes: Mapping[str, Any]) -> None:
        """Complete the store: index every digest, add `attributes`, consolidate the metadata, sweep dead attempts.

        Atomic and repeatable. Raises StoreError if shards are missing, if an attribute is there with another value, or
        if the store was sealed with other attributes.
        """
        missing, final = self.missing(), layout.plain(attributes)
        if missing:
            raise StoreError(
                f"the store {str(self.path)!r} lacks {len(missing)} of {self.config.shards} shards "
                f"(first: {missing[0]}): commit them before sealing"
            )
        group = self._group()
        there = {k: v for k, v in group.items() if k in self.config.attributes or (group[KEY]["sealed"] and k != KEY)}
        for name in final.keys() & there.keys():
            if final[name] != there[name]:
                raise StoreError(
                    f"'attributes' has {name!r} = {final[name]}, the store has {there[name]}: make them agree"
                )
        if group[KEY]["sealed"] and not final.keys() <= there.keys():
            raise StoreError(f"the store {str(self.path)!r} is sealed, without {sorted(final.keys() - there.keys())}")
        with explained(self.path, "sealing"):
            self._sweep()
            for draft in self.path.parent.glob(f".{self.path.name}.*.creating"):
                shutil.rmtree(draft, ignore_errors=True)
            if not group[KEY]["sealed"]:
                index = layout.shard_file(DIGESTS, 0, 2)
                self._replace(index, layout.encode_index(self.digests()))
                final = {k: v for k, v in final.items() if k not in self.config.attributes}
                self._replace("zarr.json", layout.documents(self.config, sealed=True, final=final)["zarr.json"])
                self._sweep()

    def _sweep(self) -> None:
        shutil.rmtree(self.path / ATTEMPTS, ignore_errors=True)

    def _replace(self, name: str, data: bytes) -> None:
        """Put a file in the place of another atomically."""
        for _ in range(10):
            draft = self.path / ATTEMPTS / uuid.uuid4().hex
            # Another process that seals sweeps the drafts, ours too; it does so twice, so we try again.
            with contextlib.suppress(FileNotFoundError):
                draft.parent.mkdir(exist_ok=True)
                write(draft, data)
                os.replace(draft, self.path / name)
                break
        else:
            raise StoreError(
                f"{name!r} of the store {str(self.path)!r} could not be written: its drafts keep vanishing"
            )
        sync_directory((self.path / name).parent)

    def digests(self) -> npt.NDArray[np.uint8]:
        """The digests in all commit markers, (shards, arrays, 16), arrays in the order of their names."""
        names = sorted(self.config.arrays)
        index = np.zeros((self.config.shards, len(names), DIGEST_BYTES), np.uint8)
        for shard in range(self.config.shards):
            digests = self.record(shard)["digests"]
            for column, name in enumerate(names):
                index[shard, column] = np.frombuffer(bytes.fromhex(digests[name]), np.uint8)
        return index

    # -- checking -----------------------------------------------------------------------------------------------------

    def verify(self, shards: Iterable[int] | None = None) -> list[Problem]:
        """Read the files of the given shards (all) and compare them with their markers; [] = all is well.

        Finds missing markers and files, wrong sizes, any flipped bit, markers of another configuration, and, in a
        sealed store, an index that is not that of the markers. Several processes may each take some of the shards.
        """
        found: list[Problem] = []
        with explained(self.path, "verifying"):
            for shard in range(self.config.shards) if shards is None else shards:
                found += check_shard(self, shard)
            if shards is None:
                found += check_metadata(self)
                if self.sealed and not found:
                    found += check_index(self)
        return found

    def repair(self, problems: Sequence[Problem] | None = None) -> list[int]:
        """Take back the commitments of the shards in `problems` (`verify()`), so that their producer makes them again.

        Returns their numbers. A sealed store is unsealed first, and is to be sealed again when they are made.
        """
        problems = self.verify() if problems is None else problems
        bad = sorted({p.shard for p in problems if p.shard is not None})
        with explained(self.path, "repairing"):
            if problems:
                for name, data in layout.documents(self.config, sealed=False, final={}).items():
                    self._replace(name, data)
            for shard in bad:
                # Not the files: a writer may be publishing this shard again already, and replaces what is not right.
                self.marker(shard).unlink(missing_ok=True)
            for directory in {self.marker(shard).parent for shard in bad}:
                if directory.is_dir():
                    sync_directory(directory)
        self._map.cache_clear()
        return bad

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, name: str, rows: Tensor | npt.NDArray[np.int64] | Sequence[int] | range) -> npt.NDArray[Any]:
        """Rows of one array, in the order asked for: (len(rows), *shape), a copy.

        Files are visited in order through memory maps, so memory stays flat. Raises KeyError for an unknown name,
        IndexError for a row out of range, StoreError for a shard that is not committed or not whole.
        """
        if name not in self.config.arrays:
            raise KeyError(f"'name' must be one of {sorted(self.config.arrays)}, got {name!r}")
        wanted = np.asarray(rows)
        if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
            raise IndexError(f"'rows' must be a 1-D sequence of integers, got {wanted.shape} of {wanted.dtype}")
        spec, size, count = self.config.arrays[name], self.config.shard, wanted.size
        place = wanted.argsort()
        ordered = wanted[place].astype(np.int64)
        if count and (ordered[0] < 0 or ordered[-1] >= len(self)):
            raise IndexError(f"'rows' must lie in [0, {len(self)}), got {ordered[0]}..{ordered[-1]}")
        out = np.empty(count, layout.row_dtype(spec))  # a row is one item: copied at once, half the time of an array's
        begin = 0
        while begin < count:
            shard = int(ordered[begin]) // size
            end = int(ordered.searchsorted((shard + 1) * size))
            out[place[begin:end]] = self._map(name, shard).take(ordered[begin:end] - shard * size)
            begin = end
        return out.view(layout.stored_dtype(spec)).reshape(count, *spec.shape)

    def _map_shard(self, name: str, shard: int) -> npt.NDArray[Any]:
        if not self.marker(shard).exists():
            raise StoreError(f"shard {shard} of the store {str(self.path)!r} is not committed: finish the store")
        spec = self.config.arrays[name]
        try:
            return layout.map_shard(self.file(name, shard), spec, self.config.shard, self.config.chunk)
        except OSError as error:
            raise StoreError(f"shard {shard} of the store {str(self.path)!r} cannot be read: {error}") from error

    def file(self, name: str, shard: int) -> Path:
        """Where a shard of an array lies."""
        return self.path / layout.shard_file(name, shard, len(self.config.arrays[name].shape))

    def marker(self, shard: int) -> Path:
        """Where the commit marker of a shard lies."""
        return self.path / COMMITS / f"{shard // 1000:03d}" / f"{shard:06d}.json"

    def record(self, shard: int) -> dict[str, Any]:
        """The content of a commit marker, {"shard", "rows", "fingerprint", "digests"}; StoreError if it is damaged."""
        try:
            record = json.loads(self.marker(shard).read_bytes())
            sizes = {len(bytes.fromhex(d)) for d in record["digests"].values()}
            if set(record["digests"]) == set(self.config.arrays) and sizes == {DIGEST_BYTES} and record["fingerprint"]:
                return record
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"the commit marker {str(self.marker(shard))!r} is damaged ({error}): repair") from error
        raise StoreError(f"the commit marker {str(self.marker(shard))!r} names other arrays: repair the store")
