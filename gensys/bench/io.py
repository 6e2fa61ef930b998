"""Rows of reading: batches of latents from a store, by its own reader and by zarr-python, and from one plain file."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gensys.bench.peers import library
from gensys.bench.row import Candidates, Row, Scope
from gensys.bench.timing import Call
from gensys.data.store import ArraySpec, Store

__all__ = ["rows"]

Rows = npt.NDArray[np.int64]

_ROWS, _SHARD, _CHUNK, _BATCH = 16384, 4096, 64, 128
_SHAPE = (4, 16, 16)
_BATCHES = 16  # different ones, in turns


def rows(scope: Scope) -> Iterator[Row]:
    """Rows in a random order, as training takes them, and in the order of the store, as encoding does."""
    count = 256 if scope.quick else _ROWS
    for name, shuffled in (("read shuffled batches", True), ("read ordered batches", False)):
        text = f"{_BATCH} of {count}x{'x'.join(map(str, _SHAPE))}"
        yield Row(name, text, "float16", lambda scope, s=shuffled, count=count: _read(scope, s, count))


def _read(scope: Scope, shuffled: bool, count: int) -> Candidates:
    import zarr

    generator = np.random.default_rng(0)
    data = generator.standard_normal((count, *_SHAPE), np.float32).astype(np.float16)
    order = generator.permutation(count) if shuffled else np.arange(count)
    batches = [np.resize(np.roll(order, -k * _BATCH), _BATCH) for k in range(_BATCHES)]

    folder = Path(tempfile.mkdtemp(prefix="gensys-bench-"))
    store = _filled(folder / "store.zarr", data, min(_SHARD, count))
    array: Any = zarr.open_array(folder / "store.zarr" / "mean", mode="r")
    peers = {"mosaicml mds": _each(_mds(folder / "mds", data), batches)} if scope.peers else {}
    data.tofile(folder / "plain")
    plain = np.memmap(folder / "plain", np.float16, "r", shape=data.shape)
    return Candidates(
        ours={"gensys": _each(lambda rows: store.read("mean", rows), batches)},
        peers={
            "zarr-python": _each(lambda rows: array.get_orthogonal_selection((rows,)), batches),
            "numpy memmap": _each(lambda rows: plain[rows], batches),
            **peers,
        },
        error=lambda result: float((result != data[batches[-1]]).sum()),
        tolerance=0.0,
        steps=_BATCHES,
        close=lambda: shutil.rmtree(folder),
    )


def _each(read: Callable[[Rows], npt.NDArray[Any]], batches: Sequence[Rows]) -> Call:
    """All batches, one after the other; what is returned is the last one."""

    def call() -> npt.NDArray[Any]:
        last = read(batches[0])
        for batch in batches[1:]:
            last = read(batch)
        return last

    return call


def _mds(path: Path, data: npt.NDArray[np.float16]) -> Callable[[Rows], npt.NDArray[Any]]:
    """Samples in MosaicML's format for streaming, by index, as its own shuffle asks for them."""
    streaming = library("streaming")
    kind = f"ndarray:float16:{','.join(map(str, data.shape[1:]))}"
    with streaming.MDSWriter(out=str(path), columns={"x": kind}) as writer:
        for row in data:
            writer.write({"x": row})
    samples = streaming.StreamingDataset(local=str(path), shuffle=False, batch_size=_BATCH)
    return lambda rows: np.stack([samples[int(row)]["x"] for row in rows])


def _filled(path: Path, data: npt.NDArray[np.float16], shard: int) -> Store:
    store = Store.create(path, {"mean": ArraySpec(data.shape[1:], "float16")}, len(data), shard, _CHUNK, {})
    for number in store.missing():
        rows = store.rows_of(number)
        store.commit(number, {"mean": data[rows.start : rows.stop]})
    return store
