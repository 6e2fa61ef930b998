"""Score images against real ones: samples, reconstructions, translations."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gensys.pipelines.features import Named, seen_of_real, seen_of_samples
from gensys.pipelines.moments import images_of, read_moments
from gensys.pipelines.real import (
    Real,
    about_data,
    held_out,
    images,
    judge_of,
    protocol_of,
    reference_of,
    told_of_shares,
)
from torch import Tensor

from gensys.core import Codec
from gensys.data.source import Source, image_shape
from gensys.data.store import Store
from gensys.data.unpaired import Unpaired
from gensys.errors import ConfigError, RunError
from gensys.evaluate.classifier import Judge
from gensys.evaluate.clip import evaluate_clip, open_clip, open_head
from gensys.evaluate.distribution import DISTRIBUTION, NEIGHBOURS, Seen, evaluate_features
from gensys.evaluate.extractors import Extractor, lenet, opened
from gensys.evaluate.memorisation import HeldOutIsKnown
from gensys.evaluate.metric import Metric
from gensys.evaluate.metrics import (
    evaluate_copying,
    evaluate_diversity,
    evaluate_labels,
    evaluate_moments,
    evaluate_reconstruction,
    evaluate_translation,
)
from gensys.pictures import beneath, grid, save_png, to_uint8
from gensys.progress import Screen
from gensys.run_folder import RunFolder

__all__ = ["METRICS", "Asked", "Subject", "evaluate_codec", "evaluate_images", "evaluate_quickly"]

METRICS = (*DISTRIBUTION, "labels", "memorisation", "diversity", "reconstruction")
"""What may be asked for by name."""

LENET = "lenet"
_LEAST_HELD_OUT = 100  # as many as the 1 % quantile of their distances needs

Scores = tuple[dict[str, Metric], dict[str, Any], list[str]]
"""The metrics, the protocol, and what is left out and why."""


@dataclass(frozen=True)
class Asked:
    """How images are scored. metrics: some of `METRICS`, () = all. features: "lenet", the classifier that is trained on
    the data, or an extractor as `extractors.opened` has it. reference: the real data, if not the run's own, as a recipe
    takes them. workers: who take the features of samples, 0 = this process. clip: the folder of an encoder of images
    and texts, aesthetic: the file of a head on it, prompt: the text of a class, {} = its name; see evaluate/clip.py."""

    metrics: tuple[str, ...] = ()
    features: str = LENET
    reference: str | None = None
    workers: int = 0
    clip: str | None = None
    aesthetic: str | None = None
    prompt: str = "a photo of {}"

    def check(self) -> None:
        """Raises: ConfigError for metrics that there are not."""
        for name in self.metrics:
            if name not in METRICS:
                raise ConfigError(f"'metrics' names {name!r}, and there are {', '.join(METRICS)}")
        if self.clip is None and (self.aesthetic is not None or self.prompt != Asked.prompt):
            raise ConfigError("--aesthetic and --prompt need an encoder of images and texts: name its folder, --clip")
        if "{}" not in self.prompt:
            raise ConfigError(f"'prompt' must have {{}} where the name of the class belongs, got {self.prompt!r}")

    def require_none(self, by: str, but: Collection[str] = ()) -> None:
        """Refuse what has no effect, all but some. Raises: ConfigError, which says that of `by`."""
        for field in fields(self):
            if field.name not in but and getattr(self, field.name) != field.default:
                raise ConfigError(f"--{field.name} has no effect on {by}: leave it out")

    def words(self) -> list[str]:
        """Options of the command line that say the same, but for the number of workers: nothing depends on it."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        given.pop("workers", None)
        texts = ((name, ",".join(value) if isinstance(value, tuple) else value) for name, value in given.items())
        return [word for name, value in texts for word in (f"--{name}", value)]

    def wants(self, name: str) -> bool:
        return not self.metrics or name in self.metrics


