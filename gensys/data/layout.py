"""What a store looks like on disk, and the two ways through it: zarr-python writes, a memory map reads (window.py).

    PATH/zarr.json                the group: consolidated metadata, the caller's attributes, and ours in "gensys_store"
    PATH/mean/zarr.json           one sharded array a name, (rows, *shape)
    PATH/mean/c.7.0.0.0           its shard 7: raw chunks in C order, then the index of the chunks with its crc32c
    PATH/moments/c.7.0.0          of a summary, (shards, *shape), the entry of shard 7: a file and a chunk of its own
    PATH/digests/zarr.json        an array too, (shards, arrays, 16) uint8: the digest of every shard file
    PATH/digests/c.0.0.0          its only chunk, the index of the commits
    PATH/digests/commits/000/     one commit marker a shard that the index lacks, a thousand in a directory
    PATH/digests/leases/          what the drivers at work say that they are at: hints (leases.py)
    PATH/digests/attempts/        where writers on this machine prepare what they publish

The bookkeeping lives inside an array because readers list the nodes of a group and warn of strangers, while nothing
lists what lies inside an array. Every shard file is whole, the last one included: rows beyond the end are zeros that no
reader shows, so all files of an array have one size, and a shorter one is torn.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import google_crc32c  # comes with zarr, which writes the checksums with it
import numpy as np
import numpy.typing as npt

from gensys.durable import digest
from gensys.errors import StoreError

if TYPE_CHECKING:
    import zarr
    from zarr.storage import MemoryStore

__all__ = [
    "ATTEMPTS",
    "COMMITS",
    "DIGESTS",
    "GROUP",
    "KEY",
    "LEASES",
    "ArraySpec",
    "Config",
    "check_file",
    "differences",
    "encode",
    "marker_file",
    "shard_file",
]

KEY = "gensys_store"
VERSION = 2  # 1 kept the markers of sealed stores
GROUP = "zarr.json"
DIGESTS = "digests"
COMMITS = f"{DIGESTS}/commits"
ATTEMPTS = f"{DIGESTS}/attempts"
LEASES = f"{DIGESTS}/leases"
DIGEST_BYTES = 16
_DTYPES = ("float16", "float32", "float64", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store. shape: of one row. dtype: a NumPy name, "float16", "int64", "uint8", ..."""

    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise StoreError(f"'dtype' must be one of {', '.join(_DTYPES)}, got {self.dtype!r}")
        if any(n < 1 for n in self.shape):
            raise StoreError(f"'shape' must hold positive lengths, got {self.shape}")
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


