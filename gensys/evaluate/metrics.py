"""One call that scores images: samples, reconstructions, translations. What a score is: metric.py.

The floor is what other real images get under the same protocol. Intervals hold the classifier fixed, and the real
images but where a metric's `about` says otherwise: they say what other samples of this model would give.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gensys.evaluate.authenticity import authenticity
from gensys.evaluate.checks import check_images, check_labels, one_thread
from gensys.evaluate.distribution import NEIGHBOURS, distance, evaluate_features, see, whole_sets
from gensys.evaluate.diversity import Compare, beside_real, diversity, feature_distance, similarity
from gensys.evaluate.extractors import Extractor, keyed, lenet
from gensys.evaluate.frechet import Moments, frechet
from gensys.evaluate.memorisation import QUANTILE, memorisation
from gensys.evaluate.metric import Metric, Z, bootstrap_half, mean_metric, proportion_interval, share_metric
from gensys.evaluate.perceptual import perceptual_distance
from gensys.evaluate.reconstruction import psnr, squared_errors
from gensys.evaluate.ssim import most_scales, ms_ssim, ssim
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

_PARTS, _PAIRS = 10, 100  # of the samples, for an interval; of each class, that are compared
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


def check_floor(floor: Tensor, reference: Tensor, n: int) -> None:
    """`floor` must hold n images or more, shaped like `reference` and others. Raises: ValueError."""
    check_images("floor", floor, tuple(reference.shape[1:]))
    if floor.shape[0] < n:
        raise ValueError(
            f"'floor' needs at least {n} rows, as many as 'samples', got {floor.shape[0]}: distances depend on the "
            f"number of rows; pass {floor.shape[0]} samples, or floor=None"
        )
    _check_disjoint(torch.cat(whole_sets(floor, n)), reference)


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
    total, extractor = Moments.fold(parts), lenet(classifier)
    if floor is not None:
        check_floor(floor, reference, total.n)
    with one_thread():
        real = Moments.of(extractor.features(reference))
        others = [] if floor is None else [Moments.of(extractor.features(x)) for x in whole_sets(floor, total.n)]
        half = None
        if len(parts) >= _LEAST_PARTS:
            half = bootstrap_half(len(parts), lambda rows: frechet(Moments.fold(parts[k] for k in rows.tolist()), real))
    return distance(extractor, total, half, real, others)


def evaluate_labels(asked: Tensor, found: Tensor, accuracy: float | None) -> dict[str, Metric]:
    """label_agreement: asked (n,) int64, what each sample was to be; found (n, classes), a classifier's logits.
    accuracy: the classifier's on held-out images, the floor."""
    check_labels("labels", asked, found.shape[0], found.shape[1])
    agreement = float((found.argmax(1) == asked.cpu()).double().mean())
    about = "share of samples that the classifier takes for what they were asked to be"
    return {"label_agreement": share_metric(agreement, found.shape[0], accuracy, "higher", about)}


def evaluate_copying(
    samples: Tensor,
    train: Tensor,
    held_out: Tensor,
    seen: tuple[Tensor, Tensor, Tensor] | None = None,
    name: str = "",
) -> dict[str, Metric]:
    """Are samples (n, C, H, W) nearer to the training images than unseen real ones, at least 100, are?

    seen: the features of the three, and `name` the extractor's, for `authenticity` in them; its floor is what held-out
    images have.

    Returns memorisation_ratio, memorisation_fraction, and authenticity if there are features.
    """
    found = _copying(samples, train, held_out)
    if seen is not None:
        fake, known, unseen = seen
        with one_thread():
            share, floor = authenticity(fake, known).share, authenticity(unseen, known).share
        about = f"share of samples whose nearest training image, in {name} features, has a nearer one than the sample"
        found["authenticity"] = share_metric(share, fake.shape[0], floor, "higher", about)
    return found


def evaluate_diversity(
    samples: Tensor, fake: Tensor, labels: Tensor | None, real: Tensor, other: Tensor, known: Tensor | None, name: str
) -> dict[str, Metric]:
    """How different samples of one class are, beside real images of it: in features, and as images.

    samples, real: images. fake, other: their features, by the extractor `name`. labels, known: their classes, both None
    = all are of one class. Intervals are by the spread over ten parts of the samples, where each class has 20. Returns
    diversity_NAME and, of images of 11 pixels or more, ms_ssim_within.
    """
    scales = most_scales(min(samples.shape[2:]))
    within = "of one class" if labels is not None else "of any class"
    found: dict[str, Metric] = {}
    with one_thread():
        if scales:
            about = f"mean MS-SSIM of {scales} scales of two samples {within}"
            found["ms_ssim_within"] = _within(samples, labels, real, known, similarity(scales), about)
        about = f"mean distance of the {name} features of two samples {within}"
        found[f"diversity_{keyed(name)}"] = _within(fake, labels, other, known, feature_distance, about)
    return found


