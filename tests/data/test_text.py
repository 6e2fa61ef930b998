"""Embedded captions beside a latent store: every text once, without padding, in three number formats."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from toy import Items, files, run

from gensys.data.latents import LatentSource
from gensys.data.store import Store
from gensys.data.text import DTYPES, encode_texts, text_path
from gensys.durable import exchange
from gensys.errors import DataError, StoreError
from gensys.noise import Noise

L, D = 6, 5
CAPTIONS = {f"cat/{k:02d}": ("", "a cat", "the same cat", "a dog in the sun", "six words are the longest here")[k % 5]
            for k in range(21)}  # fmt: skip
ABOUT = {"name": "letters"}


def encoder(texts, length=L):
    """A token a word, made of its letters alone."""
    out, lengths = torch.full((len(texts), length, D), 7.0), torch.zeros(len(texts), dtype=torch.int64)
    for k, text in enumerate(texts):
        for j, word in enumerate(text.split()):
            out[k, j] = torch.sin(torch.arange(D) + sum(map(ord, word)))
        lengths[k] = len(text.split())
    return out, lengths


@pytest.fixture
def latents(tmp_path):
    run(tmp_path / "z.zarr", Items(CAPTIONS))
    return tmp_path / "z.zarr"


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_has_the_embeddings_of_its_captions(latents, dtype):
    encode_texts(latents, Items(CAPTIONS), encoder, ABOUT, dtype)
    source = LatentSource.open(latents)
    rows = torch.tensor([20, 3, 0, 4, 8, 3])
    cond = source.batch(rows, Noise(0, rows)).cond
    embedded, lengths = encoder([CAPTIONS[f"cat/{row:02d}"] for row in rows.tolist()])
    mask = torch.arange(L) < lengths[:, None]
    assert torch.equal(cond["text_mask"], mask)
    assert cond["text"].dtype == torch.float32
    assert torch.equal(cond["text"], embedded.to(DTYPES[dtype]).float() * mask[..., None])
    assert lengths.tolist() == [0, 5, 0, 6, 5, 5]


def test_every_text_is_embedded_once_and_kept_without_padding(latents):
    asked = []

    def noting(texts):
        asked.extend(texts)
        return encoder(texts)

    encode_texts(latents, Items(CAPTIONS), noting, ABOUT, "bfloat16")
    assert asked == ["a cat", "the same cat", "a dog in the sun", "six words are the longest here"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open(str(text_path(latents)), mode="r")
        assert set(group.group_keys()) == {"rows", "texts", "tokens"}
        assert group["rows/text"][:].tolist() == [(-1, 0, 1, 2, 3)[k % 5] for k in range(21)]
        assert group["texts/length"][:].tolist() == [2, 3, 5, 6]
        assert group["texts/start"][:].tolist() == [0, 2, 5, 10]
        tokens = group["tokens/embedding"]
        assert (tokens.shape, tokens.dtype) == ((16, D), np.uint16)
        assert group["tokens"].attrs["logical_dtype"] == {"embedding": "bfloat16"}
        values = torch.from_numpy(tokens[:]).view(torch.bfloat16)
    assert torch.equal(values[:2], encoder(["a cat"])[0][0, :2].bfloat16())
    for name in ("rows", "texts", "tokens"):
        assert Store.open(text_path(latents) / name).verify() == []
    assert sorted(p.name for p in latents.parent.iterdir()) == ["z.text.zarr", "z.zarr"]


def test_many_tokens_go_through_many_files(tmp_path):
    """As many that whole shards are spooled: the bytes are those of one flat array."""
    captions = {f"{k:03d}": f"{'w ' * (k % 40)}{k}" for k in range(500)}
    run(tmp_path / "z.zarr", Items(captions), shard=256)
    encode_texts(tmp_path / "z.zarr", Items(captions), lambda texts: encoder(texts, 40), ABOUT)
    tokens = Store.open(text_path(tmp_path / "z.zarr") / "tokens")
    embedded, lengths = encoder(list(captions.values()), 40)
    assert len(tokens) == int(lengths.sum()) > 2 * tokens.config.shard
    flat = embedded[torch.arange(40) < lengths[:, None]].half().numpy()
    np.testing.assert_array_equal(tokens.read("embedding", range(len(tokens))), flat)
    assert tokens.verify() == []


def test_it_can_be_done_again(latents):
    encode_texts(latents, Items(CAPTIONS), encoder, ABOUT)
    once = files(text_path(latents))
    encode_texts(latents, Items(CAPTIONS), encoder, ABOUT)
    assert files(text_path(latents)) == once
    encode_texts(latents, Items(CAPTIONS), encoder, ABOUT, "float8_e4m3fn")
    assert files(text_path(latents)) != once


def test_what_a_killed_one_left_is_in_nobodys_way(tmp_path):
    captions = {f"cat/{k:02d}": f"cat number {k}" for k in range(80)}
    latents, blocks = tmp_path / "z.zarr", []

    def dying(texts):
        blocks.append(texts)
        if len(blocks) == 2:
            raise KeyboardInterrupt
        return encoder(texts)

    run(latents, Items(captions))
    with pytest.raises(KeyboardInterrupt):
        encode_texts(latents, Items(captions), dying, ABOUT)
    encode_texts(latents, Items(captions), lambda texts: encoder(texts, 40), ABOUT)  # as long as another encoder's are
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".z.text")]


def test_new_texts_take_the_place_of_old_ones_at_one_instant(latents, monkeypatch):
    encode_texts(latents, Items(CAPTIONS), encoder, ABOUT)
    if not exchange(latents, text_path(latents)):
        pytest.skip("this file system cannot let two directories change places")
    exchange(latents, text_path(latents))
    rename = os.rename

    def dying(source, target):
        rename(source, target)
        if Path(target).name.endswith(".old"):
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", dying)
    with pytest.raises(KeyboardInterrupt):
        encode_texts(latents, Items(CAPTIONS), encoder, ABOUT, "bfloat16")
    assert LatentSource.open(latents).captions is not None


def test_texts_belong_to_their_latents(latents):
    plain = LatentSource.open(latents).fingerprint()
    encode_texts(latents, Items(CAPTIONS), encoder, ABOUT)
    assert LatentSource.open(latents).fingerprint() != plain
    more = Items(CAPTIONS | {"cat/99": "new words"})
    with pytest.raises(DataError, match=r"of fingerprint [0-9a-f]{12}, and 'items' has [0-9a-f]{12}: update"):
        encode_texts(latents, more, encoder, ABOUT)
    run(latents, more, update=True)
    with pytest.raises(StoreError, match=r"belong to latents of content [0-9a-f]{12}, and .* has [0-9a-f]{12}"):
        LatentSource.open(latents)
    encode_texts(latents, more, encoder, ABOUT)
    rows = torch.tensor([21])
    assert LatentSource.open(latents).batch(rows, Noise(0, rows)).cond["text_mask"].sum() == 2


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda texts: (torch.zeros(len(texts), L, D), torch.full((len(texts),), L + 1)), r"must lie in \[0, 6\]"),
        (lambda texts: (torch.zeros(1, L, D), torch.ones(1, dtype=torch.int64)), r"must give embeddings \(4, 6, 5\)"),
        (lambda texts: (torch.full((len(texts), L, D), 1e6), torch.full((len(texts),), L)), "is not finite in"),
    ],
)
def test_encoders_that_break_their_word(latents, broken, said):
    with pytest.raises(DataError, match=said):
        encode_texts(latents, Items(CAPTIONS), broken, ABOUT)
    assert not text_path(latents).exists()


def test_data_without_captions(latents):
    with pytest.raises(DataError, match="'dtype' must be one of float16, bfloat16, float8_e4m3fn"):
        encode_texts(latents, Items(CAPTIONS), encoder, ABOUT, "float32")

    class Mute(Items):
        def texts(self, rows):
            return None

    with pytest.raises(DataError, match="has no captions"):
        encode_texts(latents, Mute(CAPTIONS), encoder, ABOUT)
