"""Images for tests of data, and what must be equal of two sources of the same ones."""

import io
import json
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from gensys.data.sources import open_source
from gensys.noise import Noise


@dataclass(frozen=True)
class Item:
    """An encoded image with what is said of it."""

    key: str
    suffix: str
    data: bytes
    label: int
    caption: str


CLASSES = ("cat", "dog", "owl")


def encoded(seed, suffix="png", size=(40, 36), **options):
    """The bytes of an image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, {"jpg": "JPEG"}.get(suffix, suffix), **options)
    return file.getvalue()


def everything(source):
    """The batch of all rows."""
    rows = torch.arange(len(source))
    return source.batch(rows, Noise(0, rows))


def same(source, folder, items):
    """Whether a source gives, bit by bit, what the folder of the same images gives."""
    other, rows = open_source(folder, 32), torch.arange(len(items))
    assert len(source) == len(other) == len(items)
    assert torch.equal(everything(source).x, everything(other).x)
    assert everything(source).cond["label"].tolist() == [item.label for item in items]
    assert source.texts(rows) == other.texts(rows) == [item.caption for item in items]
    if source.classes == other.classes:  # digests hold their names
        assert np.array_equal(source.digests(), other.digests())
    else:
        assert (source.digests() != other.digests()).any(1).all()
    assert source.quarantine() == {}
    return True


def jsonl(path, entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
