"""One call that scores images: samples, reconstructions, translations. What a score is: metric.py.

The floor is what other real images get under the same protocol. Intervals hold the real images and the classifier
fixed: they say what other samples of this model would give.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gensys.evaluate.checks import check_images, check_labels, one_thread
from gensys.evaluate.classifier import features, logits
from gensys.evaluate.frechet import Moments, frechet
from gensys.evaluate.memorisation import QUANTILE, memorisation
from gensys.evaluate.metric import Metric, bootstrap_half, mean_metric, proportion_interval, share_metric
from gensys.evaluate.prdc import prdc
from gensys.evaluate.reconstruction import psnr, squared_errors
from gensys.nn.lenet import LeNet

__all__ = [
    "Metric",
    "evaluate_bits",
    "evaluate_moments",
    "evaluate_reconstruction",
    "evaluate_samples",
    "evaluate_translation",
    "proportion_interval",
]

_NEIGHBOURS = 5
_LEAST_HELD = 100
_LEAST_PARTS = 8  # resamples of fewer are too alike for a spread to mean anything


def _digests(images: Tensor) -> list[bytes]:
    rows = images.detach().cpu().float().contiguous().flatten(1).numpy()
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]


def _unseen(real: Tensor, train: Tensor) -> Tensor:
    """The rows of `real` that are not, bit for bit, rows of `train`."""
    known = set(_digests(train))
    return real[torch.tensor([digest not in known for digest in _digests(real)], dtype=torch.bool, device=real.device)]


def _check_disjoint(floor: Tensor, reference: Tensor) -> None:
    known = set(_digests(reference))
    shared = sum(digest in known for digest in _digests(floor))
    if 2 * shared > floor.shape[0]:  # a few duplicates are in many data sets; most of them is a mistake
        raise ValueError(
            f"'floor' must be other real images than 'reference', got {shared} of {floor.shape[0]} rows that are in "
            "both; the floor of images against themselves is zero and says nothing"
        )


def _distance(fake: Moments, half: float | None, real: Moments, other: Moments | None) -> dict[str, Metric]:
    """The Frechet distance, +- half; other: the moments of as many real images, for the floor."""
    value, n = frechet(fake, real), fake.n
    floor = None if other is None else frechet(other, real)
    low, high = (None, None) if half is None else (max(0.0, value - half), value + half)
    about = f"squared Frechet distance of LeNet features, {n} samples against {real.n} real images; not an FID"
    return {f"fd_lenet_{n}": Metric(value, floor, low, high, "", "lower", n, about)}


def _distribution(fake: Tensor, moments: Moments, real: Tensor, other: Tensor | None) -> dict[str, Metric]:
    """Frechet distance and PRDC of features `fake` (n, d), with their moments, against `real` (m, d), with `other`
    (n, d) for the floors."""
    n, m = fake.shape[0], real.shape[0]
    against = Moments.of(real)
    half = bootstrap_half(n, lambda rows: frechet(Moments.of(fake[rows]), against))
    scores, k = prdc(fake, real, _NEIGHBOURS), _NEIGHBOURS
    best = None if other is None else prdc(other, real, _NEIGHBOURS)
    return {
        **_distance(moments, half, against, None if other is None else Moments.of(other)),
        "precision": share_metric(
            scores.precision, n, best and best.precision, "higher", f"share of samples in a real image's {k}-NN ball"
        ),
        "recall": share_metric(
            scores.recall, m, best and best.recall, "higher", f"share of real images in a sample's {k}-NN ball"
        ),
        "density": mean_metric(
            scores.balls,
            best and best.density,
            "",
            "higher",
            f"real {k}-NN balls that a sample is in, over {k}, on average",
        ),
        "coverage": share_metric(
            scores.coverage,
            m,
            best and best.coverage,
            "higher",
            f"share of real images with a sample in their {k}-NN ball",
        ),
    }


def _copying(samples: Tensor, train: Tensor, held_out: Tensor) -> dict[str, Metric]:
    if held_out.shape[0] < _LEAST_HELD:
        raise ValueError(
            f"'held_out' needs at least {_LEAST_HELD} real images that are not in 'train', got {held_out.shape[0]}; "
            "pass them, or train=None to leave memorisation out"
        )
    found = memorisation(samples, train, held_out)
    n, m = samples.shape[0], train.shape[0]
    distances, median = found.distances, found.held_median
    half = bootstrap_half(n, lambda rows: float(distances[rows].quantile(0.5)) / median)
    about = (
        f"median distance to the nearest of {m} training images, over that of {held_out.shape[0]} unseen real images"
    )
    return {
        "memorisation_ratio": Metric(
            found.ratio, 1.0, max(0.0, found.ratio - half), found.ratio + half, "", "higher", n, about
        ),
        "memorisation_fraction": share_metric(
            found.fraction,
            n,
            QUANTILE,
            "lower",
            f"share of samples nearer to a training image than {QUANTILE:.0%} of unseen real images are",
        ),
    }


def _floor_features(classifier: LeNet, floor: Tensor, reference: Tensor, n: int) -> Tensor:
    """The features of the first n images of `floor`, which must be others than `reference`."""
    check_images("floor", floor, tuple(reference.shape[1:]))
    if floor.shape[0] < n:
        raise ValueError(
            f"'floor' needs at least {n} rows, as many as 'samples', got {floor.shape[0]}: distances depend on the "
            f"number of rows; pass {floor.shape[0]} samples, or floor=None"
        )
    _check_disjoint(floor[:n], reference)
    return features(classifier, floor[:n])


def evaluate_moments(
    parts: Sequence[Moments], reference: Tensor, floor: Tensor | None, classifier: LeNet
) -> dict[str, Metric]:
    """The Frechet distance from the moments of the samples' features alone.

    parts: those of equal shares of the samples, such as shards, 2 samples or more in all; their order is part of the
        answer, to rounding. reference, floor, classifier: see `evaluate_samples`.

    The interval is that of a bootstrap of whole parts: samples are independent, so it estimates what one of samples
    would. Of fewer than 8 parts there is none.
    """
    check_images("reference", reference, least=2)
    total = Moments.fold(parts)
    with one_thread():
        real = Moments.of(features(classifier, reference))
        other = None if floor is None else Moments.of(_floor_features(classifier, floor, reference, total.n))
        half = None
        if len(parts) >= _LEAST_PARTS:
            half = bootstrap_half(len(parts), lambda rows: frechet(Moments.fold(parts[k] for k in rows.tolist()), real))
    return _distance(total, half, real, other)


def evaluate_samples(
    samples: Tensor,
    labels: Tensor | None,
    reference: Tensor,
    floor: Tensor | None,
    train: Tensor | None,
    classifier: LeNet,
    *,
    accuracy: float | None = None,
    held_out: Tensor | None = None,
    moments: Moments | None = None,
) -> dict[str, Metric]:
    """Score generated images; every number is a function of the arguments alone.

    samples: (n, C, H, W), n >= 6, clamped to [-1, 1] first, as saving them would. labels: (n,) int64, what each was
        asked to be, or None: then there is no `label_agreement`.
    reference: (m, C, H, W) real images in [-1, 1], m >= 6. floor: at least n other real images, of which the first n
        are scored as if they were samples (so not sorted by class); None leaves the floors out.
    train: the images that the model was trained on; None leaves memorisation out.
    classifier: trained on real images. accuracy: its accuracy on held-out images, the floor of `label_agreement`.
    held_out: at least 100 real images that are not in `train`; None takes those of `reference` and `floor`.
    moments: of the samples' features, if they are known; else they are computed here.

    Returns fd_lenet_{n}, precision, recall, density, coverage, label_agreement, memorisation_ratio and
    memorisation_fraction. ValueError names the argument that is empty, too short, not finite or of another shape.
    """
    shape = tuple(reference.shape[1:])
    least = _NEIGHBOURS + 1  # as many as have `_NEIGHBOURS` neighbours
    check_images("reference", reference, least=least)
    check_images("samples", samples, shape, least=least, scaled=False)
    n = samples.shape[0]
    if labels is not None:
        check_labels("labels", labels, n, classifier.classes)
    samples = samples.clamp(-1.0, 1.0)
    other = None
    if floor is not None:
        other = _floor_features(classifier, floor, reference, n)
    with one_thread():  # sums over rows must not be split by the number of cores
        fake = features(classifier, samples)
        result = _distribution(fake, moments or Moments.of(fake), features(classifier, reference), other)
        if labels is not None:
            agreement = float((logits(classifier, samples).argmax(1) == labels.cpu()).double().mean())
            about = "share of samples that the classifier takes for what they were asked to be"
            result["label_agreement"] = share_metric(agreement, n, accuracy, "higher", about)
        if train is not None:
            check_images("train", train, shape)
            if held_out is None:
                real = reference if floor is None else torch.cat([reference, floor])
                held_out = _unseen(real, train)
            result |= _copying(samples, train, held_out)
    return result


def evaluate_reconstruction(images: Tensor, reconstructions: Tensor) -> dict[str, Metric]:
    """Score a codec on held-out images: both (n, C, H, W), images in [-1, 1].

    Returns reconstruction_mse and reconstruction_psnr; their floors, what a lossless codec gets, are 0 and None.
    """
    errors = squared_errors(images, reconstructions.clamp(-1.0, 1.0))
    mse = mean_metric(errors, 0.0, "", "lower", "mean squared error per value, images in [-1, 1]")
    about = "peak signal-to-noise ratio 10 log10(4 / mse) of the whole set"
    low, high = (None if end is None else psnr(end) for end in (mse.high, mse.low))  # a larger error, a lower ratio
    return {
        "reconstruction_mse": mse,
        "reconstruction_psnr": Metric(psnr(mse.value), None, low, high, "dB", "higher", mse.n, about),
    }


def evaluate_translation(
    images: Tensor, translations: Tensor, cycles: Tensor, mean: Tensor, truth: Tensor | None
) -> dict[str, Metric]:
    """Score translations of held-out images: mean absolute differences, all (n, C, H, W) in [-1, 1].

    cycles: what comes back of the translations. mean: for each row, the mean image of its domain, which whoever knows
    nothing of the image would answer. truth: what each image is in the other domain, None = not known.

    Returns cycle_error and, for comparison, cycle_error_of_mean; translation_error and translation_error_of_none, that
    of images as they are, if there is a truth.
    """

    def error(a: Tensor, b: Tensor, floor: float | None, about: str) -> Metric:
        values = (a.double() - b.double()).abs().flatten(1).mean(1)
        return mean_metric(values, floor, "", "lower", f"mean absolute difference per value, of {about}")

    check_images("images", images)
    for name, other in (("translations", translations), ("cycles", cycles), ("mean", mean), ("truth", truth)):
        if other is not None and other.shape != images.shape:
            raise ValueError(f"'{name}' must have the shape {tuple(images.shape)}, got {tuple(other.shape)}")
    found = {
        "cycle_error": error(cycles, images, 0.0, "held-out images and what comes back of their translations"),
        "cycle_error_of_mean": error(mean, images, None, "the mean image and held-out images, for comparison"),
    }
    if truth is not None:
        found["translation_error"] = error(translations, truth, 0.0, "translations and what the images truly are there")
        found["translation_error_of_none"] = error(
            images, truth, None, "untranslated images and what they truly are there, for comparison"
        )
    return found


def evaluate_bits(bits: Tensor, about: str) -> dict[str, Metric]:
    """What a likelihood is on held-out data: bits (n,) for an element of each. Returns bits_per_dim.

    There is no floor: nobody knows the entropy of images.
    """
    if not bits.numel() or not bits.isfinite().all():
        raise ValueError(f"'bits' must be finite numbers, one or more, got {bits.numel()}, not all of them finite")
    about = f"bits for an element of held-out data: {about}"
    return {"bits_per_dim": mean_metric(bits, None, "", "lower", about, least=-math.inf)}  # a density has less than 0
