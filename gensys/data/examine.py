"""The one full pass over encoded images: the digest of each, and which of them cannot be decoded, with the reason.

Decoders written in C crash, hang and fill the memory on bytes that are damaged or meant to. So bytes are decoded in
child processes: one that dies or takes too long is replaced, and costs one item, not the run. This process reads and
hashes; a child gets a block of items through a pipe, and gives the pixels of one after another back, so that neither
waits for the other, and it is known at which item it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, NoReturn

import numpy as np
import numpy.typing as npt

from gensys.data.decode import DamagedError, decode
from gensys.errors import DataError

__all__ = ["DEADLINE", "DIGEST_BYTES", "Examination", "digest", "examine", "serve"]

DEADLINE = 60.0  # seconds for one item: the largest image that Pillow accepts takes about ten on a slow core
DIGEST_BYTES = 16
_START = 120.0  # seconds until a child must be there, on a machine that is very busy
_CHILD = "from gensys.data.examine import serve; serve()"
_ITEMS = 256  # that a child is worth starting for: it starts in about 0.2 s
_BLOCK, _BLOCK_BYTES = 64, 1 << 24  # items that a thread takes at a time, and what it sends of them at once
_LENGTH, _ANSWER = struct.Struct("<Q"), struct.Struct("<BQ")  # length; what it is, length
_PIXELS, _DAMAGED, _READY = 0, 1, 2


@dataclass(frozen=True)
class Examination:
    """digests: (n, 16) uint8, of every row. quarantine: the rows that cannot be read, ascending, with the reasons."""

    digests: npt.NDArray[np.uint8]
    quarantine: Mapping[int, str]


def digest(*parts: bytes) -> bytes:
    """BLAKE2b of parts of any length: none can be taken for a piece of its neighbour."""
    total = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part)
    return total.digest()


class _Died(Exception):
    """The child is gone; the text says how."""


class _Child:
    """A process that decodes. One thread uses it at a time."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`; a pipe that nobody reads would fill
        self._process = subprocess.Popen(
            # -P: no module of the current folder is taken for one of Python's
            [sys.executable, "-P", "-c", _CHILD, *map(str, shape), str(DEADLINE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to: IO[bytes] = self._process.stdin
        self._from: IO[bytes] = self._process.stdout
        try:
            self._answer(_START)
        except (_Died, TimeoutError) as error:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines()
            self.stop()
            raise DataError(f"no process that decodes images can be started: {said[-1] if said else error}") from error

    def decode(self, items: Sequence[bytes]) -> Iterator[bytes | DamagedError]:
        """Pixels of every item. Raises TimeoutError or _Died at the item where this child came to its end."""
        try:
            self._to.write(_LENGTH.pack(len(items)))
            for data in items:
                self._to.write(_LENGTH.pack(len(data)) + data)
            self._to.flush()
        except BrokenPipeError:
            self._fail()
        for _ in items:
            kind, answer = self._answer(DEADLINE)
            yield answer if kind == _PIXELS else DamagedError(answer.decode())

    def stop(self) -> None:
        """Kill it: what it was told to do is done, or is never done."""
        self._process.kill()
        self._process.wait()
        self._from.close()
        with contextlib.suppress(BrokenPipeError):  # what was not written is for nobody
            self._to.close()
        self._errors.close()

    def _answer(self, seconds: float) -> tuple[int, bytes]:
        waiting = select.poll()  # not `select`, which knows no descriptor above 1023
        waiting.register(self._from, select.POLLIN)
        if not waiting.poll(1000 * seconds):
            raise TimeoutError
        kind, length = _ANSWER.unpack(self._read(_ANSWER.size))
        return kind, self._read(length)

    def _read(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            part = os.read(self._from.fileno(), length - len(data))
            if not part:
                self._fail()
            data += part
        return bytes(data)

    def _fail(self) -> NoReturn:
        code = self._process.wait()
        raise _Died(signal.Signals(-code).name if code < 0 else f"exit status {code}")


class _Decoder:
    """Decodes, with one child after another."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._shape = shape
        self._child = _Child(shape)

    def decode(self, items: Sequence[bytes]) -> Iterator[bytes | DamagedError]:
        """Pixels of every item, or why there are none: also where it took a child's life."""
        at, died = 0, -1
        while at < len(items):
            try:
                for answer in self._child.decode(items[at:]):
                    yield answer
                    at += 1
            except TimeoutError:
                self._replace()
                yield DamagedError(f"decoding took longer than {DEADLINE:g} s")
                at += 1
            except _Died as error:
                self._replace()
                if at == died:  # once may be chance: the system kills what it likes when memory runs out
                    yield DamagedError(f"its decoder died, twice ({error})")
                    at += 1
                died = at

    def stop(self) -> None:
        self._child.stop()

    def _replace(self) -> None:
        self._child.stop()
        self._child = _Child(self._shape)


def examine(
    n: int,
    read: Callable[[int], bytes],
    about: Callable[[int], bytes],
    shape: tuple[int, int, int],
    keep: Callable[[int, npt.NDArray[np.uint8]], None] | None = None,
) -> Examination:
    """Read, hash and decode n encoded images, on all cores.

    read: row -> the encoded image; raises DamagedError; called from several threads. about: row -> what else belongs to
    the row's content (label, caption). shape: (C, H, W), see `decode`. keep: is given every row's pixels.
    """
    digests = np.zeros((n, DIGEST_BYTES), np.uint8)
    found: dict[int, str] = {}
    starts = iter(range(0, n, _BLOCK))
    leave = threading.Event()

    def work() -> None:
        decoder = _Decoder(shape)
        try:
            for start in iter(lambda: next(starts, n), n):  # `next` of an iterator over a range is atomic
                block: list[tuple[int, bytes]] = []
                for row in range(start, min(start + _BLOCK, n)):
                    if leave.is_set():
                        return
                    block += fetch(row)
                    if sum(len(data) for _, data in block) > _BLOCK_BYTES:
                        look(block, decoder)
                        block = []
                look(block, decoder)
        finally:
            decoder.stop()

    def fetch(row: int) -> list[tuple[int, bytes]]:
        try:
            data = read(row)
        except DamagedError as error:
            digests[row] = np.frombuffer(digest(b"unreadable", about(row)), np.uint8)
            found[row] = str(error)
            return []
        digests[row] = np.frombuffer(digest(data, about(row)), np.uint8)
        return [(row, data)]

    def look(block: list[tuple[int, bytes]], decoder: _Decoder) -> None:
        for (row, _), answer in zip(block, decoder.decode([data for _, data in block]), strict=True):
            if isinstance(answer, DamagedError):
                found[row] = str(answer)
            elif keep is not None:
                keep(row, np.frombuffer(answer, np.uint8).reshape(shape))

    children = max(1, min(len(os.sched_getaffinity(0)), n // _ITEMS))
    with ThreadPoolExecutor(children, thread_name_prefix="examine") as threads:
        jobs = [threads.submit(work) for _ in range(children)]
        try:
            for job in jobs:
                job.result()
        finally:
            leave.set()  # after an error, or Ctrl-C, the others stop as well
    return Examination(digests, dict(sorted(found.items())))


def serve() -> None:
    """What the child does: decode what comes on its standard input until that ends. Arguments: C H W seconds."""
    shape, deadline = (int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])), float(sys.argv[4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent decides
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints must not be taken for an answer

    def answer(kind: int, data: bytes) -> None:
        answers.write(_ANSWER.pack(kind, len(data)) + data)
        answers.flush()

    answer(_READY, b"")
    while header := requests.read(_LENGTH.size):
        # all of the block is read before the first answer is written: two that write to each other wait for ever
        block = [requests.read(*_LENGTH.unpack(requests.read(_LENGTH.size))) for _ in range(*_LENGTH.unpack(header))]
        for data in block:
            # the parent's clock is the one that counts; the kernel ends this process where the parent is gone
            signal.setitimer(signal.ITIMER_REAL, 2 * deadline)
            try:
                answer(_PIXELS, decode(data, shape).tobytes())
            except DamagedError as error:
                answer(_DAMAGED, str(error).encode())
            except MemoryError:
                answer(_DAMAGED, b"it needs more memory than there is")
        signal.setitimer(signal.ITIMER_REAL, 0)