def _within(
    rows: Tensor,
    labels: Tensor | None,
    real: Tensor,
    known: Tensor | None,
    compare: Compare,
    about: str,
) -> Metric:
    mine, theirs = beside_real(rows, labels, real, known, compare)
    low = high = None
    marks = torch.zeros(rows.shape[0], dtype=torch.int64) if labels is None else labels
    places = _places(marks)
    kept = torch.isin(marks, torch.tensor(mine.classes))
    if int(marks[kept].bincount()[marks[kept].unique()].min()) >= 2 * _PARTS:  # two of every class in each part
        parts = [(places % _PARTS == k) & kept for k in range(_PARTS)]
        values = [diversity(rows[part], marks[part], compare, pairs=_PAIRS // _PARTS).mean for part in parts]
        half = Z * float(torch.tensor(values, dtype=torch.float64).std()) / math.sqrt(_PARTS)
        low, high = max(0.0, mine.mean - half), mine.mean + half
    else:
        about += f"; no interval: a class has fewer than {2 * _PARTS} samples"
    return Metric(mine.mean, theirs.mean, low, high, "", "nearer", rows.shape[0], about)


def _places(labels: Tensor) -> Tensor:
    """How many rows of its class are before each row: (n,)."""
    order = labels.argsort(stable=True)
    counts = labels[order].bincount()
    places = torch.empty_like(labels)
    places[order] = torch.arange(labels.shape[0]) - (counts.cumsum(0) - counts)[labels[order]]
    return places


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
) -> dict[str, Metric]:
    """Score generated images with a classifier's features; every number is a function of the arguments alone.

    samples: (n, C, H, W), n >= 6, clamped to [-1, 1] first, as saving them would. labels: (n,) int64, what each was
        asked to be, or None: then there is no `label_agreement`.
    reference: (m, C, H, W) real images in [-1, 1], m >= 6. floor: at least n other real images, of which every n
        are scored as if they were samples (so not sorted by class); None leaves the floors out.
    train: the images that the model was trained on; None leaves memorisation out.
    classifier: trained on real images. accuracy: its accuracy on held-out images, the floor of `label_agreement`.
    held_out: at least 100 real images that are not in `train`; None takes those of `reference` and `floor`.

    Returns what `evaluate_features`, `evaluate_labels` and `evaluate_copying` do, without authenticity. ValueError
    names the argument that is empty, too short, not finite or of another shape.
    """
    shape, extractor = tuple(reference.shape[1:]), lenet(classifier)
    least = NEIGHBOURS + 1  # as many as have `NEIGHBOURS` neighbours
    check_images("reference", reference, least=least)
    check_images("samples", samples, shape, least=least, scaled=False)
    n = samples.shape[0]
    if labels is not None:
        check_labels("labels", labels, n, classifier.classes)
    samples = samples.clamp(-1.0, 1.0)
    if floor is not None:
        check_floor(floor, reference, n)
    fake, real = see(extractor, samples), see(extractor, reference)
    other = None if floor is None else see(extractor, floor)
    result = evaluate_features(extractor, fake, real, other)
    if labels is not None and fake.logits is not None:
        result |= evaluate_labels(labels, fake.logits, accuracy)
    if train is not None:
        check_images("train", train, shape)
        if held_out is None:
            held_out = _unseen(reference if floor is None else torch.cat([reference, floor]), train)
        with one_thread():
            result |= evaluate_copying(samples, train, held_out)
    return result


def evaluate_reconstruction(
    images: Tensor, reconstructions: Tensor, extractor: Extractor | None = None
) -> dict[str, Metric]:
    """Score a codec on held-out images: both (n, C, H, W), images in [-1, 1].

    Returns reconstruction_mse, reconstruction_psnr and, of 11 pixels or more, reconstruction_ssim and
    reconstruction_ms_ssim; reconstruction_perceptual_NAME if there is an extractor that has maps. Their floors are what
    a lossless codec gets, of the ratio none.
    """
    decoded = reconstructions.clamp(-1.0, 1.0)
    errors = squared_errors(images, decoded)
    mse = mean_metric(errors, 0.0, "", "lower", "mean squared error per value, images in [-1, 1]")
    about = "peak signal-to-noise ratio 10 log10(4 / mse) of the whole set"
    low, high = (None if end is None else psnr(end) for end in (mse.high, mse.low))  # a larger error, a lower ratio
    found = {
        "reconstruction_mse": mse,
        "reconstruction_psnr": Metric(psnr(mse.value), None, low, high, "dB", "higher", mse.n, about),
    }
    with one_thread():
        if scales := most_scales(min(images.shape[2:])):
            about = "mean structural similarity, 11 x 11 window; 1 = equal"
            found["reconstruction_ssim"] = mean_metric(ssim(images, decoded), 1.0, "", "higher", about, least=-1.0)
            about = f"mean structural similarity at {scales} scales; 1 = equal"
            values = ms_ssim(images, decoded, scales=scales).values
            found["reconstruction_ms_ssim"] = mean_metric(values, 1.0, "", "higher", about)
        if extractor is not None and extractor.layers is not None:
            pairs = zip(images.split(extractor.batch), decoded.split(extractor.batch), strict=True)
            # a batch at a time: the maps of an image may be a megabyte
            values = torch.cat([perceptual_distance(extractor.maps(x), extractor.maps(y)) for x, y in pairs])
            about = f"mean perceptual distance in {extractor.name} features, unit weights; 0 = equal"
            found[f"reconstruction_perceptual_{extractor.key}"] = mean_metric(values, 0.0, "", "lower", about)
    return found


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
