"""Embeddings of captions beside a latent store: every text is embedded once, whoever many rows it belongs to.

    Z.text.zarr/rows      "text" (rows,) int64: which text a row of Z.zarr has, -1 = none
    Z.text.zarr/texts     one row a text: "start" and "length" int64, where its tokens lie; "digest" (16,), of its bytes
    Z.text.zarr/tokens    "embedding" (tokens, D): all tokens of all texts, one after the other, without padding

Each of the three is a store as any other (`store`), inside one Zarr group. Texts are numbered in the order in which the
rows first name them, and embedded in blocks of fixed size, so the bytes depend on captions and encoder alone. NumPy
knows neither bfloat16 nor float8: their bits are stored as unsigned integers, and "logical_dtype" says what they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gensys.data.manifest import GOOD, from_bytes
from gensys.data.source import Source
from gensys.data.store import ArraySpec, Store
from gensys.durable import explained, supersede, sync_directory, write
from gensys.errors import DataError, StoreError

__all__ = ["DTYPES", "TextEncoder", "Texts", "encode_texts", "text_path"]

TextEncoder = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
"""texts -> embeddings (n, L, D) and lengths (n,) int64: how many of the L tokens of each are real; L is always the
same. What a text becomes must not depend on the others; blocks all have the same size but the last."""

_BITS = {torch.float16: "float16", torch.bfloat16: "uint16", torch.float8_e4m3fn: "uint8"}
DTYPES: dict[str, torch.dtype] = {str(dtype).removeprefix("torch."): dtype for dtype in _BITS}
_BLOCK = 64  # texts embedded at once
_SHARD, _CHUNK = 4096, 64  # rows of a file and of a chunk, as of latents
_PART = 65536  # rows whose captions are asked for at once


def text_path(latents: Path) -> Path:
    """Where the texts of a latent store in a directory lie: Z.zarr -> Z.text.zarr."""
    return latents.with_name(f"{latents.stem}.text.zarr")


def _spool(draft: Path) -> Path:
    """Where tokens wait until it is known how many there are."""
    return draft.with_name(f"{draft.name}.spool")


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _stored(embeddings: Tensor, dtype: torch.dtype) -> npt.NDArray[Any]:
    """The bits of float32 embeddings in `dtype`, as NumPy can hold them."""
    cast = embeddings.to(dtype)
    bits = {torch.bfloat16: torch.uint16, torch.float8_e4m3fn: torch.uint8}.get(dtype)
    return (cast if bits is None else cast.view(bits)).numpy()


def encode_texts(
    latents: Path, source: Source, encoder: TextEncoder, about: Mapping[str, Any], dtype: str = "float16"
) -> Texts:
    """Embed the captions of the rows of a sealed latent store; `source` is what was encoded into it.

    about: JSON values that identify the encoder. dtype: "float16", "bfloat16" or "float8_e4m3fn". The result appears
    at once, in the place of an earlier one; if this is killed, it begins anew.
    Raises DataError if the source has no captions or is not the one of the store, if an embedding does not fit the
    dtype, or if the encoder's answer has another shape than it should.
    """
    if dtype not in DTYPES:
        raise DataError(f"'dtype' must be one of {', '.join(DTYPES)}, got {dtype!r}")
    store = Store.open(latents)
    made_from = store.attributes["source"]
    if made_from["fingerprint"] != source.fingerprint():
        raise DataError(
            f"{str(latents)!r} was encoded from data of fingerprint {made_from['fingerprint'][:12]}, and "
            f"{source.name!r} has {source.fingerprint()[:12]}: update the store first"
        )
    unique, rows = _unique(store, source)
    path = text_path(latents)
    draft = path.with_name(f".{path.name}.making")
    for left in (draft, _spool(draft)):  # by one that was killed
        shutil.rmtree(left, ignore_errors=True)
    attributes = {"latents": store.content(), "encoder": dict(about), "kind": "texts"}
    with explained(path, "writing embeddings"):
        draft.mkdir(parents=True)
        members = ("rows", "texts", "tokens")
        group = {"zarr_format": 3, "node_type": "group", "attributes": {"kind": "texts", "members": members}}
        write(draft / "zarr.json", json.dumps(group, indent=2).encode())
        _fill(draft / "rows", {"text": rows}, attributes)
        length = _embed(draft, unique, encoder, dtype, attributes)
        start = np.cumsum(length) - length
        digest = np.frombuffer(b"".join(map(_digest, unique)), np.uint8).reshape(-1, 16)
        _fill(draft / "texts", {"start": start, "length": length, "digest": digest}, attributes)
        sync_directory(draft)
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            supersede(draft, path, old)
        else:
            os.rename(draft, path)
            sync_directory(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    return Texts.open(latents)


def _unique(store: Store, source: Source) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The texts in the order of their first row, and the number of each row's; -1 for rows without a caption."""
    number = {name: row for row, name in enumerate(source.named(torch.arange(len(source))))}
    rows, unique = np.full(len(store), -1), {}
    for start in range(0, len(store), _PART):
        part = range(start, min(start + _PART, len(store)))
        names, state = from_bytes(store.read("name", part)), store.read("state", part)
        here = [k for k, s in enumerate(state) if s == GOOD and names[k] in number]
        texts = source.texts(torch.tensor([number[names[k]] for k in here], dtype=torch.int64))
        if texts is None:
            raise DataError(f"{source.name!r} has no captions: give data that have")
        for k, text in zip(here, texts, strict=True):
            if text:
                rows[start + k] = unique.setdefault(text, len(unique))
    if not unique:
        raise DataError(f"no row of {source.name!r} has a caption")
    return list(unique), rows