@dataclass(frozen=True)
class Subject:
    """Samples, the run that drew them, its real data, the codec between them, if any; own: they are the run's own."""

    store: Store
    folder: RunFolder
    source: Source
    codec: Codec | None
    own: bool

    @property
    def judges(self) -> Path:
        return self.folder.path / "judge"

    @cached_property
    def samples(self) -> Tensor:
        """All of them, in [-1, 1]."""
        return images_of(self.store.read("x", np.arange(len(self.store))))

    @cached_property
    def labels(self) -> Tensor:
        """What each was asked to be, -1 = nothing: also of a model that does not hear it."""
        if "label" not in self.folder.spec().model().conditions:
            return torch.full((len(self.store),), -1)
        return torch.from_numpy(self.store.read("label", np.arange(len(self.store))))

    def explained(self, error: ValueError) -> RunError:
        """Too few rows, or values that are no images: the message names which."""
        return RunError(f"{str(self.store.path)!r} cannot be scored: {error}")


def evaluate_images(subject: Subject, asked: Asked, screen: Screen) -> Scores:
    """Score samples. Raises: RunError where they cannot be, ConfigError for what does not fit."""
    store, source, n = subject.store, subject.source, len(subject.store)
    reference = reference_of(source, asked.reference)
    left_out: list[str] = []
    leave_out = left_out.append
    judged = _judge(subject, asked, screen, leave_out)
    named = Named(asked.features, str(subject.judges), judged.weights if judged else "", image_shape(source))
    extractor = _open(named, judged, source)
    real, own = Real.choose(reference, n), Real.choose(source, n)
    if real.floor is None:
        leave_out(f"no floors: {n} samples need {n} more real images than the reference has; sample fewer to get them")
    held = NEIGHBOURS + 1
    if n < held or len(real.reference) < held:
        raise RunError(
            f"{str(store.path)!r} cannot be scored: {held} samples and {held} real images are the least, got {n} and "
            f"{len(real.reference)}; draw more"
        )
    seen = seen_of_samples(store, named, extractor, workers=asked.workers, screen=screen)

    def of(data: Source, rows: Tensor) -> Seen:
        return seen_of_real(data, rows, extractor, subject.judges)

    metrics: dict[str, Metric] = {}
    with screen.phase("evaluate", n, "samples") as phase:
        try:
            other = None if real.floor is None else of(reference, real.floor)
            only = [name for name in DISTRIBUTION if asked.wants(name)]
            metrics |= evaluate_features(extractor, seen, of(reference, real.reference), other, only)
            metrics |= _of_classes(subject, asked, seen, extractor, judged, real, reference, of, leave_out)
            if asked.wants("memorisation"):
                metrics |= _copying(subject, own, seen, extractor, of, leave_out)
        except ValueError as error:
            raise subject.explained(error) from error
        if asked.wants("reconstruction") and subject.codec is not None:
            if len(own.test):
                picture = subject.folder.path / "reconstructions.png" if subject.own else None
                metrics |= _reconstruct(subject.codec, source, picture, extractor)
            else:
                leave_out("no reconstruction: there are no held-out images")
        if asked.clip is not None:
            metrics |= _clip(subject, asked, asked.clip, real, reference, leave_out)
        if isinstance(source, Unpaired):
            translated, missing = _translate(store, source)
            metrics |= translated
            left_out += missing
        phase.update(n)
    protocol = protocol_of(store, subject.folder, reference, judged, real)
    protocol |= {"features": f"{extractor.name}, sha256 {extractor.weights[:16]}"}
    if asked.clip is not None:
        protocol |= {"prompt": asked.prompt}
    return metrics, protocol, left_out


