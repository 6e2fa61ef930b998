"""Run folders made by hand, for tests of reports, and a reader of their pages."""

import json
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from gensys.data.store import ArraySpec, Store

EVIL = "<script>alert('x')</script>"
VOID = {"meta", "img", "source", "line", "circle", "polyline", "br"}


class Page(HTMLParser):
    """A parser that wants every element closed, and that collects what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def metric(value, floor=None, low=None, high=None, unit="", better="higher", n=100, about="what it is"):
    return {"value": value, "floor": floor, "low": low, "high": high} | {
        "unit": unit,
        "better": better,
        "n": n,
        "about": about,
    }


METRICS = {
    "fd_lenet_100": metric(200.0, 50.0, 190.0, 210.0, better="lower"),
    "label_agreement": metric(0.9, 0.98, 0.85, 0.94),
    "reconstruction_psnr": metric(25.125, None, 24.96, 25.25, unit="dB"),
}


def make(folder, *, recipe="latent_dit", codec=False, lines=30):
    folder.mkdir(parents=True)
    knobs = {"data": str(folder / "latents.zarr"), "lr": 2e-3, "budget": "20s", "empty": ""}
    data = {"name": "digits", "about": "digits made by hand", "fingerprint": "ab" * 16}
    (folder / "run.json").write_text(
        json.dumps({"recipe": recipe, "knobs": knobs, "data": data, "train_rows": 4465, "extra": None})
    )
    (folder / "env.json").write_text(json.dumps({"gensys": "0.1.0", "memory_bytes": 2**34, "gpus": []}))
    log = [
        {"step": k, "loss": 2.0 / (k + 1), "lr": 1e-3, "images": 64 * k, "seconds": 0.5 * k} for k in range(1, lines)
    ]
    if codec:
        log = [{**line, "reconstruction": line["loss"], "kl": 9.0} for line in log]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (folder / "samples").mkdir()
    for step in range(0, 900, 100):
        Image.new("L", (20, 10), step // 4).save(folder / "samples" / f"{step:08d}.png")
    return folder


def store(path, n=30, shape=(1, 8, 8), labels=None, classes=(), **attributes):
    made = Store.create(
        path,
        {"x": ArraySpec(shape, "uint8"), "label": ArraySpec((), "int64")},
        rows=n,
        shard=n,
        chunk=n,
        attributes={"kind": "samples", "classes": list(classes), "seed": 7, "first": 0, "label": None, **attributes},
    )
    x = np.random.default_rng(0).integers(0, 256, (n, *shape), np.uint8)
    made.commit(0, {"x": x, "label": np.asarray(labels if labels is not None else [-1] * n, np.int64)})
    made.seal({})
    return made


def whole(folder):
    """A run with everything."""
    make(folder)
    make(folder / "codec", recipe="kl_autoencoder", codec=True)
    store(folder / "samples.zarr", labels=[k % 3 for k in range(30)], classes=["ant", "bee", "cat"], run=str(folder))
    frames = [Image.new("RGBA", (12, 6), (k, k, k, 255)) for k in (0, 99, 200)]
    frames[0].save(folder / "trajectory.png", save_all=True, append_images=frames[1:], duration=100, loop=0)
    Image.new("L", (20, 10)).save(folder / "reconstructions.png")
    protocol = {"sampler": {"solver": "heun", "seed": 1234}, "weights": "cd" * 32, "interval": [0.1, 0.8]}
    (folder / "evaluation.json").write_text(json.dumps({"metrics": METRICS, "protocol": protocol, "seconds": 3.5}))
    (folder / "stages.json").write_text(
        json.dumps([{"stage": "train codec", "seconds": 61.0, "detail": "fast"}, {"stage": "sample", "seconds": 30}])
    )
    return folder
