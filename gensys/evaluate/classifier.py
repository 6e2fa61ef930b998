"""The classifier whose features the metrics use: trained here on real images, named by a hash of its weights.

No pretrained network is needed, and none is pretended: a distance in these features is comparable only with others
taken with the same weights (`Judge.weights`), and must never be trained on.

Same images, settings, torch version and CPU type = the same bits: order and shifts of the images are counter-based
noise, the initial weights have a seed of their own, and torch runs on one thread.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from gensys import durable
from gensys.evaluate.batches import in_batches
from gensys.evaluate.checks import check_images, check_labels, one_thread
from gensys.nn.lenet import LeNet
from gensys.noise import Noise, Stream

__all__ = [
    "Judge",
    "accuracy",
    "features",
    "judge",
    "logits",
    "saved",
    "tensor_hash",
    "train_classifier",
    "weights_hash",
]


@dataclass(frozen=True)
class _Recipe:
    """Everything that decides the weights besides data, seed and steps; part of the cache key."""

    network: str = "lenet-1"
    batch: int = 64
    rate: float = 4e-3  # the peak of the learning rate: half of it learns more slowly, at 1e-2 some seeds fail
    warm_up: float = 0.2  # of all steps, linearly up; then linearly down to 0, which averages the last steps' noise out
    weight_decay: float = 0.01
    beta2: float = 0.99  # a memory of 100 steps: with 0.999 so short a run would end before forgetting its warm-up
    shift: int = 2  # pixels each way


WIDTH = LeNet.width
"""The number of features of an image."""

_RECIPE = _Recipe()
_BATCH = 256


@dataclass(frozen=True)
class Judge:
    """A trained classifier and what it is.

    classifier: in eval mode. weights: sha256 of its weights. accuracy: on the held-out images, in [0, 1].
    held_out, trained_on: how many images. seed, steps: of its training.
    """

    classifier: LeNet
    weights: str
    accuracy: float
    held_out: int
    trained_on: int
    seed: int
    steps: int


def _shifted(padded: Tensor, rows: Tensor, shifts: Tensor, height: int, width: int) -> Tensor:
    """Crops of padded (N, H', W', C): row rows[b] from corner shifts[b], (B, C, height, width)."""
    down = shifts[:, 0, None] + torch.arange(height, device=rows.device)
    right = shifts[:, 1, None] + torch.arange(width, device=rows.device)
    return padded[rows[:, None, None], down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2)


def _rate(step: int, steps: int) -> float:
    """The one-cycle learning rate (Smith, 2018, arXiv:1803.09820) as two straight lines; momentum is left alone."""
    warm = max(1.0, _RECIPE.warm_up * steps)
    return _RECIPE.rate * min((step + 1) / warm, (steps - step) / max(1.0, steps - warm))


def train_classifier(images: Tensor, labels: Tensor, classes: int, seed: int = 0, steps: int = 1000) -> LeNet:
    """Train a LeNet on (N, C, H, W) images in [-1, 1] with (N,) int64 labels in [0, classes).

    Cross-entropy, AdamW, one-cycle learning rate, random shifts of up to 2 pixels; batches of 64 without replacement
    within an epoch. 1,000 steps on 32 x 32 digits are about six seconds of one core.
    Returns the network in eval mode. ValueError for empty, non-finite, unscaled images or labels that do not fit.
    """
    check_images("images", images)
    n, channels, height, width = images.shape
    check_labels("labels", labels, n, classes)
    if steps < 1:
        raise ValueError(f"'steps' must be at least 1, got {steps}")
    with torch.random.fork_rng(devices=[]):  # only the CPU's generator: weights are drawn there, then moved
        torch.manual_seed(seed)
        network = LeNet(channels, classes)
    network.to(images.device).train()
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=_RECIPE.rate,
        betas=(0.9, _RECIPE.beta2),
        weight_decay=_RECIPE.weight_decay,
    )
    batch, shift = min(_RECIPE.batch, n), _RECIPE.shift
    # Edges are repeated, not filled with a colour: no border shows how far an image was shifted.
    padded = functional.pad(images.float(), (shift,) * 4, mode="replicate").permute(0, 2, 3, 1).contiguous()
    ids = torch.arange(n, device=images.device)
    order, shifts = ids, ids
    with one_thread(), torch.enable_grad():
        for step in range(steps):
            epoch, at = divmod(step, n // batch)  # the ragged rest of an epoch is left out: its batch would weigh more
            if at == 0:
                draws = Noise(seed, ids, epoch).uniform((3,), Stream.AUGMENT)
                shifts = (draws[:, :2] * (2 * shift + 1)).long()
                order = draws[:, 2].argsort(stable=True)  # stable: 23-bit keys do tie now and then
            rows = order[at * batch : (at + 1) * batch]
            x = _shifted(padded, rows, shifts[rows], height, width)
            for group in optimizer.param_groups:
                group["lr"] = _rate(step, steps)
            loss = functional.cross_entropy(network(x), labels[rows].to(x.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def features(classifier: LeNet, images: Tensor, batch: int = _BATCH) -> Tensor:
    """Penultimate features of (n, C, H, W) images: (n, 64) float64 on the CPU, for statistics in float64.

    Every batch has `batch` rows, so a row's features depend neither on n nor on its neighbours.
    """
    return in_batches(lambda x: [classifier.features(x)], images, batch, classifier.head.weight.device)[0].double()


def logits(classifier: LeNet, images: Tensor, batch: int = _BATCH) -> Tensor:
    """Class logits of (n, C, H, W) images: (n, classes) float32 on the CPU; batches as in `features`."""
    return in_batches(lambda x: [classifier(x)], images, batch, classifier.head.weight.device)[0]


def accuracy(classifier: LeNet, images: Tensor, labels: Tensor) -> float:
    """The fraction, in [0, 1], of images whose largest logit is their label's."""
    check_labels("labels", labels, images.shape[0], classifier.classes)
    return float((logits(classifier, images).argmax(1) == labels.cpu()).double().mean())


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over (name, dtype, shape, bytes) of every tensor, by name: the identity of weights or of data."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights_hash(classifier: LeNet) -> str:
    """sha256 of the weights: two sets of figures compare only if this is the same."""
    return tensor_hash(classifier.state_dict())