def _judge(subject: Subject, asked: Asked, screen: Screen, leave_out: Callable[[str], None]) -> Judge | None:
    """The classifier of the data; None where nothing asks for it, or there can be none and features are another's."""
    agreement = asked.wants("labels") and bool((subject.labels >= 0).all())
    if asked.features != LENET and not agreement:
        return None
    try:
        with screen.phase("train the classifier", 1, "steps"):
            return judge_of(subject.source, subject.judges)
    except RunError as error:
        if asked.features == LENET:
            raise RunError(f"{error}; or compare in other features: --features efficientnet-lite0") from error
        leave_out(f"no label agreement: {error}")
        return None


def _open(named: Named, judged: Judge | None, source: Source) -> Extractor:
    return lenet(judged.classifier) if named.name == LENET and judged else opened(named.name, image_shape(source))


def _of_classes(
    subject: Subject,
    asked: Asked,
    seen: Seen,
    extractor: Extractor,
    judged: Judge | None,
    real: Real,
    reference: Source,
    of: Callable[[Source, Tensor], Seen],
    leave_out: Callable[[str], None],
) -> dict[str, Metric]:
    """Label agreement and diversity within classes, or among all where there are none."""
    found: dict[str, Metric] = {}
    labels = subject.labels
    labelled = bool((labels >= 0).all())
    if asked.wants("labels") and not labelled:
        leave_out("no label agreement: the samples were drawn without labels")
    elif asked.wants("labels") and judged is not None:
        logits = seen.logits if asked.features == LENET else lenet(judged.classifier).logits(subject.samples)
        assert logits is not None  # a classifier's
        found |= evaluate_labels(labels, logits, judged.accuracy)
    x, known = images(reference, real.reference)
    alike = reference.classes == subject.source.classes  # of others the numbers mean something else
    within = labelled and alike and bool((known >= 0).all())
    if within:
        for told in told_of_shares(labels, known):
            leave_out(told)
    if asked.wants("diversity"):
        marks = (labels, known) if within else (None, None)
        if within and not set(labels.unique().tolist()) & set(known.unique().tolist()):
            leave_out("no diversity: the reference has none of the classes of the samples")
        else:
            try:
                pair = (subject.samples, seen.features, marks[0], x, of(reference, real.reference).features, marks[1])
                found |= evaluate_diversity(*pair, extractor.name)
            except ValueError as error:  # no class with two rows
                leave_out(f"no diversity: {error}")
    return found


def _clip(
    subject: Subject,
    asked: Asked,
    folder: str,
    real: Real,
    reference: Source,
    leave_out: Callable[[str], None],
) -> dict[str, Metric]:
    """Scores by an encoder of images and texts; a class is told by the prompt."""
    head = None if asked.aesthetic is None else open_head(asked.aesthetic)
    x, known = images(reference, real.reference)
    names, labels = subject.source.classes, subject.labels
    texts = told = None
    if not (names == reference.classes and names and bool((labels >= 0).all()) and bool((known >= 0).all())):
        leave_out("no clip score: samples and real images need labels, of the same classes")
    else:
        texts, told = ([asked.prompt.replace("{}", names[k]) for k in some.tolist()] for some in (labels, known))
    return evaluate_clip(open_clip(folder), subject.samples, texts, x, told, head)


def _copying(
    subject: Subject,
    real: Real,
    seen: Seen,
    extractor: Extractor,
    of: Callable[[Source, Tensor], Seen],
    leave_out: Callable[[str], None],
) -> dict[str, Metric]:
    if len(real.test) < _LEAST_HELD_OUT:
        leave_out(f"no memorisation: it needs {_LEAST_HELD_OUT} held-out images, and there are {len(real.test)}")
        return {}
    source = subject.source
    train, test = (images(source, rows)[0] for rows in (real.train, real.test))
    known, unseen = (of(source, rows).features for rows in (real.train, real.test))
    try:
        return evaluate_copying(subject.samples, train, test, (seen.features, known, unseen), extractor.name)
    except HeldOutIsKnown:
        leave_out("no memorisation: one in a hundred held-out images, or more, are training images too")
        return {}