def _fill(path: Path, arrays: Mapping[str, npt.NDArray[Any]], attributes: Mapping[str, Any]) -> Store:
    specs = {name: ArraySpec(a.shape[1:], a.dtype.name) for name, a in arrays.items()}
    count = len(next(iter(arrays.values())))
    store = Store.create(path, specs, count, _sized(count), _CHUNK, attributes)
    for shard in store.missing():
        rows = store.rows_of(shard)
        store.commit(shard, {name: a[rows.start : rows.stop] for name, a in arrays.items()})
    store.seal({})
    return store


def _sized(count: int) -> int:
    return min(_SHARD, -(-count // _CHUNK) * _CHUNK)


def _embed(
    draft: Path, texts: Sequence[str], encoder: TextEncoder, dtype: str, attributes: Mapping[str, Any]
) -> npt.NDArray[np.int64]:
    """Write draft/tokens, and return the lengths. Memory holds no more than a shard of tokens and a block of texts.

    How many tokens there are is known at the end, and a store is created with its length: so whole shards are
    committed to one of the largest length that is possible, and then become files of the true one.
    """
    longest, width, spool, pending, done = 0, 0, None, np.empty(0), 0
    lengths: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(texts), _BLOCK):
        part = texts[start : start + _BLOCK]
        embeddings, length = encoder(part)
        longest, width = (longest, width) if spool else tuple(embeddings.shape[1:])
        bits = _checked(part, embeddings, length, (longest, width), DTYPES[dtype])
        if spool is None:
            specs, pending = {"embedding": ArraySpec((width,), bits.dtype.name)}, bits[:0]
            attributes = {**attributes, "longest": longest, "logical_dtype": {"embedding": dtype}}
            most = len(texts) * longest
            spool = Store.create(_spool(draft), specs, most, _SHARD, _CHUNK, {})
        lengths.append(length.numpy())
        pending = np.concatenate([pending, bits])
        while len(pending) >= _SHARD:
            spool.commit(done, {"embedding": pending[:_SHARD]})
            pending, done = pending[_SHARD:], done + 1
    total = np.concatenate(lengths)
    count = int(total.sum())
    assert spool is not None, "there is at least one text"
    shard = _SHARD if done else _sized(max(count, 1))
    tokens = Store.create(draft / "tokens", spool.config.arrays, max(count, 1), shard, _CHUNK, attributes)
    for k in range(done):
        tokens.adopt(k, spool)
    if k := tokens.missing():
        tokens.commit(k[0], {"embedding": pending if count else np.zeros((1, width), pending.dtype)})
    tokens.seal({})
    shutil.rmtree(spool.path)
    return total


def _checked(
    texts: Sequence[str], embeddings: Tensor, length: Tensor, shape: tuple[int, ...], dtype: torch.dtype
) -> npt.NDArray[Any]:
    """The real tokens of a block in their stored bits, (tokens, D); DataError if the encoder broke its word."""
    wanted = (len(texts), *shape)
    if tuple(embeddings.shape) != wanted or length.shape != wanted[:1] or length.dtype != torch.int64:
        raise DataError(
            f"the text encoder must give embeddings {wanted} and lengths ({len(texts)},) int64, got "
            f"{tuple(embeddings.shape)} and {tuple(length.shape)} of {length.dtype}"
        )
    if bool(((length < 0) | (length > shape[0])).any()):
        raise DataError(f"the text encoder's lengths must lie in [0, {shape[0]}], got {length.tolist()}")
    real = embeddings.detach().float().cpu()[torch.arange(shape[0]) < length[:, None]]
    if not bool(torch.isfinite(real.to(dtype).float()).all()):
        raise DataError(f"an embedding of the texts from {texts[0]!r} on is not finite in {dtype}: use a wider dtype")
    return _stored(real, dtype)


@dataclass(frozen=True)
class Texts:
    """The texts of a latent store. longest: tokens of the longest that the encoder gives, to which all are padded."""

    path: Path
    longest: int
    latents: str

    @classmethod
    def open(cls, latents: Path) -> Texts:
        """Raises StoreError if there are none, if they are not whole, or if they are of another latent store."""
        path = text_path(latents)
        tokens = Store.open(path / "tokens")
        found, now = tokens.attributes["latents"], Store.open(latents).content()
        if found != now:
            raise StoreError(
                f"the texts {str(path)!r} belong to latents of content {found[:12]}, and {str(latents)!r} has "
                f"{now[:12]}: embed the texts again"
            )
        return cls(path, tokens.attributes["longest"], found)

    @cached_property
    def _stores(self) -> tuple[Store, Store, Store]:
        rows, texts, tokens = (Store.open(self.path / name) for name in ("rows", "texts", "tokens"))
        return rows, texts, tokens

    def content(self) -> str:
        """Hex digest of all that `batch` can return."""
        return " ".join(store.content() for store in self._stores)

    def batch(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(embeddings (B, L, D) float32, zeros where there is no token; mask (B, L) bool), L = `longest`."""
        index, texts, tokens = self._stores
        which = index.read("text", rows)
        has = which >= 0
        start, length = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        start[has], length[has] = (texts.read(name, which[has]) for name in ("start", "length"))
        mask = np.arange(self.longest) < length[:, None]
        place = (start[:, None] + np.arange(self.longest))[mask]
        bits = torch.from_numpy(tokens.read("embedding", place))
        real = bits.view(DTYPES[tokens.attributes["logical_dtype"]["embedding"]]).float()
        out = torch.zeros(len(rows), self.longest, real.shape[-1])
        there = torch.from_numpy(mask)
        out[there] = real
        return out, there
