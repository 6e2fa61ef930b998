import math

import numpy as np
import pytest
import torch

from gensys.core import Posterior
from gensys.data.latents import LatentSource, Normalisation, create_latents, latent_arrays, seal_latents, statistics
from gensys.data.manifest import Manifest, to_bytes
from gensys.data.sources import is_test, open_source, split
from gensys.data.store import ArraySpec, Store
from gensys.errors import DataError, StoreError
from gensys.noise import Noise, Stream

SHAPE, N = (3, 4, 4), 300
CODEC = {"run": "runs/vae", "weights": "abc"}


class Data:
    """A source that is only what an encoder asks of it."""

    name, about, shape, classes, first_test = "toy", "a toy", (1, 8, 8), ("even", "odd"), None

    def __init__(self, n=N, content="1"):
        self.n, self.content = n, content

    def __len__(self):
        return self.n

    def fingerprint(self):
        return self.content

    def origin(self, rows):
        return rows

    def digests(self):
        return np.arange(self.n, dtype="<u8")[:, None].repeat(2, 1).view(np.uint8)

    def named(self, rows):
        return [f"item-{row}" for row in rows.tolist()]

    def quarantine(self):
        return {}


def create(path, source, shape, codec=CODEC, dtype="float16", shard=64, chunk=16):
    arrays = latent_arrays(Posterior(torch.zeros(1, *shape), torch.zeros(1, *shape)), dtype)
    return create_latents(path, source, arrays, codec, Manifest.fresh(source), shard=shard, chunk=chunk)


def what(rows, label=-1):
    """The arrays that say what rows are."""
    rows = np.asarray(rows)
    label = np.broadcast_to(np.asarray(label, np.int64), rows.shape)
    state, digest = np.zeros(rows.shape, "u1"), np.zeros((*rows.shape, 16), "u1")
    name = to_bytes([f"item-{row}" for row in rows])
    return {"row": rows, "label": label, "state": state, "digest": digest, "name": name}


def encode(path, source=None, dtype="float32", order=None, **options):
    """Fill a store: what is written depends on the row alone."""
    source = source or Data()
    store = create(path, source, SHAPE, dtype=dtype, **options)
    for shard in store.missing() if order is None else order:
        rows = torch.tensor(store.rows_of(shard))
        noise = Noise(1, rows)
        scale = torch.tensor([1.0, 0.1, 10.0])[:, None, None]
        mean = noise.normal(SHAPE, Stream.EPS) * scale + torch.tensor([0.0, 5.0, -3.0])[:, None, None]
        logvar = noise.uniform(SHAPE, Stream.TIME) - 1
        arrays = {"mean": mean.numpy().astype(dtype), "logvar": logvar.numpy().astype(dtype)}
        store.commit(shard, arrays | what(rows, rows % 2))
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = encode(tmp_path_factory.mktemp("latents") / "toy.zarr")
    seal_latents(made)
    return made


@pytest.fixture(scope="module")
def source(store):
    return open_source(store.path)


def test_what_it_is(source):
    assert isinstance(source, LatentSource)
    assert (source.name, source.shape, source.classes, len(source)) == ("toy", SHAPE, ("even", "odd"), N)
    assert "300 latents" in source.about
    assert "runs/vae" in source.about


def test_a_batch_is_a_normalised_draw_from_the_posterior(store, source):
    rows = torch.tensor([299, 0, 64, 0, 7])
    noise = Noise(9, torch.tensor([299, 0, 64, 1, 7]), step=3)
    batch = source.batch(rows, noise)
    mean, logvar = (torch.from_numpy(store.read(name, rows)) for name in ("mean", "logvar"))
    z = Posterior(mean, logvar).sample(noise.normal(SHAPE, Stream.POSTERIOR))
    shift, scale = (torch.tensor(v)[:, None, None] for v in (source.normalisation.mean, source.normalisation.std))
    assert torch.allclose(batch.x, (z - shift) / scale, atol=1e-6)
    assert torch.allclose(source.normalisation.denormalise(batch.x), z, atol=1e-5)
    assert batch.cond["label"].tolist() == [1, 0, 0, 0, 1]
    assert torch.equal(batch.ids, rows)
    assert not torch.equal(batch.x[1], batch.x[3])  # another id, another draw
    assert torch.equal(source.batch(rows[:1], Noise(9, rows[:1], step=3)).x, batch.x[:1])
    assert not torch.equal(source.batch(rows[:1], Noise(9, rows[:1], step=4)).x, batch.x[:1])


def test_the_statistics_are_those_of_the_draws(store, source):
    """Against the plain formula over everything at once, and against draws."""
    mean, logvar = (store.read(name, range(N)).astype(np.float64) for name in ("mean", "logvar"))
    axes = (0, 2, 3)
    wanted = np.sqrt(mean.var(axes) + np.exp(logvar).mean(axes))
    assert source.normalisation.mean == pytest.approx(mean.mean(axes), rel=1e-12)
    assert source.normalisation.std == pytest.approx(wanted, rel=1e-12)
    rows = torch.arange(N)
    draws = torch.cat([source.batch(rows, Noise(0, rows, step)).x for step in range(40)])
    error = 4 / math.sqrt(N * 16)  # the means are the same in all draws
    assert draws.mean((0, 2, 3)).abs().max() < error
    assert (draws.var((0, 2, 3)) - 1).abs().max() < 1.5 * error


def test_the_statistics_do_not_depend_on_who_was_first(tmp_path, store):
    other = encode(tmp_path / "toy.zarr", order=[3, 0, 4, 2, 1])
    assert seal_latents(other) == statistics(store)
    assert LatentSource.open(other.path).fingerprint() == LatentSource.open(store.path).fingerprint()