def differences(theirs: object, ours: object, at: str = "") -> Iterator[str]:
    """Where two JSON documents differ, each as "'a.b' is 1 there and 2 here"."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            yield from differences(theirs.get(key), ours.get(key), f"{at}.{key}" if at else key)
    elif theirs != ours:
        yield f"{at!r} is {json.dumps(theirs)} there and {json.dumps(ours)} here"


@dataclass(frozen=True)
class Config:
    """All that makes a store what it is; two producers may fill one store only if theirs are equal.

    arrays: by name. rows: in all. shard: rows per file, a multiple of chunk. chunk: rows per chunk.
    attributes: JSON values that say where the content comes from (encoder, data set, seed, ...).
    summaries: arrays with one entry for each shard instead of each row, a file for each entry.
    """

    arrays: Mapping[str, ArraySpec]
    rows: int
    shard: int
    chunk: int
    attributes: Mapping[str, Any]
    summaries: Mapping[str, ArraySpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.arrays:
            raise StoreError("'arrays' must name at least one array, got none")
        for name in (*self.arrays, *self.summaries):
            if name == DIGESTS or not name.isidentifier():
                raise StoreError(f"'arrays' has the name {name!r}: use an identifier other than {DIGESTS!r}")
        if twice := self.arrays.keys() & self.summaries.keys():
            raise StoreError(f"'summaries' has the name {min(twice)!r}, which 'arrays' has too: use another")
        if self.rows < 1 or self.chunk < 1 or self.shard < 1 or self.shard % self.chunk:
            raise StoreError(
                "'rows', 'shard' and 'chunk' must be positive and 'shard' a multiple of 'chunk', got "
                f"{self.rows}, {self.shard} and {self.chunk}"
            )
        if KEY in self.attributes:
            raise StoreError(f"'attributes' may not use the key {KEY!r}, which the store keeps for itself")
        object.__setattr__(self, "attributes", plain(self.attributes))

    @property
    def shards(self) -> int:
        """How many shards hold the rows."""
        return -(-self.rows // self.shard)

    @property
    def files(self) -> dict[str, ArraySpec]:
        """All that a shard has a file of, by name: arrays and summaries."""
        return {**self.arrays, **self.summaries}

    def sizes(self, name: str) -> tuple[int, int, int]:
        """(entries in all, entries of a file, entries of a chunk) of an array or a summary."""
        return (self.shards, 1, 1) if name in self.summaries else (self.rows, self.shard, self.chunk)

    def file_bytes(self, name: str) -> int:
        """The size of every file of an array or a summary."""
        return shard_bytes(self.files[name], *self.sizes(name)[1:])

    def document(self) -> dict[str, Any]:
        """The configuration as JSON values, names sorted, so that equal configurations give equal text."""
        sizes = {"rows": self.rows, "shard": self.shard, "chunk": self.chunk}
        ours = {"version": VERSION, "arrays": _described(self.arrays), **sizes, "attributes": dict(self.attributes)}
        # absent, not empty: a store without summaries keeps the fingerprint that it had before there were any
        return ours | ({"summaries": _described(self.summaries)} if self.summaries else {})

    @property
    def fingerprint(self) -> str:
        """Hex digest of `document()`."""
        return digest(json.dumps(self.document(), sort_keys=True, allow_nan=False).encode())

    def group_attributes(self, content: str | None, final: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes of the group: the caller's at the top level, where Zarr readers look, and ours under KEY.

        content: the digest of the index of a sealed store, else None.
        """
        ours = self.document()
        ours["attributes"] = sorted(ours["attributes"])  # their names: the values stand beside
        return {**self.attributes, **final, KEY: {**ours, "fingerprint": self.fingerprint, "content": content}}

    @classmethod
    def from_group(cls, attributes: Mapping[str, Any]) -> Config:
        """The inverse of `group_attributes`; KeyError, TypeError or StoreError if they are not those of a store."""
        ours = attributes[KEY]
        if ours["version"] != VERSION:
            raise StoreError(
                f"the store's version is {ours['version']}, this gensys reads version {VERSION}: make the store anew"
            )
        arrays, summaries = (
            {n: ArraySpec(tuple(s["shape"]), s["dtype"]) for n, s in named.items()}
            for named in (ours["arrays"], ours.get("summaries", {}))
        )
        caller = {k: attributes[k] for k in ours["attributes"]}
        config = cls(arrays, ours["rows"], ours["shard"], ours["chunk"], caller, summaries)
        if config.fingerprint != ours["fingerprint"]:
            raise StoreError("the attributes were edited after the store was created; undo the edit")
        return config


def _described(specs: Mapping[str, ArraySpec]) -> dict[str, Any]:
    return {n: {"shape": list(s.shape), "dtype": s.dtype} for n, s in sorted(specs.items())}


def plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes as JSON gives them back (tuples become lists); StoreError if JSON cannot hold them."""
    try:
        return json.loads(json.dumps(dict(attributes), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise StoreError(f"'attributes' must be JSON values without NaN or infinity: {error}") from error


def marker_file(shard: int) -> str:
    """The path of a commit marker below the store."""
    return f"{COMMITS}/{shard // 1000:03d}/{shard:06d}.json"


def shard_file(name: str, shard: int, axes: int) -> str:
    """The path of a shard below the store: the chunk key with "." keeps every array's files in one directory."""
    return f"{name}/c.{shard}" + ".0" * axes


def _create(store: MemoryStore, name: str, rows: int, spec: ArraySpec, shard: int | None, chunk: int) -> zarr.Array:
    import zarr  # half a second that readers, who never need it, do not pay

    return zarr.create_array(
        store,
        name=name,
        shape=(rows, *spec.shape),
        shards=None if shard is None else (shard, *spec.shape),
        chunks=(chunk, *spec.shape),
        dtype=spec.dtype,
        compressors=None,
        filters=None,
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},  # chunks of zeros too, or the file could not be memory-mapped
    )


