"""A sharded Zarr v3 store that many processes fill at once, that any of them may leave at any instant, and that ends
with the same bytes whoever wrote them.

The unit is the shard. A writer publishes the files of a shard, each of them whole and durable before it has its name,
and the commit marker last. So a shard is either committed, with its content on the disk, or not there. Two writers of
one shard are harmless: the same inputs give the same bytes, the second finds the commit and compares digests, and a
difference is an error, since it means that the producer is not repeatable. No lock is held and no process has to be
alive or believed dead.

Shard files are only ever added, with one exception: one without a commit whose content is not what its shard must hold
is replaced atomically. So `repair` only takes commits back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from gensys.data import layout
from gensys.data.commits import Commits
from gensys.data.layout import GROUP, KEY, LEASES, ArraySpec, Config, differences
from gensys.data.place import Place, open_place
from gensys.data.verify import Problem, check_index, check_metadata, check_shard
from gensys.data.window import Window
from gensys.durable import digest, explained
from gensys.errors import NondeterminismError, OtherStoreError, StoreError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ArraySpec", "Problem", "Store"]

_OPEN_SHARDS = 8192  # memory maps kept for each array: Linux allows a process 65,530


class Store:
    """A store at a place. Make one with `Store.create` or `Store.open`; it pickles as its place.

    place: where its files lie. config: as created. commits: what is committed. fingerprint: hex digest of the
    configuration, repeated in every commit marker.
    """

    def __init__(self, place: Place, config: Config) -> None:
        self.place, self.config = place, config
        self.fingerprint = config.fingerprint
        self.commits = Commits(place, config)
        self._window = cache(self._open_window)

    def __reduce__(self) -> tuple[Any, ...]:
        return Store.open, (str(self.place),)

    def __len__(self) -> int:
        """Rows in all."""
        return self.config.rows

    def __repr__(self) -> str:
        arrays = ", ".join(f"{n} {s.dtype}{list(s.shape)}" for n, s in self.config.arrays.items())
        return f"Store({str(self.place)!r}: {len(self)} rows of {arrays}; {self.config.shards} shards)"

    @property
    def where(self) -> str:
        """What `open` takes: a path or a URL."""
        return str(self.place)

    @property
    def path(self) -> Path:
        """Where a store on this machine lies; of any other, a path with the same last name."""
        return Path(str(self.place))

    @classmethod
    def create(
        cls,
        path: str | Path,
        arrays: Mapping[str, ArraySpec],
        rows: int,
        shard: int,
        chunk: int,
        attributes: Mapping[str, Any],
        summaries: Mapping[str, ArraySpec] | None = None,
    ) -> Store:
        """Create the store, or open it if it is there with this very configuration; any number of processes may race.

        path: a path, or a URL such as "s3://bucket/path.zarr" (see objects.py). The others are those of `Config`.
        Raises StoreError if they are out of range, if `path` is something else than a store, or if it cannot be
        written; OtherStoreError, with both values, if its configuration differs.
        """
        place, config = open_place(path), Config(dict(arrays), rows, shard, chunk, attributes, dict(summaries or {}))
        with explained(place, "creating files"):
            if place.vacant():
                place.create(layout.documents(config, content=None, final={}))
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
        place = open_place(path)
        try:
            attributes = json.loads(place.read(GROUP))["attributes"]
            return cls(place, Config.from_group(attributes))
        except (FileNotFoundError, NotADirectoryError) as error:
            with explained(place, "looking at what is there"):  # a bucket that is not there is an error only here
                found = "nothing is there" if place.vacant() else f"it holds no {GROUP}"
            raise StoreError(f"{str(path)!r} is not a store: {found}. Name a store, or an unused path") from error
        except OSError as error:
            raise StoreError(f"the store {str(path)!r} cannot be read: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{str(path)!r} holds Zarr data of another writer (no whole {KEY!r})") from error
        except StoreError as error:
            raise StoreError(f"{str(path)!r}: {error}") from error
        except ValueError as error:
            raise StoreError(f"the metadata {GROUP!r} of {str(path)!r} are damaged: {error}") from error

    @property
    def attributes(self) -> dict[str, Any]:
        """What `create` and `seal` were given, as it is on disk now."""
        return {k: v for k, v in self._group().items() if k != KEY}

    @property
    def sealed(self) -> bool:
        """Whether `seal` has completed the store."""
        return self._content() is not None

    def content(self) -> str:
        """Hex digest of the content of a sealed store, from the index of its digests; StoreError if not sealed."""
        content = self._content()
        if content is None:
            raise StoreError(f"the store {str(self.place)!r} is not sealed: finish what makes it")
        return content

    def _content(self) -> str | None:
        return self._group()[KEY]["content"]

    def _group(self) -> dict[str, Any]:
        with explained(self.place, "reading the metadata"):
            return json.loads(self.place.read(GROUP))["attributes"]

    def rows_of(self, shard: int) -> range:
        """The rows that a shard holds; IndexError if there is no such shard."""
        if not 0 <= shard < self.config.shards:
            raise IndexError(f"'shard' must lie in [0, {self.config.shards}), got {shard}")
        return range(shard * self.config.shard, min((shard + 1) * self.config.shard, self.config.rows))

    def done(self) -> set[int]:
        """The shards that are committed."""
        with explained(self.place, "reading the commits"):
            return self.commits.done()

    def missing(self) -> list[int]:
        """The shards that are not committed, in order."""
        return sorted(set(range(self.config.shards)) - self.done())

    def committed(self, shard: int) -> bool:
        """Whether a shard is committed, as it is now."""
        with explained(self.place, "reading the commits"):
            return self.place.exists(layout.marker_file(shard)) or self.commits.holds(shard)

    # -- writing ------------------------------------------------------------------------------------------------------

    def commit(self, shard: int, arrays: Mapping[str, npt.NDArray[Any]]) -> bool:
        """Publish one shard: True if this call did, False if it was there with the same content.

        arrays: every array of the store by name, (len(rows_of(shard)), *shape), of its exact dtype; every summary,
        (1, *shape).
        Raises NondeterminismError if the shard is there with other content, StoreError if the arrays do not fit or the
        disk refuses; in every case the shard is then either committed by somebody, whole, or not there.
        """
        blocks = self._checked(shard, arrays)
        config = self.config
        files = {n: layout.encode(config.files[n], *config.sizes(n)[1:], block) for n, block in blocks.items()}
        digests = {name: digest(data) for name, data in files.items()}
        with explained(self.place, f"committing shard {shard}"):
            publish = lambda name, target: self.place.publish(target, files[name])  # noqa: E731
            return self._publish(shard, digests, publish, files.__getitem__) or self._agree(shard, digests)

    def adopt(self, shard: int, other: Store) -> bool:
        """Publish a shard whose content is that of another store; on one disk as further names of its files.

        Returns as `commit` does, and raises as it does; StoreError too if the two stores' arrays differ.
        """
        sizes = [(s.config.shard, s.config.chunk, len(s.rows_of(shard))) for s in (self, other)]
        if not (self.like(other) and sizes[0] == sizes[1]):
            raise StoreError(f"shard {shard} of {str(other.place)!r} cannot be one of {str(self.place)!r}: they differ")
        digests = other.record(shard)["digests"]
        there = lambda name: other.shard_file(name, shard)  # noqa: E731
        with explained(self.place, f"adopting shard {shard}"):
            publish = lambda name, target: self.place.adopt(target, other.place, there(name))  # noqa: E731
            read = lambda name: other.place.read(there(name))  # noqa: E731
            return self._publish(shard, digests, publish, read) or self._agree(shard, digests)

    def like(self, other: Store) -> bool:
        """Whether the two stores have the same arrays and summaries."""
        return (self.config.arrays, self.config.summaries) == (other.config.arrays, other.config.summaries)

    def _checked(self, shard: int, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        count = len(self.rows_of(shard))
        if set(arrays) != set(self.config.files):
            raise StoreError(f"'arrays' must be {sorted(self.config.files)}, got {sorted(arrays)}")
        for name, spec in self.config.files.items():
            wanted, block = (1 if name in self.config.summaries else count, *spec.shape), arrays[name]
            if block.shape != wanted or block.dtype != np.dtype(spec.dtype):
                raise StoreError(
                    f"{name!r} of shard {shard} must be {wanted} of {spec.dtype}, got {block.shape} of {block.dtype}"
                )
        return {name: arrays[name] for name in sorted(arrays)}

    def _publish(
        self,
        shard: int,
        digests: Mapping[str, str],
        publish: Callable[[str, str], bool],
        read: Callable[[str], bytes],
    ) -> bool:
        """publish: puts the file of an array at a target, if nothing is there. read: what it holds."""
        if self.committed(shard):
            return False
        for name in sorted(digests):
            target = self.shard_file(name, shard)
            if publish(name, target):
                continue
            measured = self.place.measure(target)
            if measured is None or measured[1] != digests[name]:
                # Left there by a writer that died before its commit, and torn by whatever took it; or just committed.
                if self.committed(shard):
                    return False
                self.place.replace(target, read(name))
        return self.commits.publish(shard, digests)

    def _agree(self, shard: int, digests: Mapping[str, str]) -> bool:
        """False, as `commit` returns it for a shard that is there; NondeterminismError if its digests are not ours."""
        theirs = self.record(shard)["digests"]
        different = sorted(name for name in digests if theirs.get(name) != digests[name])
        if different:
            raise NondeterminismError(
                f"shard {shard} of the store {str(self.place)!r} was made twice and {', '.join(map(repr, different))} "
                "came out different: the producer is not repeatable (other hardware, other library versions, or random "
                "numbers that depend on the worker). Verify the store, and make it on machines of one kind"
            )
        return False

    def seal(self, attributes: Mapping[str, Any]) -> None:
        """Complete the store: gather all commits in the index, add `attributes`, consolidate the metadata, sweep.

        Atomic and repeatable. Raises StoreError if shards are missing, if an attribute is there with another value, or
        if the store was sealed with other attributes.
        """
        missing, final = self.missing(), layout.plain(attributes)
        if missing:
            raise StoreError(
                f"the store {str(self.place)!r} lacks {len(missing)} of {self.config.shards} shards "
                f"(first: {missing[0]}): commit them before sealing"
            )
        group = self._group()
        sealed = group[KEY]["content"] is not None
        there = {k: v for k, v in group.items() if k in self.config.attributes or (sealed and k != KEY)}
        for name in final.keys() & there.keys():
            if final[name] != there[name]:
                raise StoreError(
                    f"'attributes' has {name!r} = {final[name]}, the store has {there[name]}: make them agree"
                )
        if sealed and not final.keys() <= there.keys():
            raise StoreError(f"the store {str(self.place)!r} is sealed, without {sorted(final.keys() - there.keys())}")
        with explained(self.place, "sealing"):
            self.place.sweep()
            if not sealed:
                content = self.commits.gather()
                final = {k: v for k, v in final.items() if k not in self.config.attributes}
                self._describe(content, final)
                self.place.sweep()
            self.commits.remove_markers()
            self.place.remove([*self.place.list(LEASES)])

    def _describe(self, content: str | None, final: Mapping[str, Any]) -> None:
        """Write the metadata anew, that of the group last: what it says of the others is then true."""
        files = layout.documents(self.config, content, final)
        for name in sorted(files, key=lambda name: name == GROUP):
            self.place.replace(name, files[name])

    def digests(self) -> npt.NDArray[np.uint8]:
        """The digests of all shard files, (shards, arrays, 16), arrays in the order of their names."""
        with explained(self.place, "reading the commits"):
            return self.commits.digests()

    # -- checking -----------------------------------------------------------------------------------------------------

    def verify(self, shards: Iterable[int] | None = None) -> list[Problem]:
        """Read the files of the given shards (all) and compare them with their commits; [] = all is well.

        Finds missing commits and files, wrong sizes, any flipped bit, markers of another configuration, and, in a
        sealed store, a damaged index. Several processes may each take some of the shards.
        """
        found: list[Problem] = []
        with explained(self.place, "verifying"):
            self.commits.refresh()
            for shard in range(self.config.shards) if shards is None else shards:
                found += check_shard(self, shard)
            if shards is None:
                found += check_metadata(self) + check_index(self)
        return found

    def repair(self, problems: Sequence[Problem] | None = None) -> list[int]:
        """Take back the commitments of the shards in `problems` (`verify()`), so that their producer makes them again.

        Returns their numbers. A sealed store is unsealed first, and is to be sealed again when they are made.
        """
        problems = self.verify() if problems is None else problems
        bad = sorted({p.shard for p in problems if p.shard is not None})
        with explained(self.place, "repairing"):
            if problems:
                # In this order: a store that is sealed lacks no shard.
                self._describe(content=None, final={})
                # Not the files: a writer may be publishing this shard again already, and replaces what is not right.
                self.commits.take_back(bad)
        self._window.cache_clear()
        return bad

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, name: str, rows: Tensor | npt.NDArray[np.int64] | Sequence[int] | range) -> npt.NDArray[Any]:
        """Rows of one array, in the order asked for: (len(rows), *shape), a copy.

        Read through memory maps, so memory stays flat. Raises KeyError for an unknown name, IndexError for a row out of
        range, StoreError for a shard that is not committed or not whole.
        """
        return self.read_many((name,), rows)[0]

    def read_many(
        self, names: Sequence[str], rows: Tensor | npt.NDArray[np.int64] | Sequence[int] | range
    ) -> list[npt.NDArray[Any]]:
        """The same rows of several arrays, in the order of `names`: see `read`."""
        wanted = np.asarray(rows)
        if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
            raise IndexError(f"'rows' must be a 1-D sequence of integers, got {wanted.shape} of {wanted.dtype}")
        low, high = (int(wanted.min()), int(wanted.max())) if wanted.size else (0, 0)
        if low < 0 or high >= len(self):
            raise IndexError(f"'rows' must lie in [0, {len(self)}), got {low}..{high}")
        shard, row = np.divmod(wanted.astype(np.int64, copy=False), self.config.shard)
        found = []
        for name in names:
            spec = self.config.arrays.get(name)
            if spec is None:
                raise KeyError(f"'name' must be one of {sorted(self.config.arrays)}, got {name!r}")
            with explained(self.place, f"reading {name!r}"):
                taken = self._window(name).take(shard, row)  # a row is one item: half the time of an array's
            found.append(taken.view(layout.stored_dtype(spec)).reshape(wanted.size, *spec.shape))
        return found

    def _open_window(self, name: str) -> Window:
        spec, rows, chunk = self.config.arrays[name], self.config.shard, self.config.chunk
        size, opened = layout.shard_bytes(spec, rows, chunk), partial(self._open_shard, name)
        return Window(self.config.shards, rows, layout.row_dtype(spec), size, opened, _OPEN_SHARDS)

    def _open_shard(self, name: str, shard: int) -> BinaryIO:
        record = self.commits.record(shard)
        if record is None:
            raise StoreError(f"shard {shard} of the store {str(self.place)!r} is not committed: finish the store")
        target = self.shard_file(name, shard)
        try:
            file = self.place.open(target, record["digests"][name])
        except OSError as error:
            raise StoreError(f"shard {shard} of the store {str(self.place)!r} cannot be read: {error}") from error
        try:
            layout.check_file(file, f"{self.place}/{target}", self.config, name)
        except StoreError:
            file.close()
            raise
        return file

    def shard_file(self, name: str, shard: int) -> str:
        """Where a shard of an array lies, in the place."""
        return layout.shard_file(name, shard, len(self.config.files[name].shape))

    def file(self, name: str, shard: int) -> Path:
        """Where a shard of an array lies, for a store on this machine."""
        return self.path / self.shard_file(name, shard)

    def marker(self, shard: int) -> Path:
        """Where the commit marker of a shard lies until the store is sealed, for a store on this machine."""
        return self.path / layout.marker_file(shard)

    def record(self, shard: int) -> dict[str, Any]:
        """What is committed of a shard, {"shard", "rows", "fingerprint", "digests"}.

        Raises StoreError if it is not committed, or if its marker is damaged.
        """
        record = self.commits.record(shard)
        if record is None:
            raise StoreError(f"shard {shard} of the store {str(self.place)!r} is not committed: finish the store")
        return record
