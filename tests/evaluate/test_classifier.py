"""The classifier as a function of its arguments, its file cache and the batch-free features; no real data."""

import dataclasses
import json

import pytest
import torch

from gensys.evaluate import classifier as module
from gensys.evaluate.classifier import accuracy, features, judge, logits, tensor_hash, train_classifier, weights_hash
from gensys.nn.lenet import LeNet


def blobs(n, size=28, channels=1):
    """Three easy classes: where the bright square is."""
    labels = torch.arange(n) % 3
    images = 0.3 * torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0)) - 0.5
    for c in range(3):
        images[labels == c, :, 8 * c + 2 : 8 * c + 8, 4:20] += 1.0
    return images.clamp(-1, 1), labels


IMAGES, LABELS = blobs(200)


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (48, 28), (64, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_network_takes_28_to_64_pixels(size, channels):
    network, x = LeNet(channels, 7), torch.rand(2, channels, *size)
    assert network(x).shape == (2, 7)
    lengths = network.features(x).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((2,), 8.0))


@pytest.mark.parametrize("shape", [(2, 1, 27, 28), (2, 1, 28, 65), (2, 3, 28, 28), (1, 28, 28)])
def test_the_network_names_the_shape_it_wants(shape):
    with pytest.raises(ValueError, match=r"'x' must have shape \(B, 1, 28..64, 28..64\)"):
        LeNet(1, 2)(torch.zeros(shape))


def test_every_parameter_is_trained():
    network = LeNet(1, 3)
    network(IMAGES).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_same_arguments_same_weights_whatever_the_threads_and_the_global_generator():
    threads = torch.get_num_threads()
    torch.manual_seed(1)
    first = weights_hash(train_classifier(IMAGES, LABELS, 3, seed=5, steps=8))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        second = weights_hash(train_classifier(IMAGES, LABELS, 3, seed=5, steps=8))
    finally:
        torch.set_num_threads(threads)
    assert first == second
    assert torch.equal(before, torch.get_rng_state())
    assert weights_hash(train_classifier(IMAGES, LABELS, 3, seed=6, steps=8)) != first
    assert weights_hash(train_classifier(IMAGES, LABELS, 3, seed=5, steps=9)) != first


def test_it_learns_even_from_fewer_images_than_a_batch():
    network = train_classifier(IMAGES[:30], LABELS[:30], 3, steps=60)
    assert accuracy(network, IMAGES[30:], LABELS[30:]) == 1.0
    assert not network.training


def test_features_of_a_row_depend_on_that_row_alone():
    network = LeNet(1, 3).eval()
    whole = features(network, IMAGES, batch=64)
    assert whole.dtype == torch.float64
    assert whole.shape == (200, 64)
    order = torch.arange(200).flip(0)
    assert torch.equal(features(network, IMAGES[order], batch=64), whole[order])
    assert torch.equal(features(network, IMAGES[:7], batch=64), whole[:7])
    assert torch.equal(features(network, IMAGES[100:101], batch=64), whole[100:101])
    assert torch.equal(logits(network, IMAGES[:7]).argmax(1), logits(network, IMAGES).argmax(1)[:7])


def test_the_hash_sees_names_shapes_types_and_bits():
    x = torch.arange(4.0)
    base = tensor_hash({"a": x})
    others = [{"b": x}, {"a": x.view(2, 2)}, {"a": x.double()}, {"a": x + 1}, {"a": x.view(torch.int32)}]
    assert base == tensor_hash({"a": x.clone()})
    assert len({base, *map(tensor_hash, others)}) == 6
    assert tensor_hash({"a": x, "b": x + 1}) == tensor_hash({"b": x + 1, "a": x})
    assert tensor_hash({"a": torch.tensor(3.0)}) != tensor_hash({"a": torch.tensor(4.0)})  # scalars too


def test_a_judge_is_trained_once_and_read_back(tmp_path, monkeypatch):
    first = judge(tmp_path / "new", IMAGES, LABELS, IMAGES[:50], LABELS[:50], 3, steps=5)
    assert (first.held_out, first.trained_on, first.steps) == (50, 200, 5)
    monkeypatch.setattr(module, "train_classifier", None)  # a second training would fail
    again = judge(tmp_path / "new", IMAGES, LABELS, IMAGES[:50], LABELS[:50], 3, steps=5)
    plain = [dataclasses.replace(found, classifier=None) for found in (first, again)]  # type: ignore[arg-type]
    assert plain[0] == plain[1]
    assert weights_hash(again.classifier) == first.weights
    assert not again.classifier.training
    assert sorted(path.suffix for path in (tmp_path / "new").iterdir()) == [".json", ".safetensors"]


def test_other_data_or_settings_are_another_judge(tmp_path):
    for labels, seed in [(LABELS, 0), (LABELS.flip(0), 0), (LABELS, 1)]:
        judge(tmp_path, IMAGES, labels, IMAGES[:9], LABELS[:9], 3, seed, steps=1)
    assert len(list(tmp_path.glob("*.json"))) == 3


@pytest.mark.parametrize("name", ["accuracy", "weights"])
def test_a_judge_that_was_changed_is_trained_again(tmp_path, name):
    judge(tmp_path, IMAGES, LABELS, IMAGES[:9], LABELS[:9], 3, steps=1)
    described = next(tmp_path.glob("*.json"))
    before = described.read_bytes()
    described.write_text(json.dumps({**json.loads(before), name: "0" * 64}))
    judge(tmp_path, IMAGES, LABELS, IMAGES[:9], LABELS[:9], 3, steps=1)
    assert described.read_bytes() == before


@pytest.mark.parametrize(
    ("images", "labels", "classes", "steps", "match"),
    [
        (IMAGES[:0], LABELS[:0], 3, 1, "'images' needs at least 1 rows"),
        (IMAGES * torch.nan, LABELS, 3, 1, "'images' must be finite"),
        (IMAGES * 127.5 + 127.5, LABELS, 3, 1, r"'images' must lie in \[-1, 1\].* x / 127.5 - 1"),
        ((IMAGES * 127).byte(), LABELS, 3, 1, "'images' must be floating point"),
        (IMAGES[0], LABELS, 3, 1, "'images' must be a tensor of shape"),
        (IMAGES, LABELS[:5], 3, 1, r"'labels' must be \(200,\) int64"),
        (IMAGES, LABELS.float(), 3, 1, r"'labels' must be \(200,\) int64"),
        (IMAGES, LABELS, 2, 1, r"'labels' must lie in \[0, 2\), got 0..2"),
        (IMAGES, LABELS, 3, 0, "'steps' must be at least 1"),
        (IMAGES, LABELS * 0, 1, 1, "'classes' must be at least 2"),
    ],
)
def test_errors_name_the_argument(images, labels, classes, steps, match):
    with pytest.raises(ValueError, match=match):
        train_classifier(images, labels, classes, steps=steps)


def test_features_ask_for_a_batch():
    with pytest.raises(ValueError, match="'batch' must be at least 1"):
        features(LeNet(1, 3), IMAGES, batch=0)
