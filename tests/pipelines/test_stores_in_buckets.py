"""The commands with stores in a bucket of an imitation of S3 (moto): the bytes of a directory, and what cannot be."""

import json
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from gensys.cli import cli
from gensys.data.place import open_place
from gensys.data.store import Store

CODEC = ["size=16", "channels=2", "width=8", "budget=32", "batch=16", "precision=fp32"]


def ask(*words, code=0):
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """images/ of 150 in two classes, the run of a codec, its latents z.zarr."""
    root = tmp_path_factory.mktemp("buckets")
    for k in range(150):
        path = root / "images" / ("cat", "dog")[k % 2] / f"{k:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (16, 16), np.uint8)).save(path)
    ask("train", "kl_autoencoder", f"data={root / 'images'}", *CODEC, "--run", root / "codec", "-q")
    ask("encode", root / "codec", "--out", root / "z.zarr", "--shard", "64", "-q")
    return root


@pytest.fixture
def folder(bucket, tmp_path, monkeypatch):
    """URL of a folder of its own."""
    monkeypatch.setenv("GENSYS_CACHE", str(tmp_path / "cache"))
    return f"{bucket}/{uuid.uuid4().hex}"


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def objects(where):
    place = open_place(where)
    names = sorted(item["path"] for some in place._store.list() for item in some)
    return {name: place.read(name) for name in names}


def latents(root, folder, *more, code=0):
    return ask("encode", root / "codec", "--out", f"{folder}/z.zarr", "--shard", "64", "-q", *more, code=code)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of importing ray
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_encoding_gives_the_bytes_of_a_directory(root, folder, workers):
    assert f"in {folder}/z.zarr\n" in latents(root, folder, "--workers", workers)
    assert objects(f"{folder}/z.zarr") == files(root / "z.zarr")
    assert {name.split("/")[0] for name in objects(folder)} == {"z.zarr"}  # the manifest beside it is gone
    assert "all well (sealed)" in ask("verify", f"{folder}/z.zarr")


