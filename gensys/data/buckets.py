"""Images of many aspect ratios: every image goes to the bucket whose shape is nearest, a batch holds one bucket.

Which bucket a step trains on, and which of its images, is a function of (seed, step) alone, so every worker computes
the same plan and none waits for another. Time is cut into cycles. Bucket k, of n_k images, is a stream of epochs of its
own; after c cycles it has given floor(c n_k / batch) batches, so in the long run every image is seen equally often,
nothing is padded and nothing is dropped. The batches of a cycle come in shuffled order.

Bucketing by aspect ratio: Podell et al., 2023, "SDXL: improving latent diffusion models for high-resolution image
synthesis", arXiv:2307.01952, section 2.3 and appendix I; the plan is gensys's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gensys.data import order

__all__ = ["Plan", "assign", "cropped", "shapes"]

Shape = tuple[int, int]
_KEYS = 48  # bits below those that tell the orders of different buckets apart; a run's seed has 43
_OF_CYCLES = (1 << 16) - 1  # the key of the order of buckets: no plan has so many of them


def shapes(side: int, step: int, ratio: float = 2.0) -> tuple[Shape, ...]:
    """The shapes (height, width) of the buckets for images of about side x side pixels, tallest first.

    step: what height and width are multiples of (the codec's factor, or that times the patch). ratio: the largest of
    long to short side. For every height there is the width that makes the area largest within side^2.
    Raises ValueError if a number is out of range.
    """
    if step < 1 or side < step or side % step:
        raise ValueError(f"'side' must be a positive multiple of 'step', got {side} and {step}")
    if not ratio >= 1.0:
        raise ValueError(f"'ratio' must be at least 1, got {ratio}")
    found: list[Shape] = []
    for height in range(step, side * side // step + 1, step):
        width = side * side // height // step * step
        if width and max(height, width) <= ratio * min(height, width):
            found.append((height, width))
    widest = {width: (height, width) for height, width in found}  # of equal widths the tallest loses the least
    return tuple(sorted(widest.values(), key=lambda shape: shape[1] / shape[0]))


def assign(sizes: npt.NDArray[np.int64], buckets: Sequence[Shape], least: int = 1) -> npt.NDArray[np.int64]:
    """The bucket of every image, (n,) int64: the one nearest in the logarithm of the aspect ratio.

    sizes: (n, 2), height and width. least: a bucket that would get fewer images is closed, the smallest first, and its
    images go to the nearest that is left: a batch of one image's copies teaches little. The last bucket stays open.
    """
    if sizes.ndim != 2 or sizes.shape[1] != 2 or not len(buckets) or (sizes < 1).any():
        raise ValueError(f"'sizes' must be (n, 2) of positive numbers and 'buckets' not empty, got {sizes.shape}")
    ratios = np.log(np.array([width / height for height, width in buckets]))
    distance = np.abs(np.log(sizes[:, 1] / sizes[:, 0])[:, None] - ratios)
    while True:
        nearest = distance.argmin(1)
        counts = np.bincount(nearest, minlength=len(buckets))
        small = np.flatnonzero((counts > 0) & (counts < least))
        if not small.size or np.count_nonzero(counts) == 1:
            return nearest
        distance[:, small[counts[small].argmin()]] = np.inf


def cropped(sizes: npt.NDArray[np.int64], shape: Shape) -> npt.NDArray[np.float64]:
    """The share of each image's area that is cut off to give it the aspect ratio of `shape`, (n,) in [0, 1)."""
    ratio = sizes[:, 1] / sizes[:, 0] * (shape[0] / shape[1])
    return 1.0 - np.minimum(ratio, 1.0 / ratio)


@dataclass(frozen=True)
class Plan:
    """Which rows every step trains on. counts: images in each bucket, at least one somewhere; 0 = an empty bucket."""

    seed: int
    batch: int
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if (
            not 0 <= self.seed < 1 << _KEYS
            or self.batch < 1
            or min(self.counts, default=-1) < 0
            or not any(self.counts)
        ):
            raise ValueError(
                f"'seed' must lie in [0, 2^{_KEYS}), 'batch' be positive, 'counts' hold images, got {self}"
            )
        if len(self.counts) > _OF_CYCLES:
            raise ValueError(f"'counts' must hold at most {_OF_CYCLES} buckets, got {len(self.counts)}")

    def _given(self, cycle: int) -> list[int]:
        """The batches that each bucket has given before `cycle` starts."""
        return [cycle * count // self.batch for count in self.counts]

    def at(self, step: int) -> tuple[int, Tensor]:
        """(bucket, places): the bucket of `step`, and (batch,) int64 places in the list of its images."""
        if step < 0:
            raise ValueError(f"'step' must not be negative, got {step}")
        cycle = self._cycle(step)
        before, after = self._given(cycle), self._given(cycle + 1)
        length = sum(after) - sum(before)
        place = int(order.rows(self.seed + (_OF_CYCLES << _KEYS), cycle * length + step - sum(before), 1, length))
        ends = list(accumulate(end - begin for begin, end in zip(before, after, strict=True)))
        bucket = next(k for k, end in enumerate(ends) if place < end)
        number = after[bucket] - (ends[bucket] - place)
        return bucket, order.rows(self.seed + (bucket << _KEYS), number, self.batch, self.counts[bucket])

    def _cycle(self, step: int) -> int:
        """The cycle that holds `step`: the last one before which no more than `step` batches were given."""
        # Rounding down loses less than one batch a bucket, so this many cycles hold more than `step` batches.
        low, high = 0, -(-(step + len(self.counts) + 1) * self.batch // sum(self.counts)) + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if sum(self._given(middle)) <= step else (low, middle)
        return low
