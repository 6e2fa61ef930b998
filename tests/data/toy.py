"""A source of named items and codecs of them, for tests of encoding: what an item becomes depends on it alone."""

import hashlib

import numpy as np
import torch

from gensys.core import Batch, Codes, Posterior
from gensys.data.encoding import encode_shard, plan, recover, tidy
from gensys.data.store import Store
from gensys.errors import DataError

CHUNK, SHARD = 4, 8
CODEC = {"run": "runs/vae", "weights": "abc", "data": ""}


class Items:
    """items: {"cat/1": "its content"}; an item whose content is "bad" cannot be read."""

    name, about, shape, first_test = "items", "some items", (1, 4, 4), None

    def __init__(self, items):
        self.items = dict(items)
        self.names = sorted(self.items)
        self.classes = tuple(sorted({n.split("/")[0] for n in self.names if "/" in n}))
        self.asked = []

    def __len__(self):
        return len(self.items)

    def digests(self):
        data = [hashlib.blake2b(self.items[n].encode(), digest_size=16).digest() for n in self.names]
        return np.frombuffer(b"".join(data), np.uint8).reshape(-1, 16)

    def fingerprint(self):
        return hashlib.blake2b(repr(sorted(self.items.items())).encode(), digest_size=16).hexdigest()

    def named(self, rows):
        return [self.names[row] for row in rows.tolist()]

    def texts(self, rows):
        return [self.items[self.names[row]] for row in rows.tolist()]

    def quarantine(self):
        return {row: "it is bad" for row, name in enumerate(self.names) if self.items[name] == "bad"}

    def origin(self, rows):
        return rows

    def batch(self, rows, noise):
        self.asked += rows.tolist()
        if bad := set(rows.tolist()) & set(self.quarantine()):
            raise DataError(f"asked for rows that are in quarantine: {bad}")
        seeds = [int.from_bytes(self.digests()[row].tobytes()[:4], "little") for row in rows.tolist()]
        x = [np.random.default_rng(seed).standard_normal(self.shape, np.float32) for seed in seeds]
        x = torch.from_numpy(np.array(x).reshape(-1, *self.shape))
        labels = [self.classes.index(n.split("/")[0]) if "/" in n else -1 for n in self.named(rows)]
        return Batch(x, {"label": torch.tensor(labels, dtype=torch.int64)} if self.classes else {}, rows)


WEIGHT = torch.from_numpy(np.random.default_rng(0).standard_normal((16, 16), np.float32))


def gaussian(x):
    """A matrix product, whose last bit may depend on the number of rows; (B, 2, 2, 2)."""
    mean, logvar = (x.flatten(1) @ WEIGHT).view(-1, 2, 2, 4).chunk(2, -1)
    return Posterior(mean, logvar.clamp(-3, 1))


def discrete(x):
    """Codes of a book of 300, (B, 4, 4)."""
    return Codes((x[:, 0].abs() * 100).long() % 300, 300)


def run(out, source, *, encoder=gaussian, order=None, stop=None, codec=CODEC, shard=SHARD, **options):
    """What `gensys encode` does, in this process: returns the store. stop: after so many shards."""
    recover(out)
    encoding = plan(out, source, encoder(torch.zeros(1, *source.shape)), codec, shard=shard, chunk=CHUNK, **options)
    if encoding is None:
        tidy(out)
        return Store.open(out)
    with encoding.alone():
        store = encoding.begin()
        manifest = Store.open(encoding.rows) if store.missing() else None
        for shard in (order or store.missing())[:stop]:
            store.commit(shard, encode_shard(store, shard, manifest, source, encoder, encoding.old))
        return encoding.finish(store) if stop is None else store


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