@pytest.mark.parametrize("left", ["nothing", "a half"])
def test_encoding_goes_on_after_a_cut(root, folder, monkeypatch, left):
    """left: of the manifest, by whoever was killed while it cleared it away."""
    real = Store.commit

    def cut(store, shard, arrays):
        if "mean" in arrays and shard == 1:
            raise KeyboardInterrupt
        return real(store, shard, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", cut)
        latents(root, folder, code=130)
    assert 1 in Store.open(f"{folder}/z.zarr").missing()
    if left == "a half":
        rows = open_place(f"{folder}/.z.zarr.rows")
        rows.remove([name for name in objects(f"{folder}/.z.zarr.rows") if not name.endswith("zarr.json")])
    told = latents(root, folder)
    assert objects(f"{folder}/z.zarr") == files(root / "z.zarr"), told
    assert {name.split("/")[0] for name in objects(folder)} == {"z.zarr"}
    open_place(f"{folder}/.z.zarr.rows").publish("zarr.json", b"{}")  # killed after sealing
    latents(root, folder)
    assert {name.split("/")[0] for name in objects(folder)} == {"z.zarr"}


def test_training_on_a_bucket_and_sampling_into_one(root, folder, tmp_path):
    latents(root, folder)
    runs = {}
    for name, data in (("here", root / "z.zarr"), ("far", f"{folder}/z.zarr")):
        runs[name] = tmp_path / name
        small = ["width=16", "depth=1", "heads=2", "steps=2", "batch=16", "budget=32", "precision=fp32"]
        ask("train", "latent_dit", f"data={data}", *small, "--run", runs[name], "-q")
    weights = [next(run.glob("checkpoints/*/average.safetensors")).read_bytes() for run in runs.values()]
    assert weights[0] == weights[1]
    draw = ["sample", runs["far"], "--seeds", "100", "--shard", "64", "-q"]
    ask(*draw, "--out", tmp_path / "x.zarr")
    assert f"next: gensys verify {folder}/x.zarr" in ask(*draw, "--out", f"{folder}/x.zarr")
    assert objects(f"{folder}/x.zarr") == files(tmp_path / "x.zarr")
    assert f"next: gensys decode {folder}/d.zarr" in ask(*draw, "--latents", "--out", f"{folder}/d.zarr")
    ask("decode", f"{folder}/d.zarr", "-q")
    there, here = Store.open(f"{folder}/samples.zarr"), Store.open(tmp_path / "x.zarr")
    np.testing.assert_array_equal(there.read("x", range(100)), here.read("x", range(100)))


def test_stores_of_many_shapes(root, folder, tmp_path):
    made = [tmp_path / "a.zarr", f"{folder}/a.zarr"]
    for out in made:
        ask("encode", root / "codec", "--out", out, "--shard", "64", "--aspect", "2", "-q")
    assert objects(made[1]) == files(made[0])
    assert "all well" in ask("verify", made[1])


def test_a_flipped_bit_is_found_and_made_again(root, folder):
    latents(root, folder)
    where = f"{folder}/z.zarr"
    place, name = Store.open(where).place, Store.open(where).shard_file("mean", 1)
    data = bytearray(place.read(name))
    data[40] ^= 1
    place.replace(name, bytes(data))
    assert f"{where}: 1 problem" in ask("verify", where, code=1)
    ask("verify", where, "--repair")
    latents(root, folder)
    assert objects(where) == files(root / "z.zarr")


def test_what_a_store_is(root, folder):
    latents(root, folder)
    there, here = (json.loads(ask("data", "info", where, "--json")) for where in (f"{folder}/z.zarr", root / "z.zarr"))
    assert there.pop("store") == f"{folder}/z.zarr"
    del here["store"]
    assert there == here
    assert ask("data", "info", f"{folder}/z.zarr").startswith(f"{folder}/z.zarr\n")


def test_what_cannot_be(root, folder, monkeypatch, tmp_path):
    latents(root, folder)
    where = f"{folder}/z.zarr"
    said = latents(root, folder, "--update", code=1)
    assert "--update puts one directory in the place of another" in said
    assert where in said
    other = latents(root, folder, "--data", "mnist", code=1)
    assert "trained on (1, 16, 16)" in other
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gensys.data.images.Images.fingerprint", lambda self: "0" * 32)
        changed = latents(root, folder, code=1)
    assert "Choose another --out" in changed
    assert "--update encodes" not in changed
    for url in ("s3://no-such-bucket-here/z.zarr", "s3://bucket", "ftp://a/z.zarr"):
        for words in (("encode", root / "codec", "--out", url, "-q"), ("verify", url), ("data", "info", url)):
            said = ask(*words, code=1)
            assert url in said
            assert "bug" not in said
        assert url in ask("train", "latent_dit", f"data={url}", "--run", tmp_path / "run", code=1)
    assert "is in a bucket: this takes a path" in ask("evaluate", where, code=2)


class Refusing(BaseHTTPRequestHandler):
    """A server that knows no key."""

    def do_GET(self):
        self.send_response(403)
        self.end_headers()
        self.wfile.write(b"<Error><Code>InvalidAccessKeyId</Code></Error>")

    do_PUT = do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("fault", ["wrong credentials", "unreachable"])
def test_a_server_that_does_not_serve(root, monkeypatch, tmp_path, fault):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "wrong")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port if fault == "wrong credentials" else 9
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        url, told = "s3://bucket/z.zarr", {"wrong credentials": "403 Forbidden", "unreachable": "127.0.0.1:9"}[fault]
        for words in (
            ("encode", root / "codec", "--out", url, "-q"),
            ("sample", root / "codec", "--out", url, "-q"),
            ("verify", url),
            ("train", "latent_dit", f"data={url}", "--run", tmp_path / "run"),
        ):
            said = ask(*words, code=1)
            assert url in said
            assert told in said
            assert "bug" not in said
        server.shutdown()
    assert not (tmp_path / "run" / "run.json").exists()