def evaluate_quickly(subject: Subject, screen: Screen) -> Scores:
    """What the stored moments give, and what else there would be: no sample is read. RunError if there are none."""
    store, source = subject.store, subject.source
    with screen.phase("train the classifier", 1, "steps"):
        judged = judge_of(source, subject.judges)
    moments, real = read_moments(store, judged.weights), Real.choose(source, len(store))
    if isinstance(moments, str):
        raise RunError(
            f"--quick needs the moments of {str(store.path)!r}, and {moments}: give the `gensys sample` command that "
            "made it once more, with --moments"
        )
    reference, known = images(source, real.reference)
    floor = None if real.floor is None else images(source, real.floor)[0]
    with screen.phase("evaluate", len(store), "samples") as phase:
        try:
            metrics = evaluate_moments(moments, reference, floor, judged.classifier)
        except ValueError as error:
            raise subject.explained(error) from error
        phase.update(len(store))
    left_out = ["all but the Frechet distance: --quick reads no samples"]
    if any(metric.low is None for metric in metrics.values()):
        left_out.append(f"no interval: {len(moments)} shards are too few to resample; use a smaller --shard")
    left_out += told_of_shares(subject.labels, known)
    protocol = protocol_of(store, subject.folder, source, judged, real)
    return metrics, protocol | {"moments": f"of {len(moments)} shards, taken while sampling"}, left_out


def evaluate_codec(
    codec: Codec, source: Source, picture: Path, asked: Asked
) -> tuple[dict[str, Metric], dict[str, Any]]:
    """Score the reconstructions of a codec's own run; the metrics and the protocol."""
    source = reference_of(source, asked.reference)
    if asked.metrics and asked.metrics != ("reconstruction",):
        raise ConfigError("--metrics of a codec can only be 'reconstruction': it has no samples; leave it out")
    shape = image_shape(source)  # of vectors there is no picture, and what an error of theirs means depends on units
    extractor = None if asked.features == LENET else opened(asked.features, shape)
    metrics, protocol = _reconstruct(codec, source, picture, extractor), about_data(source)
    if extractor is not None:
        protocol["features"] = f"{extractor.name}, sha256 {extractor.weights[:16]}"
    return metrics, protocol


@torch.no_grad()
def _reconstruct(codec: Codec, source: Source, picture: Path | None, extractor: Extractor | None) -> dict[str, Metric]:
    """Scores of decoded held-out images, and a picture: rows of originals above rows of what came back."""
    rows = held_out(source)[:10_000]
    if not len(rows):
        raise RunError(f"{source.name!r} has no held-out images, so no reconstruction can be scored: use more images")
    x, _ = images(source, rows)
    decoded = torch.cat([codec.decode(codec.encode(part).mode) for part in x.split(64)])
    if picture is not None:
        sets = [to_uint8(some[:20]) for some in (x, decoded)]
        save_png(grid(beneath(sets, columns=10), columns=10, scale=2), picture)
    return evaluate_reconstruction(x, decoded, extractor)


def _translate(store: Store, source: Unpaired) -> tuple[dict[str, Metric], list[str]]:
    """Scores of translations, and why others are left out."""
    rows = np.arange(len(store))
    given, made, back = (images_of(store.read(name, rows)) for name in ("image", "x", "cycle"))
    target, about = torch.from_numpy(store.read("label", rows)), store.attributes
    means = torch.empty_like(given)
    for domain in target.unique():
        means[target == domain] = given[target == domain].mean(0)
    left_out = [] if source.known else ["no translation error: which images belong together is not known"]
    if "data" in about:
        left_out = ["no translation error: the images were given, and what they truly are is not known"]
    first, label = about["first"], about["label"]
    truth = None if left_out else source.truth(source.shown(first + torch.from_numpy(rows), label)[0])
    return evaluate_translation(given, made, back, means, truth), left_out
