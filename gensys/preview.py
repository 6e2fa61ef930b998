"""The picture of a run's progress: samples from fixed seeds, or originals beside their reconstructions."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gensys.core import Codec, Generative
from gensys.noise import Noise
from gensys.pictures import grid, pairs, save_png, to_uint8
from gensys.run import Run

__all__ = ["draw", "labels_for"]

_COLUMNS, _ROWS = 10, 4
_PREVIEW_IDS = 1 << 48  # far from the ids that anyone samples, so that no preview is part of an evaluated set


def labels_for(ids: Tensor, classes: int, label: int | None = None) -> dict[str, Tensor]:
    """The condition of samples: every class in turn, or one label for all; {} for an unconditional model."""
    if not classes:
        return {}
    return {"label": ids % classes if label is None else torch.full_like(ids, label)}


@torch.no_grad()
def draw(model: Generative, run: Run, path: Path) -> None:
    """Write a PNG of 40 samples, or of 20 held-in images above their reconstructions for a codec."""
    device = next(model.parameters()).device
    if isinstance(model, Codec):
        rows = run.rows[: _COLUMNS * _ROWS // 2]
        x = run.source.batch(rows, Noise(run.settings.seed, rows)).x.to(device)
        decoded = model.decode(model.encode(x).mode)
        images = pairs(x, decoded, _COLUMNS)
    else:
        ids = _PREVIEW_IDS + torch.arange(_COLUMNS * _ROWS, device=device)
        images = model.sample(labels_for(ids - _PREVIEW_IDS, len(run.source.classes)), Noise(run.settings.seed, ids))
    if images.ndim == 4 and images.shape[1] in (1, 3):
        save_png(grid(to_uint8(images).cpu(), _COLUMNS, scale=2), path)
