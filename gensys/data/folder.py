"""Folders of images: the class of an image is the folder that holds it, its caption is a text beside it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gensys.data.decode import SUFFIXES, DamagedError
from gensys.data.images import Images
from gensys.errors import DataError

__all__ = ["open_folder", "read_file"]

_METADATA = "metadata.jsonl"


def open_folder(root: str | Path, size: int = 32) -> Images:
    """A folder of images (PNG, JPEG, WebP) as a source.

    Classes are the folders that hold images, by their path below the root ("animals/cat"), sorted. Images in the root
    itself have no label (-1), and if all are there the source is unlabelled. Names that start with a dot and files
    with another suffix are not looked at. Captions: x.txt beside x.png; or, as Hugging Face lays image folders out,
    lines {"file_name": ..., "text": ...} in a metadata.jsonl in the folder that the names start from.

    Raises DataError if there is no image, or if the captions contradict themselves.
    """
    root = Path(root)
    found = sorted(_walk(root, "", set()))
    files = tuple(f for f in found if f.lower().endswith(SUFFIXES))
    if not files:
        raise DataError(
            f"the folder {str(root)!r} holds no image ({', '.join(SUFFIXES)}), nor does a folder below it"
            + _instead(found)
        )
    classes = tuple(sorted({os.path.dirname(f) for f in files} - {""}))
    number = {name: i for i, name in enumerate(classes)} | {"": -1}
    labels = torch.tensor([number[os.path.dirname(f)] for f in files])
    return Images.of(_Files(root, files, classes, labels, _captions(root, files, found)), size)


@dataclass(frozen=True)
class _Files:
    """Image files below a folder, by their paths relative to it. See `images.Items`."""

    root: Path
    files: tuple[str, ...]
    classes: tuple[str, ...]
    labels: Tensor
    captions: list[str] | None

    @property
    def place(self) -> str:
        return f"the folder {str(self.root)!r}"

    @property
    def name(self) -> str:
        return self.root.resolve().name

    def __len__(self) -> int:
        return len(self.files)

    def title(self, row: int) -> str:
        return self.files[row]

    def read(self, row: int, limit: int = -1) -> bytes:
        return read_file(self.root / self.files[row], 0, limit)


def read_file(path: Path, offset: int = 0, length: int = -1) -> bytes:
    """Bytes of a file, at most `length` of them if that is not -1. Raises DamagedError if they cannot be read.

    Nothing else than a file is read: a named pipe without a writer would keep its reader waiting for ever.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DamagedError("not a file but a pipe, a device or a folder")
            file.seek(offset)
            if length < 0:
                return file.readall()
            pieces: list[bytes] = []
            while length and (piece := file.read(length)):
                pieces.append(piece)
                length -= len(piece)
            return b"".join(pieces)
    except OSError as error:
        raise DamagedError(error.strerror or str(error)) from error


def _walk(root: Path, below: str, seen: set[str]) -> Iterator[str]:
    """Paths of files relative to `root`, with "/" on every system; linked folders are followed once."""
    real = os.path.realpath(root / below)
    if real in seen:
        return
    seen.add(real)
    try:
        entries = sorted(os.scandir(root / below), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"the folder {str(root / below)!r} cannot be listed: {error}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir():
            yield from _walk(root, path, seen)
        else:
            yield path


def _instead(found: Iterable[str]) -> str:
    """What is there that could be given instead."""
    for suffix in (".tar", ".parquet", ".npz", ".npy", ".csv"):
        if file := next((f for f in found if f.endswith(suffix)), None):
            return f"; it holds {file!r}: give that, or its folder if that is of .tar or .parquet"
    return ""


def _captions(root: Path, files: Sequence[str], found: Sequence[str]) -> list[str] | None:
    """The caption of every file, "" where it has none; None if there are no captions."""
    stems: dict[str, list[int]] = {}
    for row, file in enumerate(files):
        stems.setdefault(os.path.splitext(file)[0], []).append(row)
    beside = [f for f in found if f.endswith(".txt") and f.removesuffix(".txt") in stems]
    listed = [f for f in found if os.path.basename(f) == _METADATA]
    if beside and listed:
        raise DataError(
            f"the folder {str(root)!r} has captions twice, in {beside[0]!r} and in {listed[0]!r}: remove one of the two"
        )
    captions: dict[int, str] = {}
    for text in beside:
        rows = stems[text.removesuffix(".txt")]
        if len(rows) > 1:
            names = " and ".join(repr(files[row]) for row in rows)
            raise DataError(f"the caption {text!r} of {str(root)!r} stands beside {names}: rename one of the images")
        captions[rows[0]] = _text(root / text).strip()
    rows_of = {file: row for row, file in enumerate(files)}
    for path in listed:
        captions |= _listed(root, path, rows_of, captions)
    return [captions.get(row, "") for row in range(len(files))] if captions else None


def _listed(root: Path, path: str, rows_of: dict[str, int], known: dict[int, str]) -> dict[int, str]:
    """The captions in one metadata.jsonl, by row."""
    captions: dict[int, str] = {}
    for number, line in enumerate(_text(root / path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, caption = entry["file_name"], entry["text"]
            if not (isinstance(name, str) and isinstance(caption, str)):
                raise TypeError("file_name or text is no text")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f'line {number} of {str(root / path)!r} must be {{"file_name": "...", "text": "..."}}: {error!r}'
            ) from error
        file = os.path.normpath(os.path.join(os.path.dirname(path), name))
        if file not in rows_of:
            raise DataError(
                f"line {number} of {str(root / path)!r} names {name!r}, and no image of that name is there: remove the "
                f"line, or put the image back"
            )
        if rows_of[file] in captions or rows_of[file] in known:
            raise DataError(f"line {number} of {str(root / path)!r} gives {name!r} a second caption: remove one")
        captions[rows_of[file]] = caption
    return captions


def _text(path: Path) -> str:
    """A file as UTF-8."""
    try:
        return read_file(path).decode("utf-8-sig")
    except (DamagedError, UnicodeDecodeError) as error:
        raise DataError(f"the captions {str(path)!r} cannot be read ({error}): save them as UTF-8 text") from error
