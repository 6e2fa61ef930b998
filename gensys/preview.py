"""The picture of a run's progress: samples from fixed seeds, or originals beside their reconstructions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gensys.core import Codec, Generative, is_codec
from gensys.data.source import Source
from gensys.data.unpaired import Unpaired
from gensys.noise import Noise
from gensys.pictures import beneath, grid, save_png, to_uint8
from gensys.run import Run

__all__ = ["conditions", "draw", "labels_for", "returning"]

_COLUMNS, _ROWS = 10, 4
_PREVIEW_IDS = 1 << 48  # far from the ids that anyone samples, so that no preview is part of an evaluated set


def labels_for(ids: Tensor, classes: int, label: int | None = None) -> dict[str, Tensor]:
    """The condition of samples: every class in turn, or one label for all; {} for an unconditional model."""
    if not classes:
        return {}
    return {"label": ids % classes if label is None else torch.full_like(ids, label)}


def conditions(source: Source, ids: Tensor, label: int | None = None) -> dict[str, Tensor]:
    """The conditions of samples of a model of `source`: labels, and for a translator the held-out images to go by."""
    if isinstance(source, Unpaired):
        return source.given(ids, label)
    return labels_for(ids, len(source.classes), label)


def returning(x: Tensor, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The conditions under which a translator takes x (B, C, H, W), made under `cond`, back to the other domain."""
    return {"label": 1 - cond["label"], "image": x}


@torch.no_grad()
def draw(model: Generative, run: Run, path: Path) -> Tensor | None:
    """Write a PNG of 40 samples; of a codec, of 20 held-in images above their reconstructions; of a translator, of 20
    held-out images, above their translations, above what comes back of these.

    Returns the picture, uint8 (C, H, W); None, and nothing is written, for data that are no images.
    """
    device = next(model.parameters()).device
    if isinstance(model, Codec) and is_codec(model):
        rows = run.rows[: _COLUMNS * _ROWS // 2]
        x = run.source.batch(rows, Noise(run.settings.seed, rows)).x.to(device)
        sets = [x, model.decode(model.encode(x).mode)]
    else:
        count = _COLUMNS * _ROWS // (2 if isinstance(run.source, Unpaired) else 1)
        ids = torch.arange(count, device=device)
        cond, noise = conditions(run.source, ids), Noise(run.settings.seed, _PREVIEW_IDS + ids)
        sets = [model.sample(cond, noise)]
        if "image" in cond:
            sets = [cond["image"], *sets, model.sample(returning(sets[0], cond), noise)]
    if sets[0].ndim != 4 or sets[0].shape[1] not in (1, 3):
        return None
    sheet = grid(beneath([to_uint8(images).cpu() for images in sets], _COLUMNS), _COLUMNS, scale=2)
    save_png(sheet, path)
    return torch.from_numpy(np.atleast_3d(np.array(sheet))).permute(2, 0, 1)
