"""Tar files of images in WebDataset's layout: the members of a sample have one name up to the first dot.

    000123.jpg  000123.cls  000123.txt        an image, its class (a number or a word), its caption
    000123.jpg  000123.json                   or both in JSON: "label" (or "cls", "class") and "caption" (or "text")

Members are listed once; an image is then one read at its offset. Nothing is extracted, no name becomes a path.
Aizman, Maltby and Breuel, 2019, "High performance I/O for large scale deep learning", arXiv:2001.01858.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from gensys.data.decode import SUFFIXES, DamagedError
from gensys.data.folder import read_file
from gensys.data.images import Images
from gensys.data.source import labels_of
from gensys.errors import DataError

__all__ = ["open_tars"]

_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # key, extension: webdataset's own rule
_BLOCK = tarfile.BLOCKSIZE
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZ": "bunzip2", b"\xfd7": "unxz", b"\x28\xb5": "unzstd"}
_TEXT_BYTES = 1 << 20  # of a caption, a class or a JSON: more is a mistake


def open_tars(paths: Sequence[Path], size: int = 32) -> Images:
    """Tars of images as a source, one after another in the given order.

    The samples of a tar keep their order. A sample without an image is a row that cannot be read; so is one whose
    class, caption or JSON cannot be. Raises DataError for a tar that is compressed, truncated or no tar, for members
    with the same name or a path that leaves the tar, and if there is no image at all.
    """
    samples = [sample for tar, path in enumerate(paths) for sample in _samples(tar, path)]
    where = repr(str(paths[0])) if len(paths) == 1 else f"{len(paths)} tars, {paths[0].name!r} to {paths[-1].name!r}"
    if not any(sample.size >= 0 for sample in samples):
        raise DataError(f"{where} holds no sample with an image ({', '.join(SUFFIXES)})")
    try:
        labels, classes = labels_of([sample.label for sample in samples])
    except DataError as error:
        raise DataError(f"the classes (.cls, .json) of {where}: {error}") from error
    captions = [sample.caption or "" for sample in samples] if any(s.caption is not None for s in samples) else None
    return Images.of(_Tars(tuple(paths), samples, classes, labels, captions), size)


@dataclass(slots=True)
class _Sample:
    """The members of one key. offset, size: of the image; size -1 = there is none. damage: why it is of no use."""

    tar: int
    key: str
    image: str = ""
    offset: int = 0
    size: int = -1
    label: int | str | None = None
    caption: str | None = None
    damage: str = ""
    extensions: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Tars:
    """Samples in tars. See `images.Items`."""

    paths: tuple[Path, ...]
    samples: Sequence[_Sample]
    classes: tuple[str, ...]
    labels: Tensor
    captions: list[str] | None

    @property
    def place(self) -> str:
        if len(self.paths) == 1:
            return f"the tar {str(self.paths[0])!r}"
        return f"{len(self.paths)} tars in {str(self.paths[0].parent)!r}"

    @property
    def name(self) -> str:
        return self.paths[0].stem if len(self.paths) == 1 else self.paths[0].resolve().parent.name

    def __len__(self) -> int:
        return len(self.samples)

    def title(self, row: int) -> str:
        sample = self.samples[row]
        return f"{self.paths[sample.tar].name}/{sample.key}{sample.image and '.'}{sample.image}"

    def read(self, row: int, limit: int = -1) -> bytes:
        sample = self.samples[row]
        if sample.damage:
            raise DamagedError(sample.damage)
        return read_file(self.paths[sample.tar], sample.offset, sample.size if limit < 0 else min(limit, sample.size))


def _samples(tar: int, path: Path) -> Iterator[_Sample]:
    """The samples of one tar, in its order."""
    sample, known = None, set[str]()
    for name, offset, size in _members(path):
        match = _NAME.fullmatch(name)
        if match is None:
            continue  # no extension, or hidden
        key, extension = match[1], match[2].lower()
        if sample is None or key != sample.key:
            if sample is not None:
                yield _complete(sample)
            if key in known:
                raise DataError(f"the sample {key!r} is twice in {str(path)!r}, or its files are not side by side")
            known.add(key)
            sample = _Sample(tar, key)
        if extension in sample.extensions:
            raise DataError(f"the file {name!r} is twice in {str(path)!r}: write the tar anew")
        sample.extensions.add(extension)
        _add(sample, path, extension, offset, size)
    if sample is not None:
        yield _complete(sample)


def _add(sample: _Sample, path: Path, extension: str, offset: int, size: int) -> None:
    """Take a member into its sample."""
    if f".{extension}" in SUFFIXES:
        if sample.size >= 0:
            sample.damage = f"two images, .{sample.image} and .{extension}"
        sample.image, sample.offset, sample.size = extension, offset, size
    elif extension in ("cls", "txt", "json"):
        try:
            if size > _TEXT_BYTES:
                raise DamagedError(f"{size:,} bytes")
            text = read_file(path, offset, size).decode("utf-8").strip()
            if extension == "cls":
                sample.label = _label(text)
            elif extension == "txt":
                sample.caption = text
            else:
                _add_json(sample, json.loads(text))
        except (DamagedError, ValueError) as error:  # ValueError: not UTF-8, or not JSON
            sample.damage = f"its .{extension} is damaged: {error}"


def _add_json(sample: _Sample, entry: object) -> None:
    """Label and caption out of JSON, where no file of their own gives them."""
    if not isinstance(entry, Mapping):
        raise ValueError("no JSON object")
    label = next((entry[name] for name in ("label", "cls", "class") if entry.get(name) is not None), None)
    caption = next((entry[name] for name in ("caption", "text") if entry.get(name) is not None), None)
    if not (label is None or (isinstance(label, int | str) and not isinstance(label, bool))):
        raise ValueError(f"its label is {label!r}, neither a number nor a word")
    if not (caption is None or isinstance(caption, str)):
        raise ValueError(f"its caption is {caption!r}, no text")
    sample.label = label if sample.label is None else sample.label
    sample.caption = caption if sample.caption is None else sample.caption


def _label(text: str) -> int | str:
    """A whole number, or a word."""
    if not text:
        raise ValueError("it is empty")
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text


def _complete(sample: _Sample) -> _Sample:
    if sample.size < 0 and not sample.damage:
        sample.damage = f"no image among its files ({', '.join(sorted(sample.extensions))})"
    sample.extensions = set()  # there may be millions
    return sample


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of the files in a tar, whose names are safe and whose bytes are there."""
    try:
        head = read_file(path, 0, _BLOCK)
        length = path.stat().st_size
    except (DamagedError, OSError) as error:
        raise DataError(f"the tar {str(path)!r} cannot be read: {error}") from error
    if tool := _COMPRESSED.get(head[:2]):
        raise DataError(f"{str(path)!r} is compressed, and only a plain tar can be read at any place: {tool} it first")
    truncated = f"the tar {str(path)!r} is truncated or damaged: copy it again"
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue] - it keeps them all, a kilobyte each
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    raise DataError(
                        f"the tar {str(path)!r} holds {member.name!r}, a path that leaves it: write it anew"
                    )
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise DataError(
                        f"the tar {str(path)!r} holds {member.name!r}, which is no plain file (a link, a device, with "
                        f"holes): write the tar anew, with the files themselves"
                    )
                if member.offset_data + member.size > length:
                    raise DataError(truncated)
                yield member.name.removeprefix("./"), member.offset_data, member.size
            _check_end(path, tar.offset)
    except tarfile.ReadError as error:
        if "unexpected end of data" in str(error):
            raise DataError(truncated) from error
        raise DataError(f"{str(path)!r} is no tar, or a damaged one: {error}") from error
    except tarfile.TarError as error:
        raise DataError(f"the tar {str(path)!r} is damaged: {error}") from error


def _check_end(path: Path, offset: int) -> None:
    """Raise DataError unless there is an empty block, which closes every tar, and nothing but such blocks after it.

    `tarfile` stops without a word at a header that is damaged, and where a second tar was appended.
    """
    closed = False
    while block := read_file(path, offset, 1 << 20 if closed else _BLOCK):
        if any(block):
            more = "goes on after its end (two tars in one file?)" if closed else "is damaged in the middle"
            raise DataError(f"the tar {str(path)!r} {more}: write it anew")
        closed, offset = True, offset + len(block)
    if not closed:
        raise DataError(f"the tar {str(path)!r} is truncated: it lacks the empty blocks at its end; copy it again")