def test_large_offsets_do_not_spoil_the_variance(tmp_path):
    """Sums of squares would lose all digits here."""
    store = create(tmp_path / "s.zarr", Data(64), (1,), dtype="float32")
    mean = (1e4 + np.arange(64, dtype=np.float32)[:, None] / 64).astype("f4")
    store.commit(0, {"mean": mean, "logvar": np.full((64, 1), -40, "f4")} | what(range(64)))
    assert statistics(store).std[0] == pytest.approx(mean.astype(np.float64).std(), rel=1e-9)


def test_the_split_is_that_of_the_data(tmp_path, source):
    _, test = split(source)
    assert torch.equal(test, is_test(torch.arange(N), None).nonzero().flatten())
    official = Data()
    official.first_test = 250
    seal_latents(encode(tmp_path / "toy.zarr", official))
    assert split(open_source(tmp_path / "toy.zarr"))[1].tolist() == list(range(250, 300))
    some = create(tmp_path / "some.zarr", Data(2), (1,), shard=2, chunk=2)  # rows 21 and 22 of the data
    half = np.array([[0.0], [1.0]], np.float16)
    some.commit(0, {"mean": half, "logvar": half} | what([21, 22]))
    seal_latents(some)
    assert [rows.tolist() for rows in split(open_source(some.path))] == [[1], [0]]


def test_half_precision_and_small_data(tmp_path):
    store = encode(tmp_path / "toy.zarr", Data(10), "float16")
    seal_latents(store)
    rows = torch.arange(10)
    assert open_source(store.path).batch(rows, Noise(0, rows)).x.dtype == torch.float32


def test_unlabelled_data(tmp_path):
    data = Data()
    data.classes = ()
    seal_latents(encode(tmp_path / "toy.zarr", data))
    rows = torch.arange(3)
    assert open_source(tmp_path / "toy.zarr").batch(rows, Noise(0, rows)).cond == {}


def test_a_store_belongs_to_its_codec_and_data(tmp_path):
    encode(tmp_path / "toy.zarr", order=[0])
    assert encode(tmp_path / "toy.zarr").missing() == []  # goes on
    with pytest.raises(StoreError, match=r"'attributes\.source\.fingerprint' is .1. there and .2. here"):
        encode(tmp_path / "toy.zarr", Data(content="2"))
    with pytest.raises(StoreError, match=r"'attributes\.codec\.weights' is .abc. there and .def. here"):
        create(tmp_path / "toy.zarr", Data(), SHAPE, CODEC | {"weights": "def"}, "float32")
    with pytest.raises(StoreError, match="'dtype' must be one of"):
        create(tmp_path / "new.zarr", Data(), SHAPE, CODEC, "int64")


def test_unfinished_stores_are_refused(tmp_path):
    store = encode(tmp_path / "toy.zarr", order=[0, 2])
    with pytest.raises(StoreError, match=r"3 of 5 shards missing.*same `gensys encode`"):
        open_source(store.path)
    with pytest.raises(StoreError, match="lacks 3 of 5 shards"):
        seal_latents(store)
    with pytest.raises(StoreError, match="nothing is there"):
        open_source(tmp_path / "none.zarr")


def test_stores_of_something_else_are_refused(tmp_path):
    store = Store.create(tmp_path / "s.zarr", {"x": ArraySpec((1,), "uint8")}, 1, 1, 1, {})
    store.commit(0, {"x": np.zeros((1, 1), np.uint8)})
    store.seal({})
    with pytest.raises(StoreError, match="does not hold latents"):
        open_source(store.path)


@pytest.mark.parametrize(("name", "value"), [("mean", np.nan), ("mean", np.inf), ("logvar", np.inf)])
def test_latents_that_are_not_finite(tmp_path, name, value):
    store = create(tmp_path / "s.zarr", Data(8), (2,), shard=8, chunk=4)
    arrays = {"mean": np.zeros((8, 2), "f2"), "logvar": np.zeros((8, 2), "f2")}
    arrays[name][5, 1] = value
    store.commit(0, arrays | what(range(8)))
    with pytest.raises(StoreError, match=r"rows 4\.\.7 .* not all finite"):
        seal_latents(store)
    assert not store.sealed


def test_latents_that_never_vary(tmp_path):
    store = create(tmp_path / "s.zarr", Data(8), (2,), dtype="float32", shard=8, chunk=4)
    arrays = {"mean": np.ones((8, 2), "f4"), "logvar": np.full((8, 2), -1e4, "f4")}
    store.commit(0, arrays | what(range(8)))
    with pytest.raises(StoreError, match="cannot be normalised"):
        seal_latents(store)


def test_bad_arguments(source):
    with pytest.raises(IndexError, match="'rows' must lie"):
        source.batch(torch.tensor([N]), Noise(0, torch.tensor([N])))
    with pytest.raises(DataError, match="'noise' must have one id"):
        source.batch(torch.tensor([0]), Noise(0, torch.arange(2)))
    with pytest.raises(ValueError, match=r"'z' must be \(B, 2, \.\.\.\)"):
        Normalisation([0, 0], [1, 1]).normalise(torch.zeros(1, 3))


def test_rows_of_a_store_have_digests_and_names(tmp_path, source):
    digests = source.digests()
    assert digests.shape == (N, 16)
    assert len(np.unique(digests, axis=0)) == N
    again = encode(tmp_path / "other.zarr", shard=32)
    seal_latents(again)
    assert np.array_equal(LatentSource.open(again.path).digests(), digests)
    assert source.named(torch.tensor([3])) == ["item-3"]
    assert (source.texts(torch.tensor([3])), source.quarantine()) == (None, {})
