"""All shard files of one array as one array in memory: (shards, rows of a shard), read through memory maps.

A range of addresses is set aside for the whole array, which costs nothing, and a file is mapped into its place there
when one of its rows is first wanted. So rows of any shards are gathered by one indexing operation, at the speed of one
file that is mapped as a whole, however many shards they lie in.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

__all__ = ["Window"]

_FIXED = 0x10  # MAP_FIXED, of Linux, macOS and the BSDs; Python's module has no name for it
_FAILED = ctypes.c_void_p(-1).value


@cache
def _mmap() -> Any:
    call = ctypes.CDLL(None, use_errno=True).mmap
    integer = ctypes.c_int
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, integer, integer, integer, ctypes.c_int64]
    call.restype = ctypes.c_void_p
    return call


class Window:
    """shards: how many files. rows: in each. row: its dtype. size: bytes of a file, which begins with its rows.
    opened: the file of a shard, for its reader to close, or what is wrong with it, raised. most: maps kept at once
    (Linux allows a process 65,530 in all).
    """

    def __init__(
        self,
        shards: int,
        rows: int,
        row: np.dtype[np.void],
        size: int,
        opened: Callable[[int], BinaryIO],
        most: int,
    ) -> None:
        self._opened, self._most, self._size = opened, most, size
        self._stride = -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        # readable, so that a mistake here would be a wrong number and not the end of the process
        memory = mmap.mmap(-1, shards * self._stride, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
        self._rows = np.ndarray((shards, rows), row, memory, strides=(self._stride, row.itemsize))
        self._mapped = np.zeros(shards, np.bool_)
        self._count = 0
        self._lock = threading.Lock()  # nothing may be unmapped while another thread reads it

    def take(self, shard: npt.NDArray[np.int64], row: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
        """The given row of the given shard, for every pair: (B,), a copy. All must be in range."""
        with self._lock:
            if not self._mapped[shard].all():
                return self._cold(shard, row)
            return self._rows[shard, row]

    def _cold(self, shard: npt.NDArray[np.int64], row: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
        """Part by part, so that no more than `most` are mapped at once."""
        out = np.empty(shard.size, self._rows.dtype)
        wanted = np.unique(shard)
        for begin in range(0, wanted.size, self._most):
            some = wanted[begin : begin + self._most]
            new = some[~self._mapped[some]]
            if self._count + new.size > self._most:
                self._forget()
                new = some
            for number in new.tolist():
                self._map(number)
            here = np.isin(shard, some)
            out[here] = self._rows[shard[here], row[here]]
        return out

    def _map(self, shard: int) -> None:
        with self._opened(shard) as file:
            self._at(shard * self._stride, self._size, mmap.MAP_SHARED, file.fileno())
        self._mapped[shard] = True
        self._count += 1

    def _forget(self) -> None:
        """Let go of all files at once: one call, and those still wanted are in the page cache."""
        self._mapped[:] = False
        self._count = 0
        self._at(0, self._mapped.size * self._stride, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)

    def _at(self, offset: int, length: int, flags: int, file: int) -> None:
        address = self._rows.ctypes.data + offset
        if _mmap()(address, length, mmap.PROT_READ, flags | _FIXED, file, 0) == _FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