def documents(config: Config, content: str | None, final: Mapping[str, Any]) -> dict[str, bytes]:
    """Every zarr.json of the store by its path below the store, as zarr-python writes them, metadata consolidated.

    content, final: see `Config.group_attributes`.
    """
    import zarr
    from zarr.errors import ZarrUserWarning
    from zarr.storage import MemoryStore

    files: dict[str, Any] = {}
    memory = MemoryStore(files)
    zarr.create_group(memory, zarr_format=3, attributes=config.group_attributes(content, final))
    for name, spec in sorted(config.files.items()):
        _create(memory, name, config.sizes(name)[0], spec, *config.sizes(name)[1:])
    shape = (len(config.files), DIGEST_BYTES)
    index = _create(memory, DIGESTS, config.shards, ArraySpec(shape, "uint8"), None, config.shards)
    index.attrs["arrays"] = sorted(config.files)
    with warnings.catch_warnings():
        # zarr-python warns that consolidated metadata is an extension, which readers may ignore.
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(memory)
    return {path: buffer.to_bytes() for path, buffer in files.items()}


def encode(spec: ArraySpec, shard: int, chunk: int, rows: npt.NDArray[Any]) -> bytes:
    """The bytes of one shard file from its rows (at most `shard`, *shape), written by zarr-python in memory."""
    return _only_chunk(spec, shard, chunk, rows)


def decode(spec: ArraySpec, data: bytes) -> npt.NDArray[Any]:
    """The inverse of `encode` for a file of one entry, whose content is known to be whole: (*shape,)."""
    return np.frombuffer(data[: spec.row_bytes], stored_dtype(spec)).reshape(spec.shape)


def encode_index(digests: npt.NDArray[np.uint8]) -> bytes:
    """The bytes of the digests' only chunk, (shards, arrays, 16) uint8."""
    return _only_chunk(ArraySpec(digests.shape[1:], "uint8"), None, digests.shape[0], digests)


def _only_chunk(spec: ArraySpec, shard: int | None, chunk: int, rows: npt.NDArray[Any]) -> bytes:
    """An array of one chunk (or shard) does for any: what a file holds does not depend on its place in the array."""
    from zarr.storage import MemoryStore

    whole = np.zeros((shard or chunk, *spec.shape), spec.dtype)
    whole[: rows.shape[0]] = rows
    files: dict[str, Any] = {}
    array = _create(MemoryStore(files), "a", whole.shape[0], spec, shard, chunk)
    array[...] = whole
    return files[shard_file("a", 0, len(spec.shape))].to_bytes()


def shard_bytes(spec: ArraySpec, shard: int, chunk: int) -> int:
    """The size of every shard file: the rows, then 16 bytes a chunk and a crc32c of 4."""
    return shard * spec.row_bytes + shard // chunk * 16 + 4


def row_dtype(spec: ArraySpec) -> np.dtype[np.void]:
    """A whole row as one item."""
    return np.dtype((np.void, spec.row_bytes))


def stored_dtype(spec: ArraySpec) -> np.dtype[Any]:
    """The elements as they lie in a file, little-endian (the machine's own dtype on every common one)."""
    return np.dtype(spec.dtype).newbyteorder("<")


def check_file(file: BinaryIO, what: str, config: Config, name: str) -> None:
    """Raise StoreError unless a shard file of the array `name` can be read through a memory map: it is whole, and its
    index says that the chunks lie one after the other. Nothing is read in another way instead, which would be a hundred
    times slower in silence. what: how the error calls the file.
    """
    spec, (_, shard, chunk) = config.files[name], config.sizes(name)
    wanted = config.file_bytes(name)
    size = file.seek(0, os.SEEK_END)
    if size != wanted:
        raise StoreError(f"the shard file {what!r} has {size} bytes instead of {wanted}: verify and repair the store")
    file.seek(shard * spec.row_bytes)
    tail = file.read()
    index, crc = tail[:-4], tail[-4:]
    if google_crc32c.value(index) != int.from_bytes(crc, "little"):
        raise StoreError(f"the index of the shard file {what!r} is damaged: verify and repair the store")
    length = chunk * spec.row_bytes
    places = np.frombuffer(index, "<u8").reshape(-1, 2)
    if (places[:, 1] != length).any() or (places[:, 0] != np.arange(shard // chunk) * length).any():
        raise StoreError(f"the chunks of the shard file {what!r} do not lie in order: it was not written by gensys")