def _replace(path: Path, write: Callable[[str], object]) -> None:
    """Write beside, then rename: a reader sees a whole file or none; of two writers of equal bytes either may win."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    write(name)
    Path(name).replace(path)


def _load(folder: Path, key: str, channels: int, classes: int) -> Judge | None:
    """The judge that was saved under `key`; None if there is none, or a damaged one: it is then trained again."""
    classifier = LeNet(channels, classes)
    try:
        meta = durable.without_digest(json.loads((folder / f"{key}.json").read_bytes()))
        classifier.load_state_dict(load_file(folder / f"{key}.safetensors"))
        return Judge(classifier.eval(), **meta) if weights_hash(classifier) == meta["weights"] else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError):  # RuntimeError: other tensors
        return None


def saved(folder: Path | str, weights: str) -> LeNet:
    """The classifier in `folder` whose weights have this hash, as `judge` saved it. ValueError if there is none."""
    for described in sorted(Path(folder).glob("*.json")):
        if json.loads(described.read_text())["weights"] == weights:
            classifier = LeNet.of(load_file(described.with_suffix(".safetensors")))
            if weights_hash(classifier) == weights:
                return classifier.eval()
    raise ValueError(f"'weights': {str(folder)!r} holds no classifier whose weights have the hash {weights}")


def judge(
    folder: Path | str,
    images: Tensor,
    labels: Tensor,
    held_images: Tensor,
    held_labels: Tensor,
    classes: int,
    seed: int = 0,
    steps: int = 1000,
) -> Judge:
    """The classifier for these training and held-out images: from `folder` if it is there, else trained and saved.

    The file name is a sha256 of all data, settings and the torch version, so a stale one is never found. Written as
    {key}.safetensors and {key}.json, each whole or not at all; several processes may ask at once.
    """
    check_images("images", images)
    check_labels("labels", labels, images.shape[0], classes)
    check_images("held_images", held_images, tuple(images.shape[1:]))
    check_labels("held_labels", held_labels, held_images.shape[0], classes)
    data = {"images": images, "labels": labels, "held_images": held_images, "held_labels": held_labels}
    settings = {**asdict(_RECIPE), "classes": classes, "seed": seed, "steps": steps, "torch": torch.__version__}
    key = hashlib.sha256((tensor_hash(data) + json.dumps(settings, sort_keys=True)).encode()).hexdigest()[:32]
    folder = Path(folder)
    if (found := _load(folder, key, images.shape[1], classes)) is not None:
        found.classifier.to(images.device)
        return found
    classifier = train_classifier(images, labels, classes, seed, steps)
    trained = Judge(
        classifier=classifier,
        weights=weights_hash(classifier),
        accuracy=accuracy(classifier, held_images, held_labels),
        held_out=held_images.shape[0],
        trained_on=images.shape[0],
        seed=seed,
        steps=steps,
    )
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.cpu() for name, tensor in classifier.state_dict().items()}
    _replace(folder / f"{key}.safetensors", lambda name: save_file(state, name))
    meta = {field.name: getattr(trained, field.name) for field in fields(trained) if field.name != "classifier"}
    durable.replace(folder / f"{key}.json", durable.with_digest(meta))
    return trained
