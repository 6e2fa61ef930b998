"""What every metric demands of its inputs; an error names the argument, what it got and what helps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["check_features", "check_images", "check_labels", "check_rows", "one_thread"]

_SLACK = 1e-3  # images that went through a resize or half precision may leave [-1, 1] by a hair


def check_rows(name: str, rows: Tensor, least: int, why: str) -> None:
    """ValueError unless `rows` has at least `least` rows; `why` says what they are needed for."""
    if rows.shape[0] < least:
        raise ValueError(f"'{name}' needs at least {least} rows {why}, got {rows.shape[0]}")


def _check_finite(name: str, rows: Tensor) -> None:
    bad = ~rows.flatten(1).isfinite().all(1)
    if bad.any():
        at = bad.nonzero()[:5].flatten().tolist()
        raise ValueError(
            f"'{name}' must be finite, got NaN or infinity in {int(bad.sum())} of {rows.shape[0]} rows "
            f"(first at {at}); a model that diverged cannot be scored"
        )


def check_features(name: str, features: Tensor, least: int, why: str, width: int | None = None) -> None:
    """Features must be a finite floating (n, d) tensor with n >= least, and d = width if one is given."""
    if not isinstance(features, Tensor) or features.ndim != 2 or not features.is_floating_point():
        got = f"{tuple(features.shape)} of {features.dtype}" if isinstance(features, Tensor) else type(features)
        raise ValueError(f"'{name}' must be a floating-point tensor of shape (n, d), got {got}; try .flatten(1)")
    check_rows(name, features, least, why)
    if width is not None and features.shape[1] != width:
        raise ValueError(f"'{name}' must have {width} columns as the other set has, got {features.shape[1]}")
    _check_finite(name, features)


def check_images(
    name: str, images: Tensor, shape: tuple[int, ...] | None = None, *, least: int = 1, scaled: bool = True
) -> None:
    """Images must be finite floating-point (B, C, H, W).

    shape: the (C, H, W) wanted, if any. least: the fewest rows. scaled: demand values in [-1, 1]; samples are not
    asked for that, as a sampler may overshoot.
    """
    if not isinstance(images, Tensor) or images.ndim != 4:
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images)
        raise ValueError(f"'{name}' must be a tensor of shape (B, C, H, W), got {got}")
    if not images.is_floating_point():
        raise ValueError(f"'{name}' must be floating point in [-1, 1], got {images.dtype}; try x.float() / 127.5 - 1")
    if shape is not None and tuple(images.shape[1:]) != tuple(shape):
        raise ValueError(f"'{name}' must hold images of shape {tuple(shape)}, got {tuple(images.shape[1:])}")
    check_rows(name, images, least, "to be scored")
    _check_finite(name, images)
    if scaled and float(images.abs().amax()) > 1.0 + _SLACK:
        span = f"[{float(images.amin()):.4g}, {float(images.amax()):.4g}]"
        raise ValueError(f"'{name}' must lie in [-1, 1], got {span}; scale bytes by x / 127.5 - 1")


def check_labels(name: str, labels: Tensor, rows: int, classes: int) -> None:
    """Labels must be (rows,) int64 in [0, classes)."""
    if labels.shape != (rows,) or labels.dtype != torch.int64:
        raise ValueError(f"'{name}' must be ({rows},) int64, got {tuple(labels.shape)} of {labels.dtype}")
    if rows and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"'{name}' must lie in [0, {classes}), got {int(labels.min())}..{int(labels.max())}")


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one CPU thread: a sum that is split over threads has other bits than one that is not.

    So a laptop with eight cores and a worker that was given one train the same classifier; it is too small to gain
    much from more.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
